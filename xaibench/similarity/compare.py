"""compare(): two sets of heatmaps -> scores per image, beside chance and the nulls."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xaibench.attribution.result import Attribution
from xaibench.errors import DataError, ExplanationError, unknown_name
from xaibench.files import write_text
from xaibench.similarity.intervals import Interval, bootstrap_mean, paired_bootstrap
from xaibench.similarity.metrics.table import DEFAULT_METRICS, METRICS, default_grid, pool, with_sign
from xaibench.similarity.nulls import derangement, shifted

__all__ = ["INDEPENDENT", "PAIRINGS", "SimilarityReport", "compare"]

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

    def worst(self, metric: str, k: int = 5) -> list[str]:
        """Keys of the k images with the lowest matched score, lowest first; undefined scores are left out."""
        return list(self.values(metric).dropna().sort_values(kind="stable").index[:k])

    def summary(self) -> pd.DataFrame:
        """A row a metric: mean, low, high, n, nan, chance, chance_sd, each null's mean, low and high, and the lift.

        chance and chance_sd are those of one pair of random maps; lift is that over the independent student. What was
        not scored is NaN.
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
                    null = self.score(metric, pairing)
                    record |= {prefix: null.mean, f"{prefix}_low": null.low, f"{prefix}_high": null.high}
            lift = paired_bootstrap(*self._paired(metric), seed=self.seed)
            records.append(record | {"lift": lift.mean, "lift_low": lift.low, "lift_high": lift.high})
        return pd.DataFrame.from_records(records)

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
        return f"{n} images, {self.grid}x{self.grid} grid, {self.sign} maps, mean and 95% interval"

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
        widths = [max(map(len, column)) for column in zip(*table)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table)
        return "\n".join([self._caption(), *lines])

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

    def save(self, path: Path | str) -> Path:
        """Write the rows as CSV, with columns for grid and sign mode, atomically."""
        table = self.rows.assign(grid=self.grid, sign=self.sign)
        return write_text(path, table.to_csv(index=False, lineterminator="\n"))


def compare(
    teacher: Any,
    student: Any,
    *,
    keys: Sequence[str] | None = None,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    grid: int | None = None,
    sign: str = "signed",
    independent_student: Any = None,
    random_student: Any = None,
    seed: int = 0,
) -> SimilarityReport:
    """Score how alike the heatmaps of teacher and student are, beside the nulls.

    teacher, student     two Attributions, or maps (N, H, W)
    keys                 a unique name per image; None: "0", "1", ...
    metrics              names from METRICS, or one
    grid                 cells a side after pooling; None: 28 -> 7, 32 -> 8, 224 -> 14
    sign                 "signed", "absolute" or "positive", applied after pooling
    independent_student  the same images explained under a student of the same form that was trained without this
                         teacher: the null that the lift is reported over
    random_student       ... under a randomly initialised student

    Two more nulls are always scored: the student's maps of other images in a seeded pairing (for two images or more),
    and its own maps mirrored and shifted at random (`nulls.shifted`; for two cells a side or more).

    Images that an Attribution flags as incomplete count as undefined (NaN).

    Raises ExplanationError for Attributions that are not valid or that answer different questions (other images,
    explainers or targets; targets may differ under contrast="own"), DataError for shapes or keys that do not match.
    """
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in metrics:
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    if not metrics or len(set(metrics)) != len(metrics):
        raise DataError(f"metrics must be given once each, at least one, got {metrics}")
    sets = {"teacher": teacher, "student": student}
    for role, given in ((INDEPENDENT, independent_student), ("random student", random_student)):
        if given is not None:
            sets[role] = given
    for role, given in sets.items():
        if isinstance(given, Attribution):
            given.validity.require(f"the {role}'s explanation")
            if isinstance(teacher, Attribution):
                _same_question(teacher, given, role)
    raw = {role: given.heatmaps if isinstance(given, Attribution) else given for role, given in sets.items()}
    shape = _shape(raw["teacher"], "teacher")
    for role, values in raw.items():
        if _shape(values, role) != shape:
            raise DataError(
                f"the {role}'s heatmaps have shape {_shape(values, role)}, the teacher's {shape}: "
                "explain the same images with both"
            )
    side = default_grid(shape[1], shape[2]) if grid is None else grid
    maps = {role: with_sign(pool(values, side), sign) for role, values in raw.items()}
    for role, given in sets.items():
        if isinstance(given, Attribution):
            maps[role][list(given.validity.flagged)] = np.nan
    n = len(maps["teacher"])
    names = [str(i) for i in range(n)] if keys is None else [str(key) for key in keys]
    if len(names) != n or len(set(names)) != n:
        raise DataError(f"{n} heatmaps need {n} unique keys, got {len(names)} ({len(set(names))} unique)")

    pairs: dict[str, npt.NDArray[np.float64]] = {"matched": maps["student"]}
    pairs |= {role: maps[role] for role in (INDEPENDENT, "random student") if role in maps}
    if n > 1:
        pairs["mismatched images"] = maps["student"][derangement(n, seed)]
    if side > 1:
        pairs["shifted maps"] = shifted(maps["student"], seed)
    frames = []
    for metric in metrics:
        for pairing, others in pairs.items():
            values = METRICS[metric](maps["teacher"], others)
            frames.append(pd.DataFrame({"image": names, "metric": metric, "pairing": pairing, "value": values}))
    return SimilarityReport(pd.concat(frames, ignore_index=True), side, sign, seed)


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def _shape(maps: Any, role: str) -> tuple[int, int, int]:
    shape = tuple(getattr(maps, "shape", ()))
    if len(shape) != 3 or 0 in shape:
        got = shape or type(maps).__name__
        raise DataError(f"the {role}'s heatmaps must be an array or tensor (N, H, W) with N > 0, got {got}")
    n, height, width = shape
    return n, height, width


def _same_question(teacher: Attribution, other: Attribution, role: str) -> None:
    if other.input_hash != teacher.input_hash:
        raise ExplanationError(f"teacher and {role} were explained on different inputs: give both the same images")
    if other.explainer != teacher.explainer:
        raise ExplanationError(
            f"the teacher was explained by {teacher.explainer}, the {role} by {other.explainer}: use one explainer"
        )
    own = teacher.target.rule == other.target.rule == "own"
    if not (teacher.target.label.equal(other.target.label) if own else teacher.target.same_as(other.target)):
        raise ExplanationError(
            f"teacher and {role} were explained for different targets: pass the teacher's target to both"
        )
