"""What a comparison of two models' heatmaps gives back: scores, their summary, and how they are printed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xaibench.errors import ConfigError, DataError, unknown_name
from xaibench.files import write_text
from xaibench.similarity.intervals import Interval, bootstrap_mean, paired_bootstrap, speaks_for
from xaibench.similarity.metrics.table import METRICS
from xaibench.validation import checked

__all__ = ["INDEPENDENT", "PAIRINGS", "SimilarityReport"]

_LINE = 100  # characters that a line of a printed report may have
_OWN = 6  # columns of the scores themselves, before those of the nulls

INDEPENDENT = "independent student"

PAIRINGS = {
    "matched": "",
    INDEPENDENT: "independent",
    "random student": "random_student",
    "mismatched images": "mismatched",
    "shifted maps": "shifted",
}
"""Which two maps were scored -> the prefix of their columns in a summary."""


@dataclass(frozen=True, eq=False)
class SimilarityReport:
    """How alike two models' heatmaps are.

    rows   DataFrame [image, metric, pairing, value]: one score each; pairing is a key of PAIRINGS
    grid   cells a side of the pooled maps that were compared
    sign   sign mode: "signed", "absolute" or "positive"
    seed   of the mismatched pairing and of the bootstrap
    """

    rows: pd.DataFrame
    grid: int
    sign: str
    seed: int

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order they were asked for."""
        return tuple(self.rows["metric"].unique())

    def values(self, metric: str, pairing: str = "matched") -> pd.Series:
        """Scores of one metric, indexed by image key; empty for a pairing that was not scored."""
        if metric not in self.metrics:
            raise unknown_name("metric of this report", metric, self.metrics)
        if pairing not in PAIRINGS:
            raise unknown_name("pairing", pairing, PAIRINGS)
        chosen = self.rows[(self.rows["metric"] == metric) & (self.rows["pairing"] == pairing)]
        return chosen.set_index("image")["value"]

    def score(self, metric: str, pairing: str = "matched") -> Interval:
        """Mean over the images with its bootstrap 95% interval."""
        return bootstrap_mean(self.values(metric, pairing).to_numpy(), seed=self.seed)

    def lift(self, metric: str, over: str = INDEPENDENT) -> Interval:
        """Mean of (matched - null) over the images, with its paired bootstrap 95% interval.

        Over an independent student it is the likeness that the teacher has brought about.
        """
        return paired_bootstrap(self.values(metric).to_numpy(), self._null(metric, over).to_numpy(), seed=self.seed)

    @checked
    def worst(self, metric: str, k: int = 5) -> list[str]:
        """Keys of the k images with the lowest matched score, lowest first; undefined scores are left out."""
        if k < 0:
            raise ConfigError(f"k must be at least 0, got {k}: say how many of the worst images to name")
        return list(self.values(metric).dropna().sort_values(kind="stable").index[:k])

    def summary(self) -> pd.DataFrame:
        """A row a metric: mean, low, high, n, nan, chance, chance_sd, each null's mean, low and high, and the lift.

        Nulls are those of the images on which the student has a defined score. chance and chance_sd are those of one
        pair of random maps; lift is that over the independent student. What was not scored is NaN.
        """
        return self._summary.copy()

    @functools.cached_property
    def _summary(self) -> pd.DataFrame:
        records = []
        for metric in self.metrics:
            chance, sd = METRICS[metric].chance(self.grid, self.sign)
            score = self.score(metric)
            record: dict[str, Any] = {"metric": metric, "mean": score.mean, "low": score.low, "high": score.high}
            record |= {"n": score.n, "nan": score.nan, "chance": chance, "chance_sd": sd}
            for pairing, prefix in PAIRINGS.items():
                if prefix:
                    null = self._null_score(metric, pairing)
                    record |= {prefix: null.mean, f"{prefix}_low": null.low, f"{prefix}_high": null.high}
            lift = paired_bootstrap(*self._paired(metric), seed=self.seed)
            records.append(record | {"lift": lift.mean, "lift_low": lift.low, "lift_high": lift.high})
        return pd.DataFrame.from_records(records)

    def _null_score(self, metric: str, pairing: str) -> Interval:
        null, defined = self.values(metric, pairing), self.values(metric).dropna().index
        return bootstrap_mean(null[null.index.isin(defined)].to_numpy(), seed=self.seed)

    def _paired(self, metric: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        matched, null = self.values(metric), self.values(metric, INDEPENDENT)
        return matched.to_numpy(), null.reindex(matched.index).to_numpy(dtype=np.float64)

    def _null(self, metric: str, pairing: str) -> pd.Series:
        values = self.values(metric, pairing)
        if pairing == "matched" or values.empty:
            have = [p for p in self.rows["pairing"].unique() if p != "matched"]
            raise DataError(f"no scores for the null '{pairing}': this report has {', '.join(have) or 'none'}")
        return values

    def _caption(self) -> str:
        n = self.rows["image"].nunique()
        return f"{n} images, {self.grid}x{self.grid} grid, {self.sign} maps, mean and 95% interval for {speaks_for(1)}"

    def _cells(self) -> list[list[str]]:
        """Head and rows; of the nulls those that were scored."""
        summary = self.summary()
        nulls = {prefix: name for name, prefix in (*PAIRINGS.items(), ("lift", "lift")) if prefix}
        nulls = {prefix: name for prefix, name in nulls.items() if summary[prefix].notna().any()}
        cells = [["metric", "mean", "95% interval", "n", "nan", "chance", *nulls.values()]]
        for row in summary.to_dict("records"):
            interval = f"[{_number(row['low'])}, {_number(row['high'])}]"
            chance = f"{_number(row['chance'])} ± {_number(row['chance_sd'])}"
            line = [
                METRICS[row["metric"]].label,
                _number(row["mean"]),
                interval,
                str(row["n"]),
                str(row["nan"]),
                chance,
            ]
            cells.append(line + [_number(row[prefix]) for prefix in nulls])
        return cells

    def __str__(self) -> str:
        table = self._cells()
        widths = [max(map(len, column)) + 2 for column in zip(*table)]
        wide = sum(widths) > _LINE  # then the nulls stand below
        blocks = [range(_OWN), [0, *range(_OWN, len(widths))]] if wide else [range(len(widths))]
        lines = [self._caption()]
        for block in blocks:
            lines += ["".join(line[i].ljust(widths[i]) for i in block).rstrip() for line in table]
            lines.append("")
        return "\n".join(lines[:-1])

    def __repr__(self) -> str:
        return f"SimilarityReport({self._caption()}: {', '.join(f'{m} {self.score(m)}' for m in self.metrics)})"

    def _repr_html_(self) -> str:
        head, *rows = self._cells()
        table = pd.DataFrame(rows, columns=head).to_html(index=False, border=0)
        return f"<p>{self._caption()}</p>{table}"

    def to_latex(self) -> str:
        """A booktabs table of the summary; the caption line is a comment above it."""
        head, *rows = self._cells()
        lines = [
            f"% {self._caption()}",
            r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}",
            r"\toprule",
            " & ".join(head).replace("%", r"\%") + r" \\",
            r"\midrule",
            *(" & ".join(line).replace("%", r"\%").replace("±", r"$\pm$") + r" \\" for line in rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    @checked
    def save(self, path: Path | str) -> Path:
        """Write the rows as CSV, with columns for grid and sign mode, atomically."""
        table = self.rows.assign(grid=self.grid, sign=self.sign)
        return write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"
