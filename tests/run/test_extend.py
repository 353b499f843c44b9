"""A finished run that is asked for more: students that are there are kept, what is missing is made."""

import shutil

import pytest
import torch

from xaibench.run.folder import open_run


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
STEPS = ("explain", "score")


@pytest.mark.slow
def test_more_methods_keep_the_students_and_give_the_run_that_asked_for_all_at_once(
    tiny_run, cli, tmp_path, config, contents
):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before, wanted = contents(folder / "students"), config(MORE, LRP, FEWER)
    called = cli("run", wanted, "--out", folder, "--extend", "--accelerator", "cpu")
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
    for command in (("distill", wanted, "--out", tmp_path / "whole"), *((c, tmp_path / "whole") for c in STEPS)):
        assert cli(*command).code == 0
    whole = open_run(tmp_path / "whole")
    assert whole.students == run.students
    for name in whole.students:
        one, other = (made.student(name).state_dict() for made in (run, whole))
        assert all(torch.equal(one[key], other[key]) for key in one)
    for name in ("scores.csv", "faithfulness.csv"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()


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


@pytest.mark.slow
def test_a_distillation_can_extend_too(tiny_run, cli, tmp_path, config, contents):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = contents(folder / "students")
    called = cli("distill", config(MORE), "--out", folder, "--extend", "--accelerator", "cpu")
    assert called.code == 0, called.err
    after = contents(folder / "students")
    assert {name: after[name] for name in before} == before
    assert any(name.startswith("at_") for name in after)
    assert not open_run(folder).finished
