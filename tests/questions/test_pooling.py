"""A run's scores against the grid: all seeds and images of a method, what is incomplete left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xaibench.errors import ConfigError, ExplanationError, RunFolderError, UnknownNameError
from xaibench.questions.pooling import pool_run
from xaibench.run.folder import Run
from xaibench.similarity.intervals import mean_interval
from xaibench.similarity.metrics.table import METRICS, pool
from xaibench.similarity.nulls import derangement, shifted

COLUMNS = ["method", "grid", "mean", "low", "high", "n", "nan", "seeds", "chance", "chance_sd", "mismatched", "shifted"]


def test_all_seeds_are_compared_on_the_images_that_all_have(two_seeds: Run) -> None:
    run = two_seeds
    table = pool_run(run, metric="pearson", grids=[4, 7])
    assert list(table.columns) == COLUMNS
    by_method = table.groupby("method", sort=False)[["seeds", "n", "nan"]].first()
    assert by_method.T.to_dict("list") == {"student-only": [1, 4, 6], "kd": [2, 8, 2], "subdistill": [1, 4, 6]}
    explainer, metric = run.explainers[0], METRICS["pearson"]
    teacher = run.attribution("teacher", explainer).scored_heatmaps
    students = [run.attribution(f"kd/seed{seed}", explainer).scored_heatmaps for seed in (0, 1)]
    assert students[1][[1, 3]].isnan().all()
    for row in table[table["method"] == "kd"].to_dict("records"):
        theirs, *maps = (pool(one, row["grid"]) for one in (teacher, *students))
        scores = np.stack([metric(theirs, one) for one in maps])
        want = mean_interval(np.delete(scores, [1, 3], axis=1), seed=run.config.data.seed)
        assert [row[name] for name in ("mean", "low", "high", "n")] == [want.mean, want.low, want.high, want.n]
        others = [one[derangement(len(one), run.config.data.seed)] for one in maps]
        moved = [shifted(one, run.config.data.seed) for one in maps]
        for name, null in (("mismatched", others), ("shifted", moved)):
            assert row[name] == pytest.approx(np.nanmean([metric(theirs, one) for one in null]))


@pytest.mark.slow
def test_a_refused_method_is_shown_as_undefined(run: Run, refuse: Callable[..., None]) -> None:
    refuse(run, "kd/seed0", "lrp")
    table = pool_run(run, methods=["kd", "subdistill"], grids=[4]).set_index("method")
    assert table.loc["kd", ["n", "nan", "seeds"]].tolist() == [0, 6, 0]
    assert table.loc["kd", ["mean", "low", "high", "mismatched", "shifted"]].isna().all()
    assert table.loc["subdistill", ["n", "nan", "seeds"]].tolist() == [6, 0, 1]
    with pytest.raises(ExplanationError, match=r"none of the students that were asked for has a valid explanation"):
        pool_run(run, methods=["kd"])


@pytest.mark.slow
def test_an_answer_stands_while_its_maps_do(
    run: Run, refuse: Callable[..., None], contents: Callable[[Path], dict[str, str]]
) -> None:
    first = pool_run(run, grids=[4])
    before = contents(run.folder)
    pd.testing.assert_frame_equal(pool_run(run, grids=[4]), first)
    assert contents(run.folder) == before
    refuse(run, "kd/seed0", "lrp")
    again = pool_run(run, grids=[4])
    assert first["mean"].notna().all()
    assert again.set_index("method")["mean"].isna().to_dict() == {
        "student-only": False, "kd": True, "subdistill": False,
    }  # fmt: skip


def test_the_files_are_named_by_what_was_asked(run: Run) -> None:
    pool_run(run)
    table = pool_run(run, methods=["kd"], grids=[3])
    names = {path.name for path in run.folder.glob("pooling-*")}
    stems = ("pooling-lrp-cosine", "pooling-lrp-cosine-kd-3")
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("csv", "json", "pdf", "png")}
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "pooling-lrp-cosine-kd-3.csv"), table)


def test_what_cannot_be_scored_is_refused(run: Run) -> None:
    with pytest.raises(UnknownNameError, match="unknown metric 'cosin': did you mean 'cosine'"):
        pool_run(run, metric="cosin")
    with pytest.raises(UnknownNameError, match="unknown method of this run 'kdd': did you mean 'kd'"):
        pool_run(run, methods=["kdd"])
    with pytest.raises(ConfigError, match=r"grids must be given once each, at least one, got \[4, 4\]"):
        pool_run(run, grids=[4, 4])
    run.attribution_path("kd/seed0", "lrp").unlink()
    with pytest.raises(RunFolderError, match="the maps of kd/seed0 by lrp are missing"):
        pool_run(run)
