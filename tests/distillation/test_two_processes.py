"""Data-parallel training: the same student as in one process, one that writes, and all centred alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


def train(devices: int, folder: Path, method: str) -> list[tuple[dict[str, list[float]], dict[str, torch.Tensor]]]:
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), str(devices), str(folder), method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"student-{rank}.pt") for rank in range(devices)]


@pytest.mark.parametrize(
    "method", ["subdistill:kd_weight=0", "subdistill:centring=mean", "subdistill:centring=running"]
)
def test_two_processes_train_the_student_of_one(method: str, tmp_path: Path) -> None:
    ((history, weights),) = train(1, tmp_path / "one", method)
    for other_history, other_weights in train(2, tmp_path / "two", method):
        assert other_history["loss"] == pytest.approx(history["loss"], rel=1e-3)
        assert other_history["validation_accuracy"] == pytest.approx(history["validation_accuracy"], abs=0.1)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, rtol=1e-2, atol=1e-4)
    assert (tmp_path / "two/epochs-0").read_text() == "0\n1\n2\n"
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "epochs-0",
        "resume.pt",
        "student-0.pt",
        "student-1.pt",
    ]
