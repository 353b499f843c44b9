"""The commands, one by one: what they print where, what they leave, and their exit codes."""

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from xaibench.data.datasets import load_dataset
from xaibench.models.checkpoints import load_checkpoint
from xaibench.models.predict import predict_logits
from xaibench.study import open_run


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
    for word in ("fashion-mnist", "footwear", "subdistill", "prcaposdef", "lrp", "cosine", "demo"):
        assert word in everything.out


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


def test_lab_needs_a_folder_and_hands_on_the_exit_code(cli, tmp_path, monkeypatch):
    called = cli("lab", tmp_path / "none")
    assert called.code == 2
    assert "give the folder of your notebooks" in called.error
    commands = []
    monkeypatch.setattr("subprocess.call", lambda command: commands.append(command) or 7)
    assert cli("lab", tmp_path).code == 7
    assert commands == [[sys.executable, "-m", "jupyterlab", str(tmp_path)]]


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
