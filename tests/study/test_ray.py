"""A study on a Ray cluster of two worker processes is the study that one process does."""

import subprocess
import sys
import time
from contextlib import suppress
from functools import partial

import psutil
import pytest
import torch
from filelock import FileLock

from xaibench.errors import ConfigError
from xaibench.run.config import RunConfig
from xaibench.study.ray_engine import RayCluster
from xaibench.study.run_study import run_study
from xaibench.study.tasks import Task

MISSING = "needs Ray: pip install 'xaibench[ray]'"

cluster = partial(RayCluster, cpus=torch.get_num_threads())


@pytest.fixture(scope="module")
def ray():
    """A cluster of two workers on this machine, which the engine finds."""
    ray = pytest.importorskip("ray", reason=MISSING)
    ray.init(
        num_cpus=2 * torch.get_num_threads(), include_dashboard=False, log_to_driver=False, object_store_memory=2**27
    )
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_it_gives_the_scores_of_one_process_whatever_dies(ray, small_study, tmp_path):
    """The first workers that train are killed: their students are trained again."""
    killed = most = 0

    class Killing(RayCluster):
        def wait(self):
            nonlocal killed, most
            most = max(most, len(self._running))
            while not killed and any(task.kind == "student" for task in self._running.values()):
                killed = kill_working()
                time.sleep(0.2)
            return super().wait()

    study = run_study(small_study.config, tmp_path / "ray", engine=partial(Killing, cpus=torch.get_num_threads()))
    assert killed
    assert most == 2
    assert not study.failures
    assert study.finished
    assert (study.folder / "scores.csv").read_bytes() == (small_study.folder / "scores.csv").read_bytes()


def working():
    """Processes of the cluster that do a piece of work: Ray names them after the function."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if process.cmdline()[:1] == ["ray::_attempt"]:
                found.append(process)
    return found


def kill_working():
    """How many were killed."""
    found = working()
    for process in found:
        process.kill()
    return len(found)


@pytest.fixture
def piece(tmp_path):
    """A piece of work that cannot begin while its lock is held."""
    piece = Task("finish", tmp_path / "runs" / "tops", RunConfig())
    piece.lock.parent.mkdir(parents=True)
    return piece


def test_a_task_whose_worker_keeps_dying_fails_in_one_line(ray, piece, tmp_path):
    engine = cluster(tmp_path / "work", retries=0)
    with FileLock(piece.lock):  # the worker waits for it
        engine.start(piece)
        while not kill_working():
            time.sleep(0.2)
        ended, outcome = engine.wait()
    engine.stop()
    assert ended == piece
    assert "its worker failed, after 0 retries: WorkerCrashedError" in outcome.error
    assert "\n" not in outcome.error


def test_a_stopped_engine_leaves_no_task_behind(ray, piece, tmp_path):
    engine = cluster(tmp_path / "work")
    with FileLock(piece.lock):
        engine.start(piece)
        while not working():
            time.sleep(0.2)
        engine.stop()
        while working():
            time.sleep(0.2)


@pytest.mark.slow
def test_a_machine_that_does_not_see_the_study_says_so(ray, piece, tmp_path):
    engine = cluster(tmp_path / "work")
    engine._mark.unlink()
    engine.start(piece)
    _, outcome = engine.wait()
    engine.stop()
    assert "put the study folder on storage that all machines share" in outcome.error


@pytest.mark.slow
def test_no_task_outlives_a_runner_that_was_killed(study_toml, tmp_path):
    """Ray ends its processes with the one that started it."""
    pytest.importorskip("ray", reason=MISSING)
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "xaibench", "study", str(study_toml), "--out", str(folder)]
    runner = subprocess.Popen([*command, "--engine", "ray", "--workers", "1"], stderr=subprocess.PIPE, text=True)
    while not (locks := list(folder.glob("work/locks/*.lock"))):
        time.sleep(0.1)
        assert runner.poll() is None, runner.communicate()
    runner.kill()
    runner.communicate()
    FileLock(locks[0]).acquire(timeout=60)  # Timeout is raised where the task lives on


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cpus": 0}, "cpus must be above 0, got 0"),
        ({"workers": 0}, "workers must be above 0, got 0"),
        ({"gpus": -1}, "gpus must be 0 or more, got -1"),
        ({"accelerator": "cuda"}, "no task has a GPU: give gpus"),
    ],
)
def test_impossible_options_are_refused(options, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        RayCluster(tmp_path, **options)


def test_without_ray_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'xaibench\[ray\]'"):
        RayCluster(tmp_path)


@pytest.mark.parametrize("options", [{"gpus": 64}, {"cpus": 4096}, {"gpus": 64, "workers": 2}])
def test_a_task_that_no_machine_can_serve_is_refused(ray, options, tmp_path):
    with pytest.raises(ConfigError, match=r"no machine of the cluster has .* GPUs for a task: give fewer"):
        RayCluster(tmp_path, **options)
    assert not list(tmp_path.glob("ray-*"))
