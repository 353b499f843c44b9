"""A run folder in which something is damaged, changed or cannot be written: one line, exit code 2, nothing lost."""

import errno
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file


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


@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("scores.csv", "report"),
        ("predictions.csv", "score"),
        ("images.safetensors", "figure"),
        ("attributions/lrp/teacher.safetensors", "score"),
        ("students/kd/seed0/student.safetensors", "explain"),
        ("students/kd/seed0/student.safetensors", "info"),
    ],
)
def test_a_damaged_result_is_named_with_the_remedy(tiny_run, cli, tmp_path, contents, file, command):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    (folder / file).write_bytes(b"\x00\x01damaged\n,,,,\n,")
    before = contents(folder)
    called = cli(command, folder / file if command == "info" else folder)
    assert called.code == 2
    assert file.rpartition("/")[2] in called.error
    assert any(word in called.error for word in ("run 'xaibench", "again", "delete it"))
    assert contents(folder) == before


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
