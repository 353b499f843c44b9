"""A finished run: every file is there and holds what it promises; running it again changes nothing."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from xaibench.attribution.differentiation import gradient_checks
from xaibench.attribution.gradcam import GradCAM
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.patches import ShapleySampling
from xaibench.attribution.targets import Target
from xaibench.errors import RunFolderError, UnknownNameError
from xaibench.models.checkpoints import load_checkpoint, state_hash
from xaibench.report.tables import text_table
from xaibench.run.folder import open_run
from xaibench.similarity.similarity_report import PAIRINGS

METHODS = ("student-only", "kd", "subdistill")
PICTURES = ("gallery", "gallery-ig_budget_1025", "league", "similarity", "scores", "history")
FILES = {
    "manifest.json",
    "files.json",
    "explanations.json",
    "images.safetensors",
    "logits.safetensors",
    "subspace.safetensors",
    "report.html",
    "table.tex",
    *(f"{name}.csv" for name in ("predictions", "scores", "summary", "validity", "faithfulness", "cost", "table")),
    *(f"{name}.{kind}" for name in PICTURES for kind in ("pdf", "png")),
    *(f"students/{m}/seed0/{f}" for m in METHODS for f in ("student.safetensors", "history.csv", "job.json")),
}
BOUNDS = ("", "_low", "_high")
COLUMNS = {
    "scores.csv": ["method", "seed", "explainer", "metric", "pairing", "image", "value"],
    "summary.csv": [
        "method",
        "explainer",
        "metric",
        "grid",
        "sign",
        "images",
        "explained",
        "seeds",
        "mean",
        "low",
        "high",
        "n",
        "nan",
        "chance",
        "chance_sd",
        *(f"{name}{end}" for name in (*filter(None, PAIRINGS.values()), "lift", "faithfulness") for end in BOUNDS),
    ],
    "predictions.csv": ["model", "image", "label", "predicted", "confidence", "correct"],
    "validity.csv": ["model", "explainer", "check", "value", "bound", "passed", "note"],
    "faithfulness.csv": ["model", "explainer", "image", "random", "own", "gap"],
    "cost.csv": ["model", "architecture", "parameters", "macs", "latency_ms", "device"],
    "table.csv": [
        f"{name}{end}"
        for name in ("accuracy", "agreement", "lrp cosine", "lrp lift", "ig:budget=1025 cosine")
        for end in ("", " low", " high")
    ],
    "students/subdistill/seed0/history.csv": [
        "epoch",
        "lr",
        "loss",
        "kd",
        "ce",
        "layer1:layer1",
        "layer2:layer2",
        "layer3:layer3",
        "layer4:layer4",
        "validation_accuracy",
        "validation_ce",
        "validation_agreement",
        "seconds",
    ],
}


class Links(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.sources, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [(tag, value) for name, value in attrs if name in ("src", "href", "data", "srcset") and value]


def test_the_folder_holds_the_promised_files_and_no_others(tiny_run, contents):
    files = set(contents(tiny_run))
    kept = {name for name in files if name.startswith("attributions/")}
    asked = {name for name in files if re.fullmatch(r"teacher/[0-9a-f]{40}\.safetensors", name)}
    assert len(asked) == 2  # the teacher's logits of validation images, and of the views that KD was trained with
    assert files - kept - asked == FILES
    entries = json.loads((tiny_run / "explanations.json").read_text())
    assert len(entries) == 2
    assert {model for models in entries.values() for model in models} == set(open_run(tiny_run).models)
    maps = {f"attributions/{one['key']}.safetensors" for models in entries.values() for one in models.values()}
    assert maps < kept
    assert len(kept - maps) == 4 * 4 + 5  # areas of flipping: four models in four orders; logits of five models


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_has_the_promised_columns(tiny_run, name):
    table = pd.read_csv(tiny_run / name)
    assert set(COLUMNS[name]) <= set(table.columns), list(table.columns)
    if name != "table.csv":
        assert set(table.columns) == set(COLUMNS[name])
    assert len(table) > 0


def test_the_tables_say_the_same(tiny_run):
    run = open_run(tiny_run)
    scores, table, predictions = run.scores(), run.table().set_index("method"), run.predictions()
    assert list(table.index) == ["teacher", *METHODS]
    assert len(predictions) == len(run.models) * run.manifest["images"]["test"]
    for method in METHODS:
        part = scores[(scores["method"] == method) & (scores["metric"] == "cosine") & (scores["explainer"] == "lrp")]
        matched = part[part["pairing"] == "matched"]
        assert sorted(matched["image"]) == sorted(run.images.keys)
        assert table.loc[method, "lrp cosine"] == pytest.approx(matched["value"].mean())
        correct = predictions[predictions["model"] == f"{method}/seed0"]["correct"]
        assert table.loc[method, "accuracy"] == pytest.approx(correct.mean())
    assert set(scores["pairing"]) == set(PAIRINGS)
    lrp = scores[(scores["explainer"] == "lrp") & (scores["metric"] == "cosine")].set_index(["method", "image"])
    value = {pairing: part["value"] for pairing, part in lrp.groupby("pairing")}
    lift = value["matched"].loc["kd"] - value["matched"].loc["student-only"]
    assert table.loc["kd", "lrp lift"] == pytest.approx(lift.mean())
    pd.testing.assert_series_equal(value["independent student"].loc["kd"], value["matched"].loc["student-only"])
    assert "student-only" not in value["independent student"].index
    assert table.loc["teacher", "accuracy"] > 0.8
    assert run.validity()["passed"].all()


def test_the_cosine_in_the_table_is_that_of_the_saved_maps(tiny_run):
    run = open_run(tiny_run)
    teacher, student = (run.attribution(name, "lrp").heatmaps.double() for name in ("teacher", "kd/seed0"))
    a, b = (m.reshape(6, 7, 4, 7, 4).mean((2, 4)).flatten(1) for m in (teacher, student))
    expected = ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean().item()
    assert run.table().set_index("method").loc["kd", "lrp cosine"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_not_blank_and_its_text_is_text(tiny_run, name):
    with Image.open(tiny_run / f"{name}.png") as image:
        pixels = np.asarray(image.convert("L"), dtype=float)
    assert min(pixels.shape) >= 300
    assert pixels.std() > 5
    assert len(np.unique(pixels)) > 20
    pdf = (tiny_run / f"{name}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/TrueType" in pdf or b"/Type0" in pdf
    assert b"/Type3" not in pdf


def test_the_report_fetches_nothing_and_embeds_its_pictures(tiny_run):
    page = (tiny_run / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    outside = [(tag, source) for tag, source in links.sources if not source.startswith(("data:", "#"))]
    assert all(tag == "a" and (tiny_run / unquote(source)).is_file() for tag, source in outside), outside
    assert sum(tag == "img" for tag, _ in links.sources) == len(PICTURES)
    assert not re.search(r"url\((?!['\"]?data:)|@import|fetch\(|XMLHttpRequest", page)
    for word in (*METHODS, "T-shirt/top", "mismatched"):
        assert word in page


def test_the_manifest_reproduces_the_run(tiny_run):
    manifest = json.loads((tiny_run / "manifest.json").read_text())
    assert manifest["config"]["teacher"]["checkpoint"] == "embedded:fashion-mnist/teacher.safetensors"
    assert manifest["config"]["train"]["epochs"] == 4
    assert manifest["classes"] == ["T-shirt/top", "Pullover", "Coat", "Shirt"]
    assert manifest["images"] == {"train": 640, "validation": 800, "test": 800}
    assert set(manifest["hashes"]) == {"teacher", "train", "validation", "test"}
    assert {"torch", "captum", "zennit", "xaibench"} <= set(manifest["versions"])
    assert manifest["started"]
    assert open_run(tiny_run).finished
    assert {"command", "machine", "layers", "preprocessing"} <= set(manifest)


def test_a_run_of_an_older_version_opens_with_its_results(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "older")
    manifest = json.loads((folder / "manifest.json").read_text())
    later = (("data", "split"), ("data", "label_noise"), ("student", "init"), ("train", "drop_last"))
    for section, key in later:
        del manifest["config"][section][key]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    run = open_run(folder)
    assert run.finished
    assert run.config == open_run(tiny_run).config
    assert len(run.table()) == len(open_run(tiny_run).table())
    digested = json.loads(json.dumps(run.config.for_digests()))
    for section in ("data", "student"):
        assert digested[section] == manifest["config"][section]
    other = run.config.override(["data.split=random", "data.label_noise=0.2", "student.init=torch"]).for_digests()
    assert (other["data"]["split"], other["data"]["label_noise"], other["student"]["init"]) == ("random", 0.2, "torch")


def test_a_student_can_be_loaded_and_is_the_one_that_was_explained(tiny_run):
    run = open_run(tiny_run)
    model, card = load_checkpoint(run.student_path("subdistill/seed0"))
    assert card.classes == run.classes
    assert card.architecture == "resnet18-cifar:4-6-8-8@8"
    assert run.attribution("subdistill/seed0", "lrp").model_hash == state_hash(model)
    about = json.loads(run.student_path("subdistill/seed0").with_name("job.json").read_text())
    history = run.history("subdistill/seed0")
    assert history["validation_accuracy"][about["best_epoch"]] == history["validation_accuracy"].max()


@pytest.mark.slow
def test_the_same_command_again_changes_no_file_and_trains_nothing(
    tiny_run, tiny_config, cli, contents, tmp_path, monkeypatch
):
    config = tmp_path / "tiny.toml"
    config.write_text(tiny_config)
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = contents(folder)

    def refuse(*_args, **_kwargs):
        raise AssertionError("trained or explained again")

    monkeypatch.setattr("xaibench.run.training.distill", refuse)
    monkeypatch.setattr("xaibench.run.explaining.explain_model", refuse)
    monkeypatch.setattr("xaibench.run.faithfulness.flip_area", refuse)
    called = cli("run", config, "--out", folder, "--accelerator", "cpu")
    assert called.code == 0, called.err
    after = contents(folder)
    assert set(after) == set(before)
    changed = {name for name in after if after[name] != before[name]}
    assert changed <= {"report.html", "files.json"}  # the page names the folder, which is another one here


def test_what_is_not_there_says_how_to_make_it(tiny_run, tmp_path):
    (tmp_path / "manifest.json").write_bytes((tiny_run / "manifest.json").read_bytes())
    run = open_run(tmp_path)
    for read, step in (
        (run.scores, "score"),
        (run.predictions, "explain"),
        (lambda: run.history("kd/seed0"), "distill"),
        (lambda: run.attribution("teacher", "lrp"), "explain"),
    ):
        with pytest.raises(RunFolderError, match=f"does not exist yet: run 'xaibench {step} "):
            read()
    with pytest.raises(RunFolderError, match="run 'xaibench explain"):
        _ = run.images
    with pytest.raises(UnknownNameError, match="did you mean 'kd/seed0'"):
        run.student("kd/seed1")
    with pytest.raises(UnknownNameError, match="unknown explainer of this run 'lpr'"):
        run.attribution("teacher", "lpr")
    assert "0 of 3 students distilled" in repr(run)


def test_a_passed_check_names_no_remedy(tiny_pair, tiny_task):
    for explainer, remedy in (
        (IntegratedGradients(), "raise budget"),
        (ShapleySampling(), "choose another baseline"),
    ):
        for residual, said in (([0.0, 0.0, 0.0], False), ([0.0, 0.0, 1.0], True), ([0.0, 1.0, float("nan")], True)):
            measured = {"residual": torch.tensor(residual).double(), "error_estimate": torch.zeros(3).double()}
            (check,), flagged = explainer.judge(measured)
            assert (remedy in check.note) == bool(flagged) == said
    x = tiny_pair.preprocessing(tiny_task.test.images[:4])
    target = Target(torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2]))
    for layer, single in (("layer4", False), ("avgpool", True)):
        located, *_, empty = GradCAM(layer).validate(tiny_pair.student, x, target, tiny_pair.preprocessing)
        assert located.passed == ("choose an earlier layer" not in located.note) == (not single)
        assert "does not depend" not in empty.note
    (*_, empty) = gradient_checks(torch.zeros(3, 2), "the image")
    assert (empty.passed, empty.note) == (False, "of 3: the output does not depend on the image")


def test_maps_that_were_flagged_are_not_scored(tiny_run):
    whole = open_run(tiny_run).attribution("teacher", "lrp")
    part = dataclasses.replace(whole, validity=dataclasses.replace(whole.validity, flagged=(1, 4)))
    assert torch.equal(part.heatmaps, whole.heatmaps)
    assert part.scored_heatmaps.isnan().all(dim=(1, 2)).tolist() == [i in (1, 4) for i in range(len(whole))]
    assert torch.equal(part.scored_heatmaps.nan_to_num(), whole.heatmaps.index_fill(0, torch.tensor([1, 4]), 0.0))


def test_the_number_of_seeds_is_a_whole_number_also_beside_the_teacher(tiny_run):
    table = open_run(tiny_run).table()
    assert table["seeds"].isna().tolist() == [True, False, False, False]
    assert "1.000" not in text_table(table[["method", "seeds"]])
