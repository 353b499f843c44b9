"""How faithful a run's maps are: measured once for each model, kept, summarised and said."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from xaibench.attribution.targets import Target
from xaibench.report.sentences import faithfulness_lines
from xaibench.run import faithfulness
from xaibench.run.faithfulness import Subject, measure_faithfulness
from xaibench.run.folder import TEACHER, Run, open_run
from xaibench.run.pipeline import reopen
from xaibench.run.tables import gap_table
from xaibench.similarity.faithfulness import flipping_gap
from xaibench.similarity.patch_order import patch_order


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Run:
    return open_run(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_run_says_for_every_model_and_image_how_faithful_the_map_is(run: Run) -> None:
    table = run.faithfulness()
    assert list(table["model"].unique()) == [TEACHER, *run.students]
    assert len(table) == (1 + len(run.students)) * len(run.explainers) * len(run.images)
    pair = reopen(run)[1].pair
    x = run.preprocessing(run.images.images)
    for name in (TEACHER, "kd/seed0"):
        model = pair.teacher if name == TEACHER else run.student(name)
        for explainer in run.explainers:
            rows = table[(table["model"] == name) & (table["explainer"] == explainer)]
            assert list(rows["image"]) == list(run.images.keys)
            maps = run.attribution(name, explainer)
            want = flipping_gap(model, x, maps.scored_heatmaps, maps.target, run.preprocessing, grid=7)
            np.testing.assert_allclose(rows["gap"], want, rtol=0, atol=1e-4)
            np.testing.assert_allclose(rows["random"] - rows["own"], rows["gap"])
    random = table.pivot(index=["model", "image"], columns="explainer", values="random")
    assert (random[run.explainers[0]] == random[run.explainers[1]]).all()


def test_the_summary_holds_it_beside_the_scores(run: Run) -> None:
    gaps = gap_table(run.faithfulness()).set_index(["explainer", "method"])
    assert list(gaps.loc["lrp"].index) == [TEACHER, "student-only", "kd", "subdistill"]
    for row in run.summary().to_dict("records"):
        own = gaps.loc[(row["explainer"], row["method"])]
        for name in ("faithfulness", "faithfulness_low", "faithfulness_high"):
            assert row[name] == pytest.approx(own[name])


@pytest.mark.slow
def test_it_is_said_in_the_report_and_by_score(run: Run, cli) -> None:  # type: ignore[no-untyped-def]
    lines = faithfulness_lines(gap_table(run.faithfulness()))
    assert len(lines) == 2
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert all(line in page for line in lines)
    out = cli("score", run.folder).out
    assert " ".join(lines) in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100
    assert "How faithful" not in cli("score", run.folder, "--json").out
    assert lines[1] not in " ".join(cli("score", run.folder, "--explainer", "lrp").out.split())


@pytest.mark.slow
def test_a_folder_from_before_it_was_measured_is_told_the_remedy(run: Run, cli) -> None:  # type: ignore[no-untyped-def]
    (run.folder / "faithfulness.csv").unlink()
    run.ledger.forget("faithfulness.csv")
    for command, remedy in (("report", "score"), ("score", "explain")):
        called = cli(command, run.folder)
        assert called.code == 2
        assert f"run 'xaibench {remedy} {run.folder}'" in called.error
    for command in ("explain", "score", "report"):
        assert cli(command, run.folder).code == 0
    assert run.finished


def test_a_curve_is_computed_once_and_again_where_it_is_damaged(run: Run, cli, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    before = (run.folder / "faithfulness.csv").read_bytes()
    made, flip_area = [], faithfulness.flip_area

    def counted(model: nn.Module, *args: object, **options: object) -> np.ndarray:
        made.append(model)
        return flip_area(model, *args, **options)

    monkeypatch.setattr(faithfulness, "flip_area", counted)
    (run.folder / "faithfulness.csv").unlink()
    assert cli("explain", run.folder).code == 0
    assert made == []
    maps = {one["key"] for models in run.explanations().values() for one in models.values()}
    tensors = {path: run.store.find_tensor(path.stem) for path in run.store.folder.iterdir() if path.stem not in maps}
    curves = [path for path, values in tensors.items() if values is not None and values.ndim == 1]  # others are logits
    assert len(curves) == 4 * (1 + len(run.students))  # two explainers, two random orders
    curves[0].write_bytes(curves[0].read_bytes()[:-1])
    curves[1].unlink()
    assert cli("explain", run.folder).code == 0
    assert len(made) == 2
    assert (run.folder / "faithfulness.csv").read_bytes() == before


class Contrast(nn.Module):
    """Logits of a student divided by the spread of the image's pixels: infinite for an empty image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) / x.flatten(1).std(dim=1, keepdim=True)


def test_equal_models_with_equal_maps_are_equally_faithful_and_one_without_answers_is_undefined(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    maps, model = run.attribution("kd/seed0", "lrp"), run.student("kd/seed0")
    broken = maps.scored_heatmaps.clone()
    broken[2] = torch.nan
    orders = {"lrp": patch_order(maps.scored_heatmaps), "flagged": patch_order(broken)}

    def subject(name: str, model: nn.Module) -> Subject:
        return Subject(name, model, name, maps.target)

    given = {subject("teacher", model): orders, subject("kd/seed0", model): orders}
    given[subject("kd/seed1", Contrast(model))] = orders
    with caplog.at_level(logging.WARNING):
        table = measure_faithfulness(run, run.images, given)
    gaps = {name: part["gap"].to_numpy() for name, part in table.groupby("model")}
    np.testing.assert_array_equal(gaps["teacher"], gaps["kd/seed0"])
    assert np.isnan(gaps["kd/seed1"]).all()
    assert "the faithfulness of the maps of kd/seed1 is undefined: Contrast gives NaN or infinite logits" in caplog.text
    flagged = gap_table(table).set_index(["explainer", "method"]).loc["flagged"]
    assert flagged["nan"].tolist() == [1, 7]
    assert flagged["n"].tolist() == [5, 5]
    assert flagged.loc["teacher", "faithfulness"] == pytest.approx(np.nanmean(gaps["teacher"][6:]))


def test_another_target_or_image_is_another_curve(run: Run) -> None:
    maps, model = run.attribution("kd/seed0", "lrp"), run.student("kd/seed0")
    order = {"lrp": patch_order(maps.scored_heatmaps)}
    swapped = Target(maps.target.contrast, maps.target.label)
    one, other = (
        measure_faithfulness(run, run.images, {Subject("kd/seed0", model, "key", target): order})["gap"]
        for target in (maps.target, swapped)
    )
    np.testing.assert_allclose(one, -other, rtol=0, atol=1e-5)
    few = run.images.take([0, 1])
    part = measure_faithfulness(
        run, few, {Subject("kd/seed0", model, "key", maps.target.take([0, 1])): {"lrp": order["lrp"][:2]}}
    )
    np.testing.assert_allclose(part["own"], one_area(run)[:2], rtol=0, atol=1e-4)


def one_area(run: Run) -> np.ndarray:
    table = run.faithfulness()
    return table[(table["model"] == "kd/seed0") & (table["explainer"] == "lrp")]["own"].to_numpy()


def gaps_of(**means: tuple[float, float, float]) -> pd.DataFrame:
    rows = [
        {"explainer": "lrp", "method": method, "nan": 0}
        | dict(zip(("faithfulness", "faithfulness_low", "faithfulness_high"), mean))
        for method, mean in means.items()
    ]
    return pd.DataFrame(rows)


def test_the_line_names_each_model_and_those_that_are_no_better_than_random() -> None:
    table = gaps_of(teacher=(0.21, 0.15, 0.27), kd=(0.1, -0.05, 0.25), at=(0.3, 0.2, 0.4))
    (line,) = faithfulness_lines(table)
    assert "How faithful maps by LRP are, in logits" in line
    assert "teacher +0.21 [+0.15, +0.27], KD +0.10 [-0.05, +0.25], AT +0.30 [+0.20, +0.40]." in line
    assert line.endswith("Not shown to be better than random (the interval reaches 0): KD.")
    (line,) = faithfulness_lines(gaps_of(teacher=(0.2, 0.1, 0.3), kd=(-0.29, -0.51, -0.07)))
    assert line.endswith("(the interval reaches 0): none. Worse than random: KD.")
    nan = float("nan")
    (line,) = faithfulness_lines(gaps_of(teacher=(0.2, nan, nan), kd=(nan, nan, nan)).assign(nan=[0, 6]))
    assert "of patches: teacher +0.20. Not shown to be better " in line
    assert "reaches 0): teacher. 6 undefined: a map was flagged or constant." in line
    (line,) = faithfulness_lines(gaps_of(teacher=(nan, nan, nan)).assign(nan=6))
    assert "of patches: undefined. Not shown" in line


def test_of_many_methods_the_line_names_the_ends() -> None:
    table = gaps_of(teacher=(0.2, 0.1, 0.3), **{f"m{i}": (0.1 * i, 0.05 * i, 0.2 * i) for i in range(9)})
    (line,) = faithfulness_lines(table)
    assert "teacher +0.20 [+0.10, +0.30], students from m0 +0.00 [+0.00, +0.00] to m8 +0.80 [+0.40, +1.60]." in line
    assert line.endswith("reaches 0): m0.")


def test_the_table_is_over_the_images_that_all_models_have() -> None:
    values = {"teacher": [1.0, 2.0, 3.0, 4.0], "kd/seed0": [0.0, 1.0, np.nan, 2.0], "kd/seed1": [1.0, 2.0, 5.0, 3.0]}
    rows = [
        {"model": model, "explainer": "lrp", "image": f"i{k}", "gap": gap}
        for model, gaps in values.items()
        for k, gap in enumerate(gaps)
    ]
    table = gap_table(pd.DataFrame(rows)).set_index("method")
    assert table["faithfulness"].tolist() == pytest.approx([7 / 3, 1.5])
    assert table["n"].tolist() == [3, 6]
    assert table["nan"].tolist() == [0, 1]
    assert table["seeds"].tolist() == [1, 2]
    assert (table["faithfulness_low"] < table["faithfulness"]).all()
