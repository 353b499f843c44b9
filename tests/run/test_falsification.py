"""The benchmark of falsification on a run that was scored by some metrics only."""

from __future__ import annotations

from pathlib import Path

from benchmarks.falsification import check, metrics_of
from xaibench.run.folder import open_run


def test_each_metric_of_the_run_is_checked_and_no_other(tiny_run: Path) -> None:
    run = open_run(tiny_run)
    scores, explainer = run.scores(), run.explainers[0]
    method = next(name for name in scores["method"].unique() if name != "student-only")
    rows = check(run, explainer, method, scores, 0.99)
    assert [row["metric"] for row in rows] == metrics_of(scores)
    assert set(metrics_of(scores)) == set(scores["metric"])
    assert all(row["self"] == "1" for row in rows)
