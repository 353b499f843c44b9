"""How many directions of a layer the teacher needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xaibench.errors import ConfigError, RunFolderError, UnknownNameError
from xaibench.figures.dimension import dimension_figure
from xaibench.files import sha256_of_file, write_json, write_text
from xaibench.questions.dimension import _counts, dimension_run, dimension_runs, over_subtasks
from xaibench.run.folder import Run, open_run
from xaibench.run.pipeline import reopen
from xaibench.run.training import shared_moments
from xaibench.similarity.intervals import seed_interval
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


@pytest.fixture
def another(run: Run, tmp_path: Path) -> Run:
    """A run of other classes, as far as this question is concerned, whose answer is kept with other accuracies."""
    dimension_run(run, layers=["layer4"], bases=["pca"], images=8)
    folder = Path(shutil.copytree(run.folder, tmp_path / "another"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["classes"] = ["a", "b", "c", "d"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    stem = "dimension-pca-layer4_layer4-8images"
    table = pd.read_csv(folder / f"{stem}.csv", keep_default_na=False)
    write_text(folder / f"{stem}.csv", table.assign(accuracy=table["accuracy"] * 0.5).to_csv(index=False))
    record = json.loads((folder / f"{stem}.json").read_text())
    record["files"][f"{stem}.csv"] = sha256_of_file(folder / f"{stem}.csv")
    write_json(folder / f"{stem}.json", record)
    return open_run(folder)


def test_of_several_runs_the_mean_over_subtasks_is_drawn(run: Run, another: Run, tmp_path: Path) -> None:
    asked = {"layers": ["layer4"], "bases": ["pca"], "images": 8}
    table = dimension_runs([run, another.folder], tmp_path / "mean", **asked)
    one, other = (dimension_run(each, **asked) for each in (run, another))
    assert list(table.columns) == [*COLUMNS, "unit"]
    assert (table[["layer", "basis", "k", "width"]] == one[["layer", "basis", "k", "width"]]).all(axis=None)
    np.testing.assert_allclose(table["accuracy"], (one["accuracy"] + other["accuracy"]) / 2)
    want = [seed_interval(pair).within(0, 1) for pair in zip(one["accuracy"], other["accuracy"])]
    np.testing.assert_allclose(table[["low", "high"]], [[each.low, each.high] for each in want])
    assert set(table["n"]) == {2}
    assert {path.name for path in (tmp_path / "mean").iterdir()} == {
        f"dimension.{e}" for e in ("csv", "json", "pdf", "png")
    }
    figure = dimension_figure(table)
    assert any("95% intervals over 2 subtasks" in text.get_text() for text in figure.texts)
    assert dimension_runs([run, another], tmp_path / "mean", **asked).equals(table)


def test_runs_that_cannot_be_averaged_are_refused(run: Run, another: Run, tmp_path: Path, cli) -> None:
    with pytest.raises(ConfigError, match="needs at least two runs"):
        dimension_runs([run], tmp_path / "mean")
    with pytest.raises(ConfigError, match="have the same classes: leave one of them out"):
        dimension_runs([run, run.folder], tmp_path / "mean")
    with pytest.raises(RunFolderError, match="holds something else than an answer over subtasks"):
        dimension_runs([run, another], run.folder)
    table = dimension_run(run, layers=["layer4"], bases=["pca"], images=8)
    with pytest.raises(ConfigError, match="a and b have other layers or widths: give runs of one teacher"):
        over_subtasks({"a": table, "b": table.assign(width=3)})
    assert cli("dimension", run.folder, another.folder).error.endswith("give --out FOLDER")
    assert "leave out --out" in cli("dimension", run.folder, "--out", tmp_path / "mean").error
    assert not (tmp_path / "mean").exists()
