"""A run's scores against the grid: all seeds and images of a method, what is incomplete left out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xaibench.attribution.result import Attribution
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError
from xaibench.questions.pooling import pool_run
from xaibench.run.folder import Run, open_run
from xaibench.similarity.intervals import bootstrap_seeds
from xaibench.similarity.metrics.table import METRICS, pool
from xaibench.similarity.nulls import derangement, shifted

COLUMNS = ["method", "grid", "mean", "low", "high", "n", "nan", "seeds", "chance", "chance_sd", "mismatched", "shifted"]


class TwoSeeds(Run):
    """A run of which kd has a second seed: other maps, two images of them incomplete."""

    def attribution_path(self, model: str, explainer: str) -> Path:
        return super().attribution_path(model.replace("kd/seed1", "kd/seed0"), explainer) if _has(model) else Path("-")

    def attribution(self, model: str, explainer: str) -> Attribution:
        found = super().attribution(model.replace("kd/seed1", "kd/seed0"), explainer)
        if not model.startswith("kd/seed1"):
            return found
        maps = found.relevance.flip(-1)
        return replace(found, relevance=maps, validity=replace(found.validity, flagged=(1, 3)))


def _has(model: str) -> bool:
    return "seed1" not in model or model == "kd/seed1"


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Run:
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    one = open_run(folder)
    return TwoSeeds(folder, replace(one.config, seeds=(0, 1)))


def test_all_seeds_and_images_are_pooled_and_the_incomplete_left_out(run: Run) -> None:
    table = pool_run(run, metric="pearson", grids=[4, 7])
    assert list(table.columns) == COLUMNS
    assert table.groupby("method", sort=False)["seeds"].first().to_dict() == {
        "student-only": 1,
        "kd": 2,
        "subdistill": 1,
    }
    explainer, metric = run.explainers[0], METRICS["pearson"]
    teacher = run.attribution("teacher", explainer).scored_heatmaps
    students = [run.attribution(f"kd/seed{seed}", explainer).scored_heatmaps for seed in (0, 1)]
    assert students[1][[1, 3]].isnan().all()
    for row in table[table["method"] == "kd"].to_dict("records"):
        theirs, *maps = (pool(one, row["grid"]) for one in (teacher, *students))
        want = bootstrap_seeds([metric(theirs, one) for one in maps], seed=run.config.data.seed)
        got = [row[name] for name in ("mean", "low", "high", "n", "nan")]
        assert got == [want.mean, want.low, want.high, want.n, want.nan]
        assert row["nan"] >= 2
        others = [one[derangement(len(one), run.config.data.seed)] for one in maps]
        moved = [shifted(one, run.config.data.seed) for one in maps]
        for name, null in (("mismatched", others), ("shifted", moved)):
            assert row[name] == pytest.approx(np.nanmean([metric(theirs, one) for one in null]))


def test_the_files_are_named_by_what_was_asked(run: Run) -> None:
    pool_run(run)
    table = pool_run(run, methods=["kd"], grids=[3])
    names = {path.name for path in run.folder.glob("pooling-*")}
    stems = ("pooling-lrp-cosine", "pooling-lrp-cosine-kd-3")
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("csv", "pdf", "png")}
    pd.testing.assert_frame_equal(pd.read_csv(run.folder / "pooling-lrp-cosine-kd-3.csv"), table)


def test_what_cannot_be_scored_is_refused(run: Run) -> None:
    with pytest.raises(UnknownNameError, match="unknown metric 'cosin': did you mean 'cosine'"):
        pool_run(run, metric="cosin")
    with pytest.raises(UnknownNameError, match="unknown method of this run 'kdd': did you mean 'kd'"):
        pool_run(run, methods=["kdd"])
    with pytest.raises(ConfigError, match=r"grids must be given once each, at least one, got \[4, 4\]"):
        pool_run(run, grids=[4, 4])
    for seed in (0, 1):
        path = run.attribution_path(f"kd/seed{seed}", "lrp")
        path.unlink(missing_ok=True)
    with pytest.raises(ExplanationError, match=r"no student in .* has a valid explanation by lrp: see validity.csv"):
        pool_run(run, methods=["kd"])
