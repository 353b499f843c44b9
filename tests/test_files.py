from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xaibench.errors import RunFolderError
from xaibench.files import sha256_of_file, sweep_partials, write_atomically, write_json, write_text


def test_text_and_json_come_back_and_folders_are_made(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a" / "b.json", {"z": 1, "a": "ä"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"z": 1, "a": "ä"}
    assert path.read_text(encoding="utf-8").index("z") < path.read_text(encoding="utf-8").index('"a"')
    assert write_text(path, "new").read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_writer_sees_the_suffix_of_the_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x.safetensors", lambda partial: partial.write_text(partial.suffix))
    assert (tmp_path / "x.safetensors").read_text() == ".safetensors"


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_the_old_file_stays_when_the_writer_fails(tmp_path: Path, error: BaseException) -> None:
    path = write_text(tmp_path / "x.txt", "old")

    def half(partial: Path) -> None:
        partial.write_text("ne")
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(path, half)
    assert caught.value is error  # as it was, not reported as a full disk
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    path = write_text(tmp_path / "x.txt", "old")

    def full(partial: Path) -> None:
        partial.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunFolderError, match=r"cannot write .*x\.txt: No space left on device: free space") as caught:
        write_atomically(path, full)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_flush_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "x.txt", "old")

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("xaibench.files.os.fsync", fail)
    with pytest.raises(RunFolderError, match="Input/output error"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunFolderError, match="taken"):
        write_text(tmp_path / "taken" / "x.txt", "")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    (tmp_path / "x").write_bytes(data)
    assert sha256_of_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def left_by(process: int, folder: Path, host: str | None = None) -> Path:
    """A temporary file as `write_atomically` names it, of a process that did not get to rename it."""
    names: list[str] = []
    write_atomically(folder / "x.csv", lambda partial: names.append(partial.name))
    (folder / "x.csv").unlink()
    name = names[0].replace(f"-{os.getpid()}-", f"-{process}-")
    if host is not None:
        name = re.sub(r"\.[0-9a-f]{8}-", f".{host}-", name)
    path = folder / name
    path.write_text("half")
    return path


def test_what_killed_processes_left_is_swept_and_what_is_being_written_stays(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    (tmp_path / "students").mkdir()
    dead, alive, own = (left_by(process, tmp_path / "students") for process in (child.pid, os.getppid(), os.getpid()))
    users = [tmp_path / ".notes.partial", tmp_path / "thesis.partial.csv"]
    for path in users:
        path.write_text("mine")
    assert sweep_partials(tmp_path) == [dead]
    assert alive.exists()
    assert own.exists()
    assert all(path.exists() for path in users)
    assert sweep_partials(tmp_path) == []


def test_temporary_files_of_other_machines_go_after_a_day(tmp_path: Path) -> None:
    path = left_by(1, tmp_path, host="0" * 8)
    assert sweep_partials(tmp_path) == []
    old = path.stat().st_mtime - 2 * 86400
    os.utime(path, (old, old))
    assert sweep_partials(tmp_path) == [path]


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="choose a name without a null character"):
        write_text(tmp_path / "a\0b", "x")
