"""Cross flipping of a finished run."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from xaibench.errors import ConfigError, ExplanationError, RunFolderError, UnknownNameError
from xaibench.figures.style import new_figure
from xaibench.models.checkpoints import load_checkpoint, save_checkpoint
from xaibench.questions import flipping
from xaibench.questions.flipping import flip_footnote, flip_run, flip_table
from xaibench.run.folder import Run, open_run
from xaibench.similarity import cross_flip as crossing
from xaibench.similarity.flipping import flip_curve


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is drawn."""
    monkeypatch.setattr(flipping, "flipping_of", lambda run, curves, explainer: new_figure(1, 1))


ENDS = (".csv", "-auc.csv", ".json", ".pdf", ".png")


def test_a_row_a_model_with_curves_and_figure(run: Run) -> None:
    before = {p.relative_to(run.folder) for p in run.folder.rglob("*")}
    table = flip_run(run, methods=["kd", "subdistill"], grid=3)
    made = {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*")} - {p.as_posix() for p in before}
    stem = "flipping-lrp-inpaint-3x3-kd_subdistill"
    assert made == {f"{stem}{end}" for end in ENDS}
    assert list(table["method"]) == ["teacher", "kd", "subdistill"]
    assert (table["n"] + table["nan"] == 6 * len(run.config.seeds)).tolist()[1:] == [True, True]
    curves = pd.read_csv(run.folder / f"{stem}.csv")
    assert list(curves.columns) == ["model", "order", "measure", "fill", "fraction", "mean", "low", "high", "n", "nan"]
    assert set(curves["model"]) == {"teacher", "kd", "subdistill"}
    assert curves["fraction"].nunique() == 10

    x = run.preprocessing(run.images.images)
    teacher, student = run.attribution("teacher", "lrp"), run.attribution("kd/seed0", "lrp")
    for order, maps in (("own", student.heatmaps), ("teacher", teacher.heatmaps)):
        want = flip_curve(run.student("kd/seed0"), x, maps, student.target, run.preprocessing, grid=3)
        column = "own" if order == "own" else "teacher order"
        value = table.set_index("method")[column]["kd"]
        assert value == pytest.approx(np.nanmean(want.auc), rel=1e-5)
    row = table.set_index("method").loc["kd"]
    assert row["difference"] == pytest.approx(row["teacher order"] - row["own"], abs=1e-9)
    want_ratio = (row["random"] - row["teacher order"]) / (row["random"] - row["own"])
    assert row["cross ratio"] == pytest.approx(want_ratio) if row["random"] > row["own"] else True
    assert row["own low"] <= row["own"] <= row["own high"]
    assert np.isnan(table.set_index("method").loc["teacher", "cross ratio"])


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_second_call_reads_and_other_options_compute(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = crossing.cross_flip
    monkeypatch.setattr(flipping, "cross_flip", lambda *a, **k: calls.append(k["fill"]) or real(*a, **k))
    options = {"methods": ["kd"], "grid": 2, "seeds": [0]}
    first = flip_run(run, **options)
    assert calls == ["inpaint"]
    pd.testing.assert_frame_equal(flip_run(run, **options), first)
    assert calls == ["inpaint"]
    flip_run(run, fill="blur", **options)
    assert calls == ["inpaint", "blur"]
    pd.testing.assert_frame_equal(flip_run(run, **options), first)
    assert calls == ["inpaint", "blur"]
    for change in (
        {"grid": 3},
        {"images": 4},
        {"steps": 2},
        {"methods": ["subdistill"]},
        {"explainer": run.explainers[1]},
    ):
        flip_run(run, **(options | change))
        assert len(calls) == 3, change
        calls.pop()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_another_question_overwrites_no_result(run: Run, contents: Callable[[Path], dict[str, str]]) -> None:
    flip_run(run, steps=1)
    before = contents(run.folder)
    assert "flipping-lrp-inpaint-1steps.csv" in before
    for smaller in ({"images": 2}, {"grid": 2}, {"methods": ["kd"]}, {"steps": 2}):
        flip_run(run, **({"steps": 1} | smaller))
    flip_run(run, steps=1, images=6, grid=7, methods=["subdistill", "kd", "student-only"], seeds=[0])
    after = contents(run.folder)
    assert {name: after[name] for name in before} == before
    added = {name.removesuffix(".json") for name in set(after) - set(before) if name.endswith(".json")}
    assert added == {f"flipping-lrp-inpaint-{what}" for what in ("2images-1steps", "2x2-1steps", "1steps-kd", "2steps")}


@pytest.mark.parametrize("damage", [f"flipping-lrp-inpaint-2x2-kd{end}" for end in (".csv", ".json", "-auc.csv")])
@pytest.mark.usefixtures("quick")
def test_a_damaged_result_is_made_again(run: Run, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    options = {"methods": ["kd"], "grid": 2}
    first = flip_run(run, **options)
    (run.folder / damage).unlink()
    pd.testing.assert_frame_equal(flip_run(run, **options), first)
    (run.folder / damage).write_text("{" if damage.endswith("json") else "", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        again = flip_run(run, **options)
    pd.testing.assert_frame_equal(again, first)


@pytest.mark.usefixtures("quick")
def test_the_provenance_names_options_weights_and_versions(run: Run) -> None:
    flip_run(run, methods=["kd"], images=3, fill="inpaint", grid=2, steps=2)
    stem = "flipping-lrp-inpaint-2x2-3images-2steps-kd"
    about = json.loads((run.folder / f"{stem}.json").read_text(encoding="utf-8"))
    asked = about["options"]
    assert (asked["explainer"], asked["fill"], asked["grid"], asked["steps"]) == ("lrp", "inpaint", 2, 2)
    maps = run.explanations()["lrp"]
    assert about["made_from"]["maps"] == {"lrp": {name: maps[name] for name in ("teacher", "kd/seed0")}}
    keys = run.images.keys
    assert asked["images"] == [keys[0], keys[2], keys[5]]
    assert "torch" in about["versions"]
    words = "flip RUN --explainer lrp --fill inpaint --grid 2 --images 3 --steps 2 --method kd"
    assert about["command"] == words.split()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_refused_student_is_shown_as_undefined(run: Run, refuse: Callable[..., None]) -> None:
    refuse(run, "kd/seed0", "lrp")
    table = flip_run(run, methods=["kd", "subdistill"], grid=2).set_index("method")
    assert table.loc["kd", ["n", "nan"]].tolist() == [0, 6]
    assert table.loc["kd"].drop(["n", "nan"]).isna().all()
    assert table.loc["subdistill", ["n", "nan"]].tolist() == [6, 0]
    with pytest.raises(ExplanationError, match=r"none of the students that were asked for has a valid explanation by"):
        flip_run(run, methods=["kd"], grid=2)


@pytest.mark.usefixtures("quick")
def test_missing_and_outdated_maps_are_refused(run: Run) -> None:
    path = run.attribution_path("kd/seed0", "lrp")
    path.unlink()
    with pytest.raises(RunFolderError, match=r"the maps of kd/seed0 by lrp are missing .*: run 'xaibench explain"):
        flip_run(run, methods=["kd", "subdistill"], grid=2)
    (run.folder / "explanations.json").unlink()
    with pytest.raises(RunFolderError, match=r"explanations.json does not exist yet: run 'xaibench explain"):
        flip_run(run, methods=["subdistill"], grid=2)


@pytest.mark.usefixtures("quick")
def test_flagged_images_are_undefined(run: Run) -> None:
    path = run.attribution_path("kd/seed0", "lrp")
    whole = run.attribution("kd/seed0", "lrp")
    object.__setattr__(whole.validity, "flagged", (1, 4))
    whole.save(path)
    table = flip_run(run, methods=["kd"], grid=2).set_index("method")
    assert (table.loc["kd", "n"], table.loc["kd", "nan"]) == (4, 2)
    assert (table.loc["teacher", "n"], table.loc["teacher", "nan"]) == (4, 0)  # compared on the same images


@pytest.mark.usefixtures("quick")
def test_other_weights_are_refused(run: Run) -> None:
    path = run.student_path("kd/seed0")
    model, card = load_checkpoint(path)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    save_checkpoint(path, model, card)
    with pytest.raises(RunFolderError, match=r"student.safetensors is not what was written .*: run 'xaibench distill"):
        flip_run(run, methods=["kd"], grid=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": ["kdd"]}, UnknownNameError, "unknown method of this run 'kdd': did you mean 'kd'"),
        ({"seeds": [7]}, UnknownNameError, "unknown seed of this run '7'"),
        ({"explainer": "shap"}, UnknownNameError, "unknown explainer of this run 'shap'"),
        ({"fill": "blurr"}, UnknownNameError, "unknown fill 'blurr': did you mean 'blur'"),
        ({"images": 7}, ConfigError, "7 images were asked for, but this run explained 6: choose 1 to 6"),
        ({"images": 0}, ConfigError, "0 images were asked for"),
        ({"grid": 40}, ConfigError, "grid 40 does not fit 28x28"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_bad_options_are_refused(
    run: Run, options: dict[str, object], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flipping, "reopen", lambda _: pytest.fail("refused only after the work had begun"))
    with pytest.raises(error, match=message):
        flip_run(run, **options)
    assert not list(run.folder.glob("flipping*"))


def test_the_table_compares_all_on_the_same_images() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((2, 3, 5)) + np.array([0.0, 1.0, 2.0])[:, None]
    values[1, 2, 3] = np.nan
    rows = [
        {"method": "kd:T=2", "seed": s, "order": order, "image": f"{9 - i}", "auc": values[s, o, i]}
        for s in range(2)
        for o, order in enumerate(("own", "teacher", "random"))
        for i in range(5)
    ]
    rows += [
        {"method": "teacher", "seed": 0, "order": order, "image": f"{9 - i}", "auc": auc + i}
        for order, auc in (("own", 1.0), ("random", 4.0))
        for i in range(5)
    ]
    table = flip_table(pd.DataFrame(rows)).set_index("method")
    assert list(table.index) == ["kd:T=2", "teacher"]
    row = table.loc["kd:T=2"]
    own, teacher, random = np.delete(values, 3, axis=2).swapaxes(0, 1)
    assert row["own"] == pytest.approx(own.mean())
    assert row["difference"] == pytest.approx((teacher - own).mean())
    assert row["gain"] == pytest.approx((random - own).mean())
    assert row["cross ratio"] == pytest.approx((random - teacher).mean() / (random - own).mean())
    assert (row["n"], row["nan"]) == (8, 1)
    assert table.loc["teacher", ["own", "gain", "n", "nan"]].tolist() == [1 + 7 / 4, 3, 4, 0]


def test_a_footnote_says_why_a_ratio_is_undefined() -> None:
    rng = np.random.default_rng(0)
    levels = {"good": (0.0, 1.0, 2.0), "no better": (2.0, 1.0, 1.0), "nearly": (0.93, 1.0, 1.0)}
    rows = [
        {"method": method, "seed": 0, "order": order, "image": str(i), "auc": level + 0.2 * rng.standard_normal()}
        for method, by_order in levels.items()
        for order, level in zip(("own", "teacher", "random"), by_order)
        for i in range(8)
    ]
    teacher = [
        {"method": "teacher", "seed": 0, "order": order, "image": str(i), "auc": 1.0}
        for order in ("own", "random")
        for i in range(8)
    ]
    table = flip_table(pd.DataFrame(teacher + rows))
    assert table.set_index("method")["cross ratio"].isna().to_dict() == {
        "teacher": True, "good": False, "no better": True, "nearly": False,
    }  # fmt: skip
    assert flip_footnote(table).startswith(
        "no cross ratio or no interval of it for no better, nearly: its own order is"
    )
    assert flip_footnote(table[table["method"].isin(["teacher", "good"])]) == ""
    assert flip_footnote(flip_table(pd.DataFrame(teacher))) == ""


def test_the_models_go_where_they_are_sent(run: Run) -> None:
    with pytest.raises(ConfigError, match="device 'mps' has no float64"):
        flip_run(run, images=2, device="mps")
    with pytest.raises(ConfigError, match="device 'meta' holds no values"):  # it came there
        flip_run(run, images=2, device="meta")
    here = flip_run(run, images=2, device="cpu")
    pd.testing.assert_frame_equal(flip_run(run, images=2, device="meta"), here)  # read back: no part of the question


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_flips_like_the_processor(run: Run, tmp_path: Path) -> None:
    other = open_run(shutil.copytree(run.folder, tmp_path / "other"))
    here, there = flip_run(run, images=3), flip_run(other, images=3, device="cuda")
    pd.testing.assert_frame_equal(there, here, rtol=1e-2, atol=1e-3)
