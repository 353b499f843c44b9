"""A run that was interrupted or killed goes on to the results of an uninterrupted one, and loses nothing."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from xaibench.distillation import trainer
from xaibench.errors import RunFolderError
from xaibench.files import write_atomically
from xaibench.run.config import RunConfig
from xaibench.run.pipeline import run_config

CONFIG = """
methods = ["subdistill:layer_weight=1"]
[data]
subtask = "footwear"
fraction = 0.06
[student]
architecture = "resnet18-cifar:4-4-6-6@4"
[train]
epochs = 3
[explain]
images = 3
explainers = ["lrp"]
"""
STUDENT = "students/subdistill_layer_weight_1/seed0"
# Runs the command line in children of one process, so that what they import is imported once. Each is killed when it is
# about to put the n-th file of a name into place, or can write only small files.
PROGRAM = """
import json, os, resource, signal, sys
from pathlib import Path
from xaibench.cli import main
import xaibench.run.page, xaibench.run.pipeline
endings, arguments = json.loads(sys.argv[1]), sys.argv[2:]
def kill_at(name, count):
    replace, seen = Path.replace, []
    def last_words(self, target):
        if name in str(target):
            seen.append(target)
            if len(seen) == count:
                os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)
    Path.replace = last_words
for ending in endings:
    child = os.fork()
    if not child:
        kill_at(*ending) if ending else resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        sys.argv = ["xaibench", *arguments]
        sys.exit(main())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [str(path) for path in Path(arguments[arguments.index("--out") + 1]).rglob(".*.partial*")]
    print(json.dumps({"ending": ending, "code": code, "partial": left}), flush=True)
"""
# A kill in each phase: moments, training, the student's files, explaining, tables, drawing.
KILLS = (
    ("subspace.safetensors", 1),
    ("resume.pt", 2),
    ("job.json", 1),
    ("attributions/", 2),
    ("faithfulness.csv", 1),
    ("explanations.json", 1),
    ("summary.csv", 1),
    ("similarity.png", 1),
    ("report.html", 1),
)
# What holds no times and no paths of the run.
SAME = ("images", "subspace", "explanations", "predictions", "validity", "faithfulness", "scores", "summary", "table")


def bytes_of(folder):
    return (folder / STUDENT / "student.safetensors").read_bytes()


def doomed(endings, *arguments):
    """What each of `endings` left, (name, count) of the file at which to be killed or None for a full disk; stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", PROGRAM, json.dumps(endings), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("resume") / "config.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def uninterrupted(config):
    return run_config(RunConfig.load(config), config.parent / "whole", accelerator="cpu").folder


@pytest.mark.slow
def test_a_run_that_is_killed_in_every_phase_gives_the_same_results(config, uninterrupted, cli, tmp_path, contents):
    folder = tmp_path / "run"
    command = ("run", config, "--out", folder, "--accelerator", "cpu")
    left, told = doomed(KILLS, *command)
    assert [tuple(one["ending"]) for one in left] == list(KILLS)
    for one in left:
        assert one["code"] == -signal.SIGKILL, (one, told)
        assert one["partial"], one
    called = cli(*command)
    assert called.code == 0, called.err
    assert not list(folder.rglob(".*.partial*"))
    assert not list(folder.rglob("resume.pt"))
    ours, theirs = contents(folder), contents(uninterrupted)
    assert set(ours) == set(theirs)
    kept = [name for name in theirs if name.startswith("attributions/") or name.partition(".")[0] in SAME]
    assert len(kept) >= len(SAME) + 3
    assert {name: ours[name] for name in kept} == {name: theirs[name] for name in kept}
    assert bytes_of(folder) == bytes_of(uninterrupted)
    history = (folder / STUDENT / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in history[1:]] == ["0", "1", "2"]


def test_an_interrupted_run_exits_with_130_and_resumes(config, uninterrupted, cli, tmp_path, monkeypatch):
    folder, write, calls = tmp_path / "run", trainer.write_atomically, []

    def interrupted(path, function):
        write(path, function)
        calls.append(path)
        raise KeyboardInterrupt

    command = ("distill", config, "--out", folder, "--accelerator", "cpu")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "write_atomically", interrupted)
        called = cli(*command)
    assert called.code == 130
    assert called.error == "error: interrupted: start the same command again to go on where it stopped"
    assert len(calls) == 1
    assert cli(*command).code == 0
    assert bytes_of(folder) == bytes_of(uninterrupted)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(config, uninterrupted, cli, tmp_path, contents):
    folder = tmp_path / "run"
    command = ("distill", config, "--out", folder, "--accelerator", "cpu")
    (left,), told = doomed([None], *command)  # a line of stdout more would be no JSON
    assert left["code"] == 2, told
    last = told.splitlines()[-1]
    assert last.startswith("error: cannot write ")
    assert last.endswith("free space or choose another folder")
    assert "Traceback" not in told
    assert set(contents(folder)) == {"manifest.json"}
    assert cli(*command).code == 0
    assert bytes_of(folder) == bytes_of(uninterrupted)


def test_the_state_of_training_survives_a_full_disk(tmp_path, monkeypatch):
    """The trainer's own file, too: torch reports a full disk as a RuntimeError."""
    path = tmp_path / "resume.pt"
    path.write_text("the last epoch")

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunFolderError, match="No space left on device: free space"):
        write_atomically(path, partial(trainer._save, {"epoch": torch.zeros(3)}))
    assert path.read_text() == "the last epoch"
    assert [p.name for p in tmp_path.iterdir()] == ["resume.pt"]


def test_a_damaged_resume_file_is_named_and_its_remedy_works(config, uninterrupted, cli, tmp_path, contents):
    folder = shutil.copytree(uninterrupted, tmp_path / "run")
    (folder / STUDENT / "job.json").unlink()
    (folder / STUDENT / "student.safetensors").rename(folder / STUDENT / "resume.pt")
    before = contents(folder)
    called = cli("distill", folder, "--accelerator", "cpu")
    assert called.code == 2
    assert "resume.pt" in called.error
    assert "delete it to train from the start" in called.error
    assert contents(folder) == before
    (folder / STUDENT / "resume.pt").unlink()
    assert cli("distill", folder, "--accelerator", "cpu").code == 0
    assert bytes_of(folder) == bytes_of(uninterrupted)
