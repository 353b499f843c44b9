"""A study that was killed, failed in part, or met a full disk goes on to the results of one that was left alone."""

import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import wait
from dataclasses import replace

import pandas as pd
import pytest
import torch
from filelock import FileLock

from xaibench.errors import DataError, RunFolderError
from xaibench.study import work
from xaibench.study.config import StudyConfig
from xaibench.study.engines import Processes, Serial, _own_gpu
from xaibench.study.folder import open_study
from xaibench.study.page import _transfer
from xaibench.study.results import write_results
from xaibench.study.run_study import run_study, tasks_left
from xaibench.study.tasks import Task

KD = "students/student-only/seed0"


@pytest.fixture
def copied(tiny_study, tmp_path):
    return open_study(shutil.copytree(tiny_study.folder, tmp_path / "study"))


def scores(folder):
    return (folder / "scores.csv").read_bytes()


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "xaibench", "study", *map(str, arguments), "--accelerator", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_run_is_a_finished_run_of_its_own(tiny_study):
    assert tiny_study.finished
    assert not tiny_study.failures
    assert list(tiny_study.runs) == ["tops", "footwear"]
    for run in tiny_study.runs.values():
        assert run.finished
        assert len(run.students) == 4
        assert (run.folder / "report.html").is_file()
    assert not tasks_left(tiny_study)


def test_a_study_opens_as_it_was_asked_for(tiny_study, study_toml):
    assert open_study(tiny_study.folder).config == StudyConfig.load(study_toml)


def test_what_is_done_is_not_done_again(copied, contents):
    before = contents(copied.folder)
    run_study(copied.config, copied.folder, engine=Serial)
    after = contents(copied.folder)
    assert {k: v for k, v in after.items() if not k.startswith("work/")} == {
        k: v for k, v in before.items() if not k.startswith("work/")
    }


@pytest.mark.slow
def test_a_student_that_cannot_be_made_is_on_record_and_the_rest_goes_on(copied):
    student = copied.runs["tops"].folder / KD
    kept = student.with_name("kept")
    student.rename(kept)
    (student / "student.safetensors").mkdir(parents=True)  # cannot be replaced by a file
    study = run_study(copied.config, copied.folder, engine=Serial)
    ((task, error),) = study.failures.items()
    assert task == "student tops student-only/seed0"
    assert "cannot write" in error
    run = study.runs["tops"]
    assert set(run.failures) == {"student-only/seed0"}
    assert run.finished
    assert len(run.students) == 3
    assert "student-only/seed0" not in set(run.predictions()["model"])
    assert not study.finished
    text = study.failure_path(Task("student", run.folder, run.config, "student-only/seed0")).read_text()
    assert "Traceback" in text
    # mended, it is tried again, and leaves what there would have been without the failure
    shutil.rmtree(student)
    again = run_study(copied.config, copied.folder, engine=Serial)
    assert again.finished
    assert not again.failures
    assert len(run.students) == 4


def test_a_run_that_could_not_be_prepared_is_not_finished_either(copied, monkeypatch):
    run = copied.runs["tops"]
    run.student_folder(next(iter(run.students))).fail("no memory", "where")
    page = (run.folder / "report.html").read_bytes()

    def gone(*_, **__):
        raise DataError("the images are gone")

    monkeypatch.setattr(work, "create_run", gone)
    study = run_study(copied.config, copied.folder, engine=Serial)
    assert study.failures["prepare tops"] == "the images are gone"
    assert not [name for name in study.failures if name.startswith("finish")]
    assert (run.folder / "report.html").read_bytes() == page


def test_what_a_study_is_for_may_be_said_anew(copied, contents):
    again = replace(copied.config, about="Another sentence. And more.")
    before = contents(copied.folder / "runs")
    run_study(again, copied.folder, engine=Serial)
    assert open_study(copied.folder).config.about == "Another sentence. And more."
    assert "<h1>Another sentence</h1>" in (copied.folder / "report.html").read_text()
    assert contents(copied.folder / "runs") == before


def test_the_page_counts_the_students_that_are_there(copied):
    (copied.runs["tops"].folder / "report.html").unlink()
    assert list(copied.finished_runs) == ["footwear"]
    write_results(copied)
    assert "4 of 8 students in 1 of 2 runs" in (copied.folder / "report.html").read_text()


def test_a_student_that_could_not_be_explained_is_tried_again(copied):
    run = copied.runs["tops"]
    name = next(iter(run.students))
    run.student_folder(name).fail("no memory", "where")
    assert not open_study(copied.folder).finished
    study = run_study(copied.config, copied.folder, engine=Serial)
    assert study.finished
    assert not study.runs["tops"].failures


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_bytes(study_toml, small_study, tmp_path):
    """Killed when so many files are there; `benchmarks/study_kills.py` does so at many moments."""
    folder, threads = tmp_path / "study", torch.get_num_threads()
    arguments = (study_toml, "--scale", "small", "--out", folder, "--workers", 2, "--threads", threads)
    for files in (3, 14, 24):
        process = command(*arguments)
        while sum(path.is_file() for path in folder.glob("runs/**/*")) < files:
            time.sleep(0.02)
            assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
    process = command(*arguments)
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert scores(folder) == scores(small_study.folder)
    assert (folder / "report.html").is_file()


@pytest.mark.slow
def test_workers_end_with_the_study_that_was_killed(study_toml, tmp_path):
    folder = tmp_path / "study"
    process = command(study_toml, "--out", folder, "--workers", 1)
    while not (locks := list(folder.glob("work/locks/*.lock"))):
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()
    time.sleep(1)
    process.kill()
    process.communicate()
    FileLock(locks[0]).acquire(timeout=20)  # Timeout is raised where the worker lives on


@pytest.mark.slow
def test_what_another_process_still_does_is_waited_for(copied):
    run = copied.runs["tops"]
    task = Task("finish", run.folder, run.config)
    engine = Processes(copied.folder / "work", workers=1)
    with FileLock(task.lock):
        engine.start(task)
        (future,) = engine._running
        assert not wait([future], timeout=10).done
    assert not engine.wait()[1].error
    engine.stop()


@pytest.mark.slow
def test_the_second_runner_leaves(copied, study_toml):
    with FileLock(copied.folder / "work" / "runner.lock"):
        second = command(study_toml, "--out", copied.folder)
        _, error = second.communicate(timeout=120)
    assert second.returncode == 2
    assert "another process works on" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_full_disk_ends_the_study_and_nothing_is_corrupt(small_study, tmp_path, monkeypatch):
    from xaibench.study import work

    def full(*args, **kwargs):
        raise RunFolderError("cannot write x: No space left on device") from OSError(28, "No space left on device")

    folder = tmp_path / "study"
    with monkeypatch.context() as patched:
        patched.setattr(work, "train", full)
        with pytest.raises(RunFolderError, match=r"No space left on device.*goes on when it is started again"):
            run_study(small_study.config, folder, engine=Serial)
    assert not open_study(folder).failures
    assert scores(run_study(small_study.config, folder, engine=Serial).folder) == scores(small_study.folder)


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_task_only(copied, monkeypatch, tmp_path):
    engine = Processes(tmp_path / "work", workers=1)
    run = copied.runs["tops"]
    task = Task("finish", run.folder, run.config)
    engine.start(task)
    pool = engine._slots[0]._pool
    while not pool._processes:
        time.sleep(0.05)
    next(iter(pool._processes.values())).kill()
    ended, outcome = engine.wait()
    assert ended == task
    assert "its process was killed" in outcome.error
    engine.start(task)
    assert not engine.wait()[1].error
    pool = engine._slots[0]._pool
    next(iter(pool._processes.values())).kill()  # while it has nothing to do
    while not pool._broken:
        time.sleep(0.05)
    engine.start(task)
    assert not engine.wait()[1].error
    engine.stop()


@pytest.mark.parametrize(
    ("visible", "own"), [("", ["0", "1", "0"]), ("2,3", ["2", "3", "2"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b", "GPU-a"])]
)
def test_processes_take_turns_with_the_gpus_that_they_may_use(visible, own):
    assert [_own_gpu(number, 2, visible) for number in range(3)] == own


def test_memory_bounds_how_many_work(tmp_path):
    engine = Processes(tmp_path, workers=4, memory=10)
    assert engine.has_room()
    engine._running = {object(): None}
    assert not engine.has_room()  # what a task needs is not known yet
    engine._peak = 4
    assert engine.has_room()
    engine._running = {object(): None, object(): None}
    assert not engine.has_room()


@pytest.mark.parametrize(
    ("assignments", "says"),
    [
        (["seeds=[0]"], "its run tops has other settings"),
        (["vary.data.subtask=['tops']"], "its run footwear is not asked for now"),
        (["claim=student-only"], "claim was"),
        (["claim=", "control=student-only"], "claim was"),
    ],
)
def test_another_study_is_refused_with_the_first_difference(copied, study_toml, assignments, says):
    with pytest.raises(RunFolderError, match=says):
        run_study(StudyConfig.load(study_toml, assignments), copied.folder, engine=Serial)


@pytest.mark.slow
def test_an_extended_study_keeps_its_students(copied, study_toml, contents):
    before = {k: v for k, v in contents(copied.folder).items() if k.endswith("student.safetensors")}
    config = StudyConfig.load(study_toml, ["vary.data.subtask=['tops','footwear',['Bag','Coat']]"])
    study = run_study(config, copied.folder, engine=Serial, extend=True)
    assert list(study.runs) == ["tops", "footwear", "Bag-Coat"]
    assert study.finished
    after = contents(study.folder)
    assert {k: after[k] for k in before} == before


def test_folders_that_are_no_study_are_refused(tmp_path, study_toml):
    config = StudyConfig.load(study_toml)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match="not empty and holds no study"):
        run_study(config, tmp_path / "full", engine=Serial)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="choose another study folder"):
        run_study(config, tmp_path / "file", engine=Serial)
    with pytest.raises(RunFolderError, match="no study in"):
        open_study(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"conditions": 3, "axes": [], "about": "", "claim": "", "control": ""}']
)
def test_a_damaged_study_says_so(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(RunFolderError, match="is corrupt"):
        open_study(tmp_path)


def test_a_study_of_another_version_says_so(copied):
    path = copied.folder / "study.json"
    path.write_text(path.read_text().replace('"epochs"', '"epoches"'))
    with pytest.raises(RunFolderError, match=r"was written by another version .*did you mean 'epochs'"):
        open_study(copied.folder)


def test_the_page_says_of_which_transfers_are_tested(copied):
    copied_over = [0.1 + 0.01 * seed for seed in range(5)]
    less = [-0.5 - 0.01 * seed for seed in range(5)]
    rows = pd.concat(
        pd.DataFrame({"method": method, "tau+": taus, "tau-": taus, "D+": taus, "D-": taus, "wrong": 82})
        for method, taus in (("kd", copied_over), ("untrained-teacher[kd]", less))
    )
    page = "".join(map(str, _transfer(copied, "run", rows)))
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)]
    last = {(row[0], row[1]): re.sub("<[^>]+>", "", row[-1]) for row in cells if row and row[1] != "quantity"}
    assert len(last) == 8
    for method in ("KD", "Untrained teacher [KD]"):
        assert last[method, "D- - D+ (raw)"] == "–"
        assert last[method, "tau- - tau+"] == "no"
    assert "where tau+ lies below 0 neither is said to be above 0" in page
    assert (copied.folder / "transfer-run.png").is_file()


@pytest.mark.parametrize("change", ["train.epochs=3", "student.architecture='resnet18-cifar:4-4-4-4@4'"])
def test_an_extension_that_would_make_other_students_is_refused_and_changes_nothing(
    copied, study_toml, contents, change
):
    before = contents(copied.folder)
    config = StudyConfig.load(study_toml, [change, "vary.data.subtask=['tops','footwear',['Bag','Coat']]"])
    with pytest.raises(RunFolderError, match=r"students were made in another way .*: choose another study folder"):
        run_study(config, copied.folder, engine=Serial, extend=True)
    assert {k: v for k, v in contents(copied.folder).items() if "work" not in k} == {
        k: v for k, v in before.items() if "work" not in k
    }


def test_a_failure_of_what_is_not_left_to_do_is_forgotten(copied, study_toml):
    path = copied.folder / "failures" / "student_tops_kd_seed1.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("student tops kd/seed1: out of luck\n")
    assert run_study(StudyConfig.load(study_toml), copied.folder, engine=Serial).failures == {}
    assert not path.exists()
