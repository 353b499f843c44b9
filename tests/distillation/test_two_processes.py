"""Data-parallel training: the same student as in one process, one that writes, and all centred alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


METHODS = ("subdistill:kd_weight=0", "subdistill:centring=mean", "subdistill:centring=running")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of processes -> the folder with a folder for the students of each method."""
    folders = {}
    for devices in (1, 2):
        folders[devices] = tmp_path_factory.mktemp(f"devices{devices}")
        for number in range(len(METHODS)):
            (folders[devices] / str(number)).mkdir()
        command = [sys.executable, str(SCRIPT), str(devices), str(folders[devices]), *METHODS]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(METHODS)), ids=METHODS)
def test_two_processes_train_the_student_of_one(trained: dict[int, Path], number: int) -> None:
    one, two = (trained[devices] / str(number) for devices in (1, 2))
    history, weights = torch.load(one / "student-0.pt")
    for rank in range(2):
        other_history, other_weights = torch.load(two / f"student-{rank}.pt")
        assert other_history["loss"] == pytest.approx(history["loss"], rel=1e-3)
        assert other_history["validation_accuracy"] == pytest.approx(history["validation_accuracy"], abs=0.1)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, rtol=1e-2, atol=1e-4)
    assert (two / "epochs-0").read_text() == "0\n1\n2\n"
    assert sorted(p.name for p in two.iterdir()) == ["epochs-0", "resume.pt", "student-0.pt", "student-1.pt"]
