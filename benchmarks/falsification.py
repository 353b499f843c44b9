"""Would each metric notice? Checks of a run's explainers and metrics on its heatmaps.

    python benchmarks/falsification.py runs/fashion-explainers subdistill

self      the teacher in place of the student must score exactly 1 on every image
null      a randomly initialised student must fall into the null: score no better than with its maps of other images, or
          no better than with its maps shifted
trained   the distilled student must not be less like the teacher than the randomly initialised one

"null" fails where the 95% intervals of both paired differences lie above 0, "trained" where its one lies below. A run
asks the same question many times, so the ones that also fail at 5% over all explainers and metrics together
(Bonferroni) are in capitals.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from xaibench.run.folder import Run, open_run
from xaibench.similarity.compare import compare
from xaibench.similarity.intervals import Interval, bootstrap_mean, mean_interval
from xaibench.similarity.metrics.table import METRICS


def check(run: Run, explainer: str, method: str, scores: pd.DataFrame, strict: float) -> list[dict]:
    teacher, random = (run.attribution(name, explainer) for name in ("teacher", "untrained"))
    metrics = metrics_of(scores)
    itself, null = (compare(teacher, other, metrics=metrics) for other in (teacher, random))
    rows = []
    for metric in metrics:
        one = itself.values(metric).dropna()
        chosen = scores[
            (scores["metric"] == metric) & (scores["explainer"] == explainer) & (scores["method"] == method)
        ]
        sets = {
            pairing: part.pivot_table(index="seed", columns="image", values="value", dropna=False).to_numpy(np.float64)
            for pairing, part in chosen.groupby("pairing")
        }
        gaps = [
            spans(partial(bootstrap_mean, (null.values(metric) - null.values(metric, over)).to_numpy()), strict)
            for over in ("mismatched images", "shifted maps")
        ]
        gain = spans(partial(mean_interval, sets["matched"] - sets["random student"]), strict)
        fails = [] if len(one) and (one == 1).all() else ["SELF"]
        usual, strictly = (min(pair[level].low for pair in gaps) > 0 for level in (0, 1))
        fails += ["NULL" if strictly else "null"] if usual else []
        fails += ["TRAINED" if gain[1].high < 0 else "trained"] if gain[0].high < 0 else []
        row = {"explainer": explainer, "metric": metric, "self": f"{one.mean():.15g}"}
        row |= {"random": f"{null.score(metric).mean:.3f}", "random - mismatched": text(gaps[0][0])}
        row |= {"random - shifted": text(gaps[1][0]), "distilled - random": text(gain[0])}
        rows.append(row | {"fails": " ".join(fails)})
    return rows


def metrics_of(scores: pd.DataFrame) -> list[str]:
    """Those that the run was scored by."""
    return [metric for metric in METRICS if metric in set(scores["metric"])]


def spans(interval: Callable[..., Interval], strict: float) -> tuple[Interval, Interval]:
    return interval(), interval(level=strict, resamples=50_000)


def text(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("method")
    options = parser.parse_args()
    run = open_run(options.run)
    scores = run.scores()
    strict = 1 - 2 * 0.05 / (len(run.explainers) * len(metrics_of(scores)))
    rows = [row for name in run.explainers for row in check(run, name, options.method, scores, strict)]
    lines = [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    failed = sum(bool(row["fails"]) for row in rows)
    sys.stdout.write("\n".join([*lines, "", f"{failed} of {len(rows)} fail a check"]) + "\n")


if __name__ == "__main__":
    main()
