"""A job says all that a student depends on, and writes its own folder only."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from xaibench.distillation.methods import KD
from xaibench.errors import RunFolderError, UnknownNameError
from xaibench.run.config import RunConfig
from xaibench.run.job import Job, StudentFolder, StudentKey, jobs_of
from xaibench.run.ledger import Ledger
from xaibench.run.training import train

SMALL = """
methods = ["student-only", "kd:temperature=2"]
seeds = [0, 3]
[data]
subtask = "footwear"
fraction = 0.05
[student]
architecture = "resnet18-cifar:4-4-4-4@4"
[train]
epochs = 1
views = 1
precision = "32-true"
"""


@pytest.fixture(scope="module")
def jobs() -> tuple[Job, ...]:
    return jobs_of(RunConfig.parse(SMALL))


def test_equal_methods_make_equal_students() -> None:
    texts = ("kd:temperature=2", "kd: temperature=2.0", "kd:alpha=0.9,temperature=2")
    assert len({StudentKey.of(text, 1) for text in texts}) == 1
    assert StudentKey.of(KD(temperature=2), 1) == StudentKey.of(texts[0], 1)
    key = StudentKey.of("influence[kd+at:kd_weight=0]:refresh=3", 12)
    assert StudentKey.parse(str(key)) == key
    for text in ("kd", "kd/seed", "kd/seed-1", "kd/seedx"):
        with pytest.raises(UnknownNameError, match="METHOD/seedN"):
            StudentKey.parse(text)


def test_a_run_is_a_list_of_jobs(jobs: tuple[Job, ...]) -> None:
    assert [str(job.key) for job in jobs] == [
        "student-only/seed0",
        "student-only/seed3",
        "kd:temperature=2/seed0",
        "kd:temperature=2/seed3",
    ]
    assert len(set(jobs)) == 4
    for job in jobs:
        assert pickle.loads(pickle.dumps(job)) == job


def test_a_job_writes_its_own_folder_and_gives_the_same_student_anywhere(
    jobs: tuple[Job, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    one = train(jobs[2], tmp_path / "one")
    monkeypatch.chdir(tmp_path / "elsewhere")
    other = train(pickle.loads(pickle.dumps(jobs[2])), tmp_path / "other")
    assert one.checkpoint.read_bytes() == other.checkpoint.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "one", "other"]
    assert not any((tmp_path / "elsewhere").iterdir())
    assert sorted(path.name for path in one.folder.iterdir()) == ["history.csv", "job.json", "student.safetensors"]
    before = one.checkpoint.stat().st_mtime_ns
    assert train(jobs[2], tmp_path / "one") == one
    assert one.checkpoint.stat().st_mtime_ns == before


def test_a_student_is_complete_with_its_job_file(tmp_path: Path) -> None:
    student = StudentFolder(tmp_path / "s")
    assert "does not exist yet" in student.trouble
    student.folder.mkdir()
    student.checkpoint.write_bytes(b"weights")
    assert "does not exist yet" in student.trouble
    student.finish({"seed": 0}, ["student.safetensors"])
    assert student.trouble == ""
    student.checkpoint.write_bytes(b"weight5")
    assert "is not what was written" in student.trouble
    student.checkpoint.unlink()
    assert "is missing" in student.trouble
    student.about_path.write_text("[]")
    assert "is damaged" in student.trouble


def test_the_ledger_knows_what_was_written_and_from_what(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    (tmp_path / "a.csv").write_text("1")
    with pytest.raises(RunFolderError, match="run 'xaibench score "):
        ledger.require("a.csv", "score")
    ledger.record("a.csv", source="x")
    assert ledger.require("a.csv", "score", "x") == tmp_path / "a.csv"
    with pytest.raises(RunFolderError, match="is older than what it is made from: run 'xaibench score "):
        ledger.require("a.csv", "score", "y")
    (tmp_path / "a.csv").write_text("2")
    with pytest.raises(RunFolderError, match="is not what was written"):
        ledger.require("a.csv", "score", "x")
    for damage in ("{", "[]", '{"a.csv": 3}', '{"a.csv": {"sha256": 3}}'):
        ledger.path.write_text(damage)
        with pytest.raises(RunFolderError, match=r"files\.json is damaged: delete it, then run"):
            ledger.require("a.csv", "score")
