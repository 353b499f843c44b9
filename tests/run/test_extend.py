"""A finished run that is asked for more: students that are there are kept, what is missing is made."""

import shutil

import pytest
import torch

from xaibench.run.config import RunConfig
from xaibench.run.folder import open_run
from xaibench.run.pipeline import run_config


@pytest.fixture
def config(tmp_path, tiny_config):
    """The path of tiny_config with other lines appended to its head."""

    def write(*replacements):
        text = tiny_config
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "more.toml"
        path.write_text(text)
        return path

    return write


MORE = ('"subdistill"]', '"subdistill", "at:kd_weight=0,task_weight=1"]')
LRP = ('["lrp", "ig:budget=1025"]', '["lrp"]')
FEWER = ("images = 6", "images = 4")


def test_more_methods_keep_the_students_and_other_images_are_explained_anew(tiny_run, cli, tmp_path, config, contents):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = contents(folder / "students")
    called = cli("run", config(MORE, LRP, FEWER), "--out", folder, "--extend", "--accelerator", "cpu")
    assert called.code == 0, called.err
    after = contents(folder / "students")
    assert {name: after[name] for name in before} == before
    run = open_run(folder)
    assert len(run.manifest["extended"]) == 1
    assert run.finished
    assert "at:kd_weight=0,task_weight=1/seed0" in run.students
    assert len(run.images) == 4
    assert run.explainers == ("lrp",)
    assert set(run.table()["method"]) == {"teacher", "student-only", "kd", "subdistill", "at:kd_weight=0,task_weight=1"}
    assert run.scores()["image"].nunique() == 4
    assert run.attribution("kd/seed0", "lrp").relevance.shape[0] == 4


def test_an_extended_run_is_the_run_that_asked_for_all_at_once(tiny_run, tmp_path, config):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    wanted = RunConfig.load(config(MORE, LRP, FEWER))
    extended = run_config(wanted, folder, accelerator="cpu", extend=True)
    whole = run_config(wanted, tmp_path / "whole", accelerator="cpu")
    for name in whole.students:
        one, other = (run.student(name).state_dict() for run in (extended, whole))
        assert all(torch.equal(one[key], other[key]) for key in one)
    for name in ("scores.csv", "faithfulness.csv"):
        assert (extended.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_without_extend_the_remedy_is_named(tiny_run, cli, tmp_path, config, contents):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = contents(folder)
    called = cli("run", config(MORE), "--out", folder)
    assert called.code == 2
    assert "choose another folder, or add --extend to keep its students" in called.error
    assert contents(folder) == before


@pytest.mark.parametrize("change", [("epochs = 4", "epochs = 5"), ("fraction = 0.2", "fraction = 0.3")])
def test_what_training_depends_on_cannot_be_extended(tiny_run, cli, tmp_path, config, contents, change):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = contents(folder)
    called = cli("run", config(change), "--out", folder, "--extend")
    assert called.code == 2
    assert "holds a run with another configuration" in called.error
    assert "--extend" not in called.error
    assert contents(folder) == before


def test_a_method_that_does_not_fit_leaves_the_run_as_it_was(tiny_run, cli, tmp_path, config, contents):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = contents(folder)
    called = cli("run", config(('"subdistill"]', '"subdistill", "at:layers=layer9"]')), "--out", folder, "--extend")
    assert called.code == 2
    assert "'layer9' is no student layer of a pair" in called.error
    assert contents(folder) == before


def test_a_distillation_can_extend_too(tiny_run, cli, tmp_path, config, contents):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = contents(folder / "students")
    called = cli("distill", config(MORE), "--out", folder, "--extend", "--accelerator", "cpu")
    assert called.code == 0, called.err
    after = contents(folder / "students")
    assert {name: after[name] for name in before} == before
    assert any(name.startswith("at_") for name in after)
    assert not open_run(folder).finished
