"""A cue study: what it measures on models whose answer is known, and the folder that it leaves."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from xaibench.attribution.result import Attribution
from xaibench.data.cue_kinds import parse_cue
from xaibench.data.cues import contaminate
from xaibench.data.digits import digit_tiles
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.tasks import load_task
from xaibench.distillation.distill import make_fabric, train_classifier
from xaibench.distillation.recipe import Recipe
from xaibench.errors import ConfigError, ExplanationError, RunFolderError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import ModelCard, save_checkpoint, state_hash
from xaibench.questions import cues
from xaibench.questions.cue_scores import CueExam, summarise_cues
from xaibench.questions.cues import cue_study
from xaibench.run.config import RunConfig
from xaibench.run.inputs import load_assets
from xaibench.similarity.intervals import mean_interval
from xaibench.similarity.localisation import LOCALISATIONS

CONFIG = """
methods = ["student-only", "kd"]
[student]
architecture = "resnet18-cifar:4-4-4-4@4"
[train]
epochs = 16
batch_size = 16
lr = 2e-2
augment = "none"
precision = "32-true"
[explain]
images = 9
explainers = ["lrp", "lrp:gamma=0.5"]
"""
STUDY = {"cue": "square:size=4,margin=1", "cue_class": "low", "contaminations": (0, 1), "accelerator": "cpu"}
PREDICTED = {"accuracy", "marked_accuracy", "attack_success", "wrong_accuracy"}
CLASSES = ("high", "low", "middle")
SIDE = 16


def bands(root, split, per_class, seed):
    """Noise with a slightly brighter band, high, low or in the middle, as an image folder."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (root / split / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 120, (SIDE, SIDE, 3))
            pixels[5 * (0, 2, 1)[label] :][:5] += 30
            Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i:02d}.png")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Three classes, 72 + 18 + 36 images, and a teacher that was trained on them without any mark."""
    root = tmp_path_factory.mktemp("bands")
    bands(root, "train", 30, 0)
    bands(root, "test", 12, 1)
    task = load_task(f"imagefolder:{root}", validation=0.2)
    normalise = Preprocessing((0.25,) * 3, (0.15,) * 3)
    recipe = Recipe(epochs=6, batch_size=16, lr=1e-2, augment="none", precision="32-true")
    name, fabric = "resnet18-cifar:8-8-8-8@8", make_fabric(recipe, "cpu")
    made = train_classifier(build_model(name, 3), task.train, task.validation, normalise, recipe, fabric=fabric)
    card = ModelCard(name, CLASSES, normalise, {})
    save_checkpoint(root / "teacher.safetensors", made.student, card)
    where = [f"data.dataset='imagefolder:{root}'", f"teacher.checkpoint='{root}/teacher.safetensors'"]
    return RunConfig.parse(CONFIG).override(where)


@pytest.fixture(scope="module")
def study(settings):
    """study(folder) -> its table."""
    return lambda folder, **options: cue_study(settings, folder, **(STUDY | options))


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory):
    """The folder of a finished study. Shared: copy it before anything is written into it."""
    folder = tmp_path_factory.mktemp("cues") / "study"
    study(folder)
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "study")


class Looks(nn.Module):
    """Takes an image for class 1 where the mean of a patch is above a margin, else for class 0."""

    def __init__(self, here, margin=0.5):
        super().__init__()
        self.head = nn.Linear(16 * 16, 2)
        weight = torch.zeros(2, 16, 16)
        weight[1][here] = 1 / weight[1][here].numel()
        with torch.no_grad():
            self.head.weight.copy_(weight.flatten(1))
            self.head.bias.copy_(torch.tensor([margin, 0.0]))

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.fixture
def exam():
    """40 dark grey images of two classes; class "b" has the mark, a 5x5 square at (2, 2)."""
    pixels = torch.randint(0, 60, (40, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    test = ImageSet(pixels, torch.arange(40) % 2, ("a", "b"), tuple(f"test/{i}" for i in range(40)), "noise")
    model = Looks((slice(2, 7), slice(2, 7)))
    return CueExam.create(test, model, Preprocessing((0.0,), (1.0,)), parse_cue("square"), "b", images=10)


def means(table):
    return table.groupby("quantity")[["value", "chance"]].mean()


def test_a_model_that_sees_only_the_mark_is_found_out(exam):
    measured = means(exam.predictions(Looks((slice(2, 7), slice(2, 7)))))
    assert measured.loc["attack_success"].tolist() == [1.0, 0.0]
    assert measured.loc["accuracy", "value"] == 0.5  # without the mark all are "a"
    assert measured.loc["marked_accuracy", "value"] == 0.5  # with it all are "b"
    assert measured.loc["wrong_accuracy", "value"] == 0.0


def test_a_model_that_looks_elsewhere_is_not_moved_by_the_mark(exam):
    for margin, expected in ((0.5, 0.0), (-0.5, 1.0)):
        measured = means(exam.predictions(Looks((slice(9, 14), slice(9, 14)), margin)))
        assert measured.loc["attack_success"].tolist() == [expected, expected]
        assert measured.loc["accuracy", "value"] == measured.loc["marked_accuracy", "value"] == 0.5


def test_attack_success_is_asked_of_the_other_classes_and_accuracy_of_all(exam):
    table = exam.predictions(Looks((slice(2, 7), slice(2, 7))))
    asked = table.groupby("quantity")["image"].agg(set)
    assert asked["accuracy"] == asked["marked_accuracy"] == set(exam.clean.keys)
    assert asked["attack_success"] == {key for key, label in zip(exam.clean.keys, exam.clean.labels) if label == 0}


class Reads(nn.Module):
    """Takes an image for the digit that stands at (2, 2), of 0 and 1."""

    def __init__(self):
        super().__init__()
        tiles = torch.from_numpy(digit_tiles(9)[:2]).float()
        self.tiles = nn.Parameter(tiles.flatten(2))

    def forward(self, x):
        seen = x[:, :, 2:11, 2:11].flatten(1)
        return -torch.cdist(seen, self.tiles.flatten(0, 1)).unflatten(1, (2, -1)).amin(2)


class Noise(nn.Module):
    """Takes an image for the class of its lower left pixel's parity."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        odd = (x[:, 0, -1, 0] * 255).round() % 2
        return self.scale * torch.stack([1 - odd, odd], 1)


@pytest.fixture
def digits():
    """40 images of noise; a digit tells their class."""
    pixels = torch.randint(0, 60, (40, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    test = ImageSet(pixels, torch.arange(40) % 2, ("a", "b"), tuple(f"test/{i}" for i in range(40)), "noise")
    return CueExam.create(test, Reads(), Preprocessing((0.0,), (1.0,)), parse_cue("digit"), images=10)


def test_a_model_that_reads_the_digit_follows_it_to_the_wrong_class(digits):
    measured = means(digits.predictions(Reads()))["value"]
    assert measured[["marked_accuracy", "wrong_accuracy", "attack_success"]].tolist() == [1, 0, 1]
    table = digits.predictions(Reads())
    assert set(table.groupby("quantity")["image"].count()) == {40}


def test_a_model_that_does_not_read_it_is_not_moved(digits):
    measured = means(digits.predictions(Noise()))
    accuracy = measured.loc["accuracy", "value"]
    assert 0.2 < accuracy < 0.8
    assert measured.loc[["marked_accuracy", "wrong_accuracy"], "value"].tolist() == [accuracy] * 2
    assert measured.loc["attack_success"].tolist() == pytest.approx([1 - accuracy] * 2)


def test_what_speaks_for_the_wrong_digit_is_explained(digits):
    labels = digits.shown.images.labels
    assert torch.equal(digits.target.label, 1 - labels)
    assert torch.equal(digits.target.contrast, labels)
    assert (digits.told == 1 - digits.clean.labels).all()
    shown = digits.shown.images.images[:, 0, 2:11, 2:11].numpy() / 255
    for box, told in zip(shown, digits.target.label.tolist()):
        assert np.abs(digit_tiles(9)[told] - box).max(axis=(1, 2)).min() < 0.003


def test_relevance_is_located_against_the_box_of_the_mark(exam):
    maps = torch.zeros(10, 16, 16)
    maps[:, 2:7, 2:7], maps[:, 12, 12] = 1.0, 5.0
    table = means(exam.localisations(maps, "lrp"))
    assert set(table.index) == set(LOCALISATIONS)
    assert table.loc["mass", "value"] == pytest.approx(25 / 30)
    assert table.loc["net_mass"].tolist() == pytest.approx([25 / 30, 25 / 256])
    assert table.loc["mass", "chance"] == pytest.approx(25 / 256)
    assert table.loc["pointing"].tolist() == pytest.approx([0.0, 25 / 256])
    assert table.loc["topk", "value"] == pytest.approx(24 / 25)


def test_one_question_is_asked_of_all_shown_images(exam):
    assert exam.target.label.tolist() == [1] * 10
    assert exam.target.contrast.tolist() == [0] * 10
    assert exam.shown.chosen.all()
    assert sorted(exam.shown.images.labels.tolist()) == [0] * 5 + [1] * 5


def test_the_summary_holds_means_intervals_and_paired_differences():
    rng = np.random.default_rng(0)
    values = {("teacher", math.nan, 0): rng.random(6)} | {("kd", 0.5, seed): rng.random(6) for seed in (0, 1)}
    values[("kd", 0.5, 1)][2] = np.nan
    rows = [
        {"contamination": level, "method": method, "seed": seed, "image": f"i{i}", "value": v, "chance": 0.1 * i}
        for (method, level, seed), many in values.items()
        for i, v in enumerate(many)
    ]
    scores = pd.DataFrame(rows).assign(explainer="lrp", quantity="mass")
    table = summarise_cues(scores.sample(frac=1, random_state=1)).set_index("method")
    students = np.delete(np.stack([values[("kd", 0.5, seed)] for seed in (0, 1)]), 2, axis=1)
    goal = np.delete(values[("teacher", math.nan, 0)], 2)
    for name, want in (("", students), ("difference", students - goal)):
        interval = mean_interval(want)
        columns = ["difference", "difference_low", "difference_high"] if name else ["mean", "low", "high"]
        assert table.loc["kd", columns].tolist() == pytest.approx([interval.mean, interval.low, interval.high])
    assert table.loc["kd", ["seeds", "images", "n", "nan"]].tolist() == [2, 5, 10, 1]
    assert table.loc["kd", "chance"] == pytest.approx(0.26)
    assert table.loc["teacher", "mean"] == pytest.approx(goal.mean())
    assert np.isnan(table.loc["teacher", ["contamination", "difference", "difference_low"]].tolist()).all()


def test_the_folder_holds_the_study_beside_the_run(folder, contents):
    students = [f"{at}students/{m}/seed0" for at in ("", "contamination-1.0/") for m in ("student-only", "kd")]
    files = {f"{s}/{f}" for s in students for f in ("student.safetensors", "history.csv", "job.json")}
    files |= {f"{stem}.{kind}" for stem in ("cues", "cues-gallery") for kind in ("pdf", "png")}
    files |= {"manifest.json", "cues.csv", "cues-scores.csv", "cues.json"}
    found = set(contents(folder))
    maps = {name for name in found if re.fullmatch(r"attributions/[0-9a-f]{40}\.safetensors", name)}
    asked = {name for name in found if re.fullmatch(r"(contamination-1\.0/)?teacher/[0-9a-f]{40}\.safetensors", name)}
    assert len(asked) == 2 * 2  # logits of validation images and of KD's views, with each share of marked images
    assert found - maps - asked == files
    assert len(maps) == 5
    about = json.loads((folder / "cues.json").read_text())
    want = {"cue": "square:size=4,corner=top-left,margin=1", "class": "low"}
    assert about["options"] == want | {"contaminations": [0.0, 1.0], "explainers": ["lrp"]}
    assert list(about["made_from"]["students"]) == students
    assert " ".join(about["command"]) == (
        "cues CONFIG --out RUN --cue square:size=4,corner=top-left,margin=1 --class low "
        "--contamination 0.0 --contamination 1.0 --explainer lrp"
    )


def test_the_table_has_a_row_for_everything_that_was_measured(folder):
    table = pd.read_csv(folder / "cues.csv")
    kinds = {(q, "-") for q in PREDICTED} | {(q, "lrp") for q in LOCALISATIONS}
    rows = table.groupby(["method", "contamination"], dropna=False)[["quantity", "explainer"]].apply(
        lambda part: set(part.itertuples(index=False, name=None))
    )
    assert set(rows.index.get_level_values(0)) == {"teacher", "student-only", "kd"}
    assert len(rows) == 5
    assert all(found == kinds for found in rows)
    teacher = table[table["method"] == "teacher"]
    assert teacher["contamination"].isna().all()
    assert teacher["difference"].isna().all()
    mass = table[table["quantity"] == "mass"]
    assert mass["chance"].to_numpy() == pytest.approx(16 / SIDE**2)
    assert (table.dropna(subset="low")["low"] <= table.dropna(subset="low")["high"]).all()
    students = table[table["method"] != "teacher"].set_index(["contamination", "method", "quantity"])
    goal, undefined = (teacher.set_index("quantity")[column] for column in ("mean", "nan"))
    for (_, _, quantity), row in students.iterrows():
        if row["nan"] == 0 and undefined[quantity] == 0:
            assert row["difference"] == pytest.approx(row["mean"] - goal[quantity])


def test_a_student_of_marked_images_relies_on_the_mark_and_one_of_clean_images_does_not(folder):
    table = pd.read_csv(folder / "cues.csv").set_index(["quantity", "method", "contamination"])
    for method in ("student-only", "kd"):
        clean, marked = (table.loc[("attack_success", method, level)] for level in (0.0, 1.0))
        assert marked["low"] > clean["high"]
        assert marked["difference_low"] > 0
        clean, marked = (table.loc[("mass", method, level)] for level in (0.0, 1.0))
        assert marked["low"] > clean["mean"]
        assert marked["low"] > marked["chance"]
        net = [table.loc[("net_mass", method, level)] for level in (0.0, 1.0)]
        assert net[1]["low"] > net[0]["high"]
        assert net[1]["difference_low"] > 0


def test_each_student_was_trained_on_its_own_contamination(folder, settings):
    assets = load_assets(settings)
    train = assets.task.train
    marked = contaminate(train, parse_cue(STUDY["cue"]), "low", 1.0).images
    for path, images in ((folder, train), (folder / "contamination-1.0", marked)):
        about = json.loads((path / "students/kd/seed0/job.json").read_text())
        assert about["hashes"]["train"] == images.content_hash()
        assert about["hashes"]["student"] == state_hash(assets.student_pair(0).student)


def test_the_same_study_again_changes_no_file_and_makes_no_student_and_no_heatmap(study, copied, contents, monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("made again")

    before = contents(copied)
    monkeypatch.setattr(cues, "explain_model", never)
    monkeypatch.setattr("xaibench.run.training.distill", never)
    for devices in (1, 2):
        study(copied, devices=devices)
    assert contents(copied) == before


@pytest.mark.slow
def test_a_study_that_is_killed_twice_goes_on_to_the_same_files(study, settings, folder, copied, contents):
    before = contents(folder)
    shutil.rmtree(copied / "contamination-1.0")
    for path in [*copied.glob("attributions/*"), *copied.glob("cues*")]:
        path.unlink()
    code = "from xaibench.run.config import RunConfig; from xaibench.questions.cues import cue_study; "
    code += f"cue_study(RunConfig.from_dict({settings.to_dict()!r}), {str(copied)!r}, **{STUDY!r})"
    for phase in ("contamination-1.0/students/student-only/seed0/resume.pt", "cues.csv"):
        process = subprocess.Popen([sys.executable, "-c", code])
        while not (copied / phase).exists() and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (copied / "cues.json").exists()
    study(copied)
    after = contents(copied)
    assert set(after) == set(before)
    varying = ("history.csv", "job.json", ".pdf", "cues.json")  # hold seconds, dates and hashes of files that do
    same = {name for name in before if not name.endswith(varying) and not name.startswith("attributions/")}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}


def test_what_is_damaged_is_made_again(study, folder, copied, contents):
    before = contents(copied)
    heatmap = next(copied.glob("attributions/*"))
    heatmap.write_bytes(b"damaged")
    (copied / "cues.csv").write_bytes((copied / "cues.csv").read_bytes()[:-40])
    study(copied)
    after = contents(copied)
    made = {f"attributions/{heatmap.name}", "cues.pdf", "cues-gallery.pdf", "cues.json"}
    assert {name for name in before if before[name] != after.get(name)} <= made
    whole, again = (Attribution.load(root / "attributions" / heatmap.name) for root in (folder, copied))
    assert torch.equal(whole.relevance, again.relevance)


def test_students_of_another_mark_are_refused_without_a_record(study, copied, contents):
    (copied / "cues.json").unlink()
    before = contents(copied)
    with pytest.raises(
        RunFolderError, match=r"contamination-1.0/students/.* was trained on other images, as of another"
    ):
        study(copied, cue="plus:size=4")
    assert contents(copied) == before


@pytest.mark.slow
def test_another_mark_is_refused_and_more_contaminations_extend(study, settings, copied, contents):
    before = contents(copied)
    with pytest.raises(RunFolderError, match=r"\(cue was 'square:.*', now 'plus:.*'\): choose another folder$"):
        study(copied, cue="plus:size=4", extend=True)
    with pytest.raises(RunFolderError, match="class was 'low', now 'high'"):
        study(copied, cue_class="high", extend=True)
    with pytest.raises(RunFolderError, match=r"contaminations was \[0.0, 1.0\], now \[1.0\].*--extend to keep"):
        study(copied, contaminations=[1])
    with pytest.raises(RunFolderError, match=r"holds a run with another configuration \(train.lr"):
        cue_study(settings.override(["train.lr=0.1"]), copied, **STUDY)
    assert contents(copied) == before
    earlier = pd.read_csv(copied / "cues.csv")
    table = study(copied, contaminations=[1], explainers=["lrp:gamma=0.5"], extend=True)
    assert set(table["contamination"].dropna()) == {0.0, 1.0}
    assert set(table["explainer"]) == {"-", "lrp", "lrp:gamma=0.5"}
    kept = pd.read_csv(copied / "cues.csv").query("explainer != 'lrp:gamma=0.5'").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, earlier)
    noted = json.loads((copied / "cues.json").read_text())["options"]
    assert (noted["contaminations"], noted["explainers"]) == ([0.0, 1.0], ["lrp", "lrp:gamma=0.5"])
    fewer = settings.override(["explain.images=6"])
    changed = contents(copied)
    with pytest.raises(RunFolderError, match="holds a cue study of another setting"):
        cue_study(fewer, copied, **(STUDY | {"cue": "text"}), extend=True)
    assert contents(copied) == changed
    table = cue_study(fewer, copied, **(STUDY | {"contaminations": [1]}), explainers=["lrp:gamma=0.5"], extend=True)
    assert table.loc[table["explainer"] != "-", "images"].max() == 6
    after = contents(copied)
    kept = {name for name in before if "students/" in name}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_the_scores_of_a_student_without_a_valid_explanation_are_undefined(study, settings, copied, monkeypatch):
    explain, teacher = cues.explain_model, state_hash(load_assets(settings).pair.teacher)

    def refuses(model, *args, **kwargs):
        if state_hash(model) != teacher:
            raise ExplanationError("not conserved")
        return explain(model, *args, **kwargs)

    (copied / "cues.json").unlink()
    monkeypatch.setattr(cues, "explain_model", refuses)
    table = study(copied)
    kd, of_teacher = (table[table["method"] == method] for method in ("kd", "teacher"))
    assert set(kd["quantity"]) == set(of_teacher["quantity"]) == PREDICTED | set(LOCALISATIONS)
    assert kd.loc[kd["quantity"].isin(PREDICTED), "mean"].notna().all()
    undefined = kd[kd["quantity"].isin(LOCALISATIONS)]
    assert undefined["mean"].isna().all()
    assert (undefined["n"] == 0).all()
    assert (undefined["nan"] == 9).all()
    assert of_teacher.loc[of_teacher["quantity"] == "mass", "mean"].notna().all()


def test_digits_on_all_classes_are_studied_beside_marks_on_one(settings, tmp_path):
    with pytest.raises(ConfigError, match="'digit' stands on images of all classes: leave out the class 'low'"):
        cue_study(settings, tmp_path / "study", cue="digit:size=7,margin=0", cue_class="low")
    assert not (tmp_path / "study").exists()
    chosen = {"cue": "digit:size=7,margin=0", "contaminations": [1], "accelerator": "cpu"}
    one = settings.override(['methods=["student-only"]', "train.lr=0.01"])
    table = cue_study(one, tmp_path / "study", **chosen).set_index(["quantity", "method"])
    noted = json.loads((tmp_path / "study/cues.json").read_text())
    assert noted["options"]["class"] is None
    assert " ".join(noted["command"]) == (
        "cues CONFIG --out RUN --cue digit:size=7,corner=top-left,margin=0 --contamination 1.0 --explainer lrp"
    )
    about = json.loads((tmp_path / "study/contamination-1.0/students/student-only/seed0/job.json").read_text())
    train = contaminate(load_assets(one).task.train, parse_cue(chosen["cue"]), None, 1.0).images
    assert about["hashes"]["train"] == train.content_hash()
    assert set(table.loc["attack_success"]["images"]) == {36}
    student, teacher = (table.xs(who, level="method") for who in ("student-only", "teacher"))
    assert student.loc["attack_success", "difference_low"] > 0
    assert student.loc["marked_accuracy", "mean"] > student.loc["wrong_accuracy", "mean"]
    assert student.loc["net_mass", "mean"] > teacher.loc["net_mass", "mean"]
    assert (tmp_path / "study/cues-gallery.png").is_file()
