"""A run folder in which something is damaged, changed or cannot be written: one line, exit code 2, nothing lost."""

import dataclasses
import errno
import itertools
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from xaibench.errors import ExplanationError, RunFolderError
from xaibench.models.checkpoints import state_hash
from xaibench.run import explaining
from xaibench.run.costs import costs_of
from xaibench.run.folder import open_run
from xaibench.run.pipeline import create_run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "manifest.json is corrupt"),
        ("[1, 2]", "is not the manifest of a run"),
        ("{}", "is not the manifest of a run (no 'config')"),
        ("\udcff", "manifest.json is corrupt"),
    ],
)
@pytest.mark.parametrize("command", ["info", "explain", "score", "report", "figure", "distill"])
def test_a_damaged_manifest(cli, tmp_path, contents, text, message, command):
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    before = contents(tmp_path)
    called = cli(command, tmp_path)
    assert called.code == 2
    assert message in called.error
    assert contents(tmp_path) == before


READERS = {
    "predictions.csv": ("explain", lambda run: run.predictions()),
    "validity.csv": ("explain", lambda run: run.validity()),
    "faithfulness.csv": ("explain", lambda run: run.faithfulness()),
    "cost.csv": ("explain", costs_of),
    "images.safetensors": ("explain", lambda run: run.images),
    "explanations.json": ("explain", lambda run: run.explained("lrp")),
    "maps": ("explain", lambda run: run.attribution("kd/seed0", "lrp")),
    "scores.csv": ("score", lambda run: run.scores()),
    "summary.csv": ("score", lambda run: run.summary()),
    "table.csv": ("score", lambda run: run.table()),
    "students/kd/seed0/student.safetensors": ("distill", lambda run: run.student("kd/seed0")),
    "students/kd/seed0/history.csv": ("distill", lambda run: run.history("kd/seed0")),
    "students/kd/seed0/job.json": ("distill", lambda run: run.student("kd/seed0")),
}
"""File of a run -> the command that makes it anew, and what reads it."""

TIMES = ("history.csv", "cost.csv", "job.json", "report.html", "files.json", ".pdf", ".png")


def damage(path, how):
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"\x00\x01damaged\n,,,,\n,")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: 2 * len(content) // 3])
    elif how == "cut at a line":
        lines = content.splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: max(2, len(lines) // 2)]))
    else:  # one byte of a number
        at = max(i for i, byte in enumerate(content[:-10]) if chr(byte).isdigit())
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def place(folder, file):
    return open_run(folder).attribution_path("kd/seed0", "lrp") if file == "maps" else folder / file


@pytest.mark.parametrize("how", ["missing", "garbage", "empty", "cut", "cut at a line", "flipped"])
@pytest.mark.parametrize("file", READERS)
def test_a_damaged_result_is_noticed(tiny_run, tmp_path, file, how):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    step, read = READERS[file]
    read(open_run(folder))
    damage(place(folder, file), how)
    with pytest.raises(RunFolderError, match=f"run 'xaibench {step} ") as caught:
        read(open_run(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["score", "report", "figure"])
def test_nothing_whole_is_overwritten_by_something_incomplete(tiny_run, cli, tmp_path, contents, command):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    place(folder, "maps").unlink()
    before = contents(folder)
    called = cli(command, folder)
    assert called.code == 2
    assert "the maps of kd/seed0 by lrp are missing" in called.error
    assert contents(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("maker", ["distill", "explain", "score"])
def test_the_remedy_makes_the_same_results_again(tiny_run, cli, tmp_path, contents, maker):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    whole = contents(folder)
    hows = itertools.cycle(["flipped", "cut", "missing"])
    for path in [place(folder, file) for file, (step, _) in READERS.items() if step == maker]:
        damage(path, next(hows))
    if maker == "distill":
        damage(folder / "subspace.safetensors", "flipped")
        shutil.rmtree(folder / "students" / "subdistill")
    steps = ("distill", "explain", "score")
    for step in steps[steps.index(maker) :]:
        called = cli(step, folder, *(("--accelerator", "cpu") if step == "distill" else ()))
        assert called.code == 0, called
    for _, read in READERS.values():
        read(open_run(folder))
    after = contents(folder)
    assert set(after) == set(whole)
    assert {k: v for k, v in after.items() if not k.endswith(TIMES)} == {
        k: v for k, v in whole.items() if not k.endswith(TIMES)
    }


@pytest.mark.slow
def test_scores_of_other_maps_are_out_of_date(tiny_run, cli, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    run = open_run(folder)
    explain = dataclasses.replace(run.config.explain, contrast="own", explainers=("lrp",), images=4)
    own = dataclasses.replace(run.config, explain=explain)
    create_run(own, folder, extend=True)
    for command, remedy in (("score", "explain"), ("report", "score")):
        called = cli(command, folder)
        assert called.code == 2
        assert f"is older than what it is made from: run 'xaibench {remedy}" in called.error
    assert cli("explain", folder).code == 0
    called = cli("report", folder)
    assert "is older than what it is made from: run 'xaibench score" in called.error
    assert cli("score", folder).code == 0
    whole = shutil.copytree(tiny_run, tmp_path / "whole")
    shutil.rmtree(whole / "attributions")
    create_run(own, whole, extend=True)
    for command in ("explain", "score"):
        assert cli(command, whole).code == 0
    assert (folder / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()


@pytest.mark.slow
def test_a_student_whose_explanation_is_refused_is_shown_as_refused(tiny_run, cli, tmp_path, monkeypatch):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    explain, teacher = explaining.explain_model, open_run(folder).attribution("teacher", "lrp").model_hash

    def refuses(model, *args, **kwargs):
        if state_hash(model) != teacher:
            raise ExplanationError("not conserved")
        return explain(model, *args, **kwargs)

    open_run(folder).attribution_path("kd/seed0", "lrp").unlink()
    monkeypatch.setattr(explaining, "explain_model", refuses)
    assert cli("explain", folder).code == 0
    assert cli("score", folder).code == 0
    run = open_run(folder)
    assert "kd/seed0" not in run.explained("lrp")
    with pytest.raises(ExplanationError, match="kd/seed0 has no valid explanation by lrp: not conserved"):
        run.attribution("kd/seed0", "lrp")
    refused = run.validity().query("check == 'refused'")
    assert list(refused["model"]) == ["kd/seed0"]
    assert set(run.scores().query("explainer == 'lrp'")["method"]) == {"student-only", "subdistill"}
    assert cli("report", folder).code == 0


def test_a_teacher_that_changed_since_the_run_began(tiny_run, cli, tmp_path, contents):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["hashes"]["teacher"] = "0" * 16
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = contents(folder)
    called = cli("explain", folder)
    assert called.code == 2
    assert "changed since the run began: restore it or start in another folder" in called.error
    assert contents(folder) == before


def test_a_preprocessing_that_changed_since_the_run_began(tiny_run, cli, tmp_path, contents):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["preprocessing"]["mean"] = [0.5]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = contents(folder)
    for command in ("explain", "distill"):
        called = cli(command, folder)
        assert called.code == 2
        assert "was made with Preprocessing(mean=(0.5,)" in called.error
        assert "start in another folder" in called.error
    assert contents(folder) == before


def test_layer_pairs_that_changed_since_the_run_began(tiny_run, cli, tmp_path, contents):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["layers"] = ["layer1:layer1"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = contents(folder)
    called = cli("distill", folder)
    assert called.code == 2
    assert "pairs the layers layer1:layer1, now layer1:layer1, layer2:layer2" in called.error
    assert contents(folder) == before


def test_an_unreadable_model_card(cli, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "t.safetensors", metadata={"xaibench": "{}"})
    called = cli("info", tmp_path / "t.safetensors")
    assert called.code == 2
    assert "has an unreadable model card" in called.error


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_takes_nothing(tiny_run, cli, tmp_path, contents, monkeypatch, code):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = contents(folder)

    def full(*_args, **_kwargs):
        raise OSError(code, errno.errorcode[code])

    monkeypatch.setattr("xaibench.files.tempfile.mkstemp", full)
    for command in (("score", folder), ("report", folder), ("figure", folder, "--out", folder / "x.png")):
        called = cli(*command)
        assert called.code == 2
        assert "cannot write" in called.error
        assert "free space or choose another folder" in called.error
    assert contents(folder) == before
