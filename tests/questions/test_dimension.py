"""How many directions of a layer the teacher needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xaibench.errors import ConfigError, UnknownNameError
from xaibench.questions.dimension import _counts, dimension_run
from xaibench.run.folder import Run
from xaibench.run.pipeline import reopen
from xaibench.run.training import shared_moments
from xaibench.similarity.projection import projected_accuracy
from xaibench.subspace.bases import make_basis

COLUMNS = ["layer", "basis", "k", "accuracy", "low", "high", "agreement", "n", "width", "chance"]


def test_all_directions_are_the_teacher_itself_and_others_are_its_projections(run: Run) -> None:
    table = dimension_run(run, layers=["layer4", "layer2"], bases=["pca", "random"], images=12)
    assert list(table.columns) == COLUMNS
    assert list(dict.fromkeys(table["layer"])) == ["layer2:layer2", "layer4:layer4"]
    assets = reopen(run)[1]
    test, moments = assets.task.test.sample(12, run.config.data.seed), shared_moments(run, assets)
    assert set(table["chance"]) == {test.labels.bincount().max().item() / 12}
    for (layer, width), part in table.groupby(["layer", "width"]):
        name = layer.partition(":")[0]
        d = moments[name].channels
        whole = part[part["basis"] == "none"]["accuracy"].item()
        for kind, rows in part[part["basis"] != "none"].groupby("basis"):
            assert list(rows["k"]) == _counts(d, width)
            assert (rows["accuracy"].iloc[-1], rows["agreement"].iloc[-1]) == (whole, 1)
            basis = make_basis(moments[name], kind, d, seed=run.config.data.seed)
            want = projected_accuracy(
                assets.pair.teacher, test, assets.pair.preprocessing, name, basis, rows["k"].tolist()
            )
            np.testing.assert_array_equal(rows["accuracy"], want)
            assert ((rows["low"] <= rows["accuracy"]) & (rows["accuracy"] <= rows["high"])).all()


def test_options_stand_in_the_names_and_an_answer_is_read_back(
    run: Run, contents: Callable[[Path], dict[str, str]]
) -> None:
    first = dimension_run(run, layers=["layer4"], bases=["pca"], images=8)
    stem = "dimension-pca-layer4_layer4-8images"
    names = {f"{stem}.{end}" for end in ("csv", "json", "pdf", "png")}
    assert {path.name for path in run.folder.glob("dimension*")} == names
    before = contents(run.folder)
    again = dimension_run(run, layers=["layer4"], bases=["pca"], images=8)
    assert again.equals(first)
    assert contents(run.folder) == before


def test_what_there_is_not_is_refused(run: Run) -> None:
    with pytest.raises(UnknownNameError, match="unknown basis 'pac': did you mean 'pca'"):
        dimension_run(run, bases=["pac"])
    with pytest.raises(UnknownNameError, match="unknown layer pair of this run 'layer9'"):
        dimension_run(run, layers=["layer9"])
    with pytest.raises(ConfigError, match=r"0 images were asked for, but there are .* test images"):
        dimension_run(run, images=0)


def test_the_command_prints_a_column_a_basis(run: Run, cli) -> None:
    called = cli("dimension", run.folder, "--basis", "pca", "--layer", "layer4", "--images", 8, "--accelerator", "cpu")
    assert called.code == 0
    assert called.out.splitlines()[0].split() == ["|", "layer", "|", "k", "|", "pca", "|"]
