import json
import shutil

import pytest
import torch

from xaibench.attribution.store.store import AttributionStore
from xaibench.run import explaining, training
from xaibench.run.folder import TEACHER, UNTRAINED, Run
from xaibench.run.pipeline import create_run
from xaibench.run.siblings import siblings
from xaibench.run.training import shared_logits
from xaibench.study import work
from xaibench.study.tasks import Task

KEY = "a" * 40


def runs(root, *names, study=True):
    folders = [root / "runs" / name for name in names]
    for folder in folders:
        folder.mkdir(parents=True)
    if study:
        (root / "study.json").touch()
    return folders


def test_runs_of_a_study_know_each_other_and_others_do_not(tmp_path):
    a, b, c = runs(tmp_path / "study", "a", "b", "c")
    (tmp_path / "study" / "runs" / "notes.txt").touch()
    assert siblings(b) == [a, c]
    assert siblings(b, "attributions") == [a / "attributions", c / "attributions"]
    alone, _ = runs(tmp_path / "plain", "a", "b", study=False)
    assert siblings(alone) == []


def test_a_store_takes_from_its_lenders_what_it_lacks_and_keeps_it(tmp_path):
    lender, values = AttributionStore(tmp_path / "lender"), torch.arange(3.0)
    lender.keep_tensor(KEY, values)
    store = AttributionStore(tmp_path / "own", lenders=lambda: [tmp_path / "absent", lender.folder])
    assert torch.equal(store.find_tensor(KEY), values)
    lender.clear()
    assert torch.equal(store.find_tensor(KEY), values)
    assert store.find_tensor("b" * 40) is None


def test_a_damaged_loan_is_no_result(tmp_path):
    lender = AttributionStore(tmp_path / "lender")
    lender.keep_tensor(KEY, torch.arange(3.0))
    lender.path_of(KEY).write_bytes(b"damaged")
    store = AttributionStore(tmp_path / "own", lenders=lambda: [lender.folder])
    assert store.find_tensor(KEY) is None
    assert not store.path_of(KEY).exists()


def test_what_a_run_of_a_study_has_in_common_with_another_is_not_computed_again(tiny_study, tmp_path, monkeypatch):
    """Half as many training images: other students, the same teacher, untrained student and test images."""
    folder = shutil.copytree(tiny_study.folder, tmp_path / "study")
    config = tiny_study.runs["tops"].config.override(["data.fraction=0.025"])
    run, assets = create_run(config, folder / "runs" / "half")
    monkeypatch.setattr(explaining, "explain_model", lambda *args, **options: pytest.fail("it was explained again"))
    for name in (TEACHER, UNTRAINED):
        explaining.explain_ahead(run, assets, name, "cpu")


def test_the_teachers_logits_in_training_are_computed_once_a_study(tiny_study, tmp_path, tiny_fabric):
    folder, logits = shutil.copytree(tiny_study.folder, tmp_path / "study"), torch.arange(6.0).reshape(2, 3)
    config = tiny_study.runs["tops"].config
    run, assets = create_run(config.override(["student.architecture=resnet18-cifar:4-4-8-8@8"]), folder / "runs" / "b")
    refuse = lambda: pytest.fail("the teacher was asked again")  # noqa: E731
    first, second = (shared_logits(one, assets, tiny_fabric) for one in (Run(folder / "runs" / "tops", config), run))
    assert torch.equal(first("views of seed 0", lambda: logits), logits)
    assert torch.equal(second("views of seed 0", refuse), logits)
    assert torch.equal(first("views of seed 1", lambda: logits + 1), logits + 1)
    (kept,) = (path for path in run.teacher_store.folder.iterdir() if b"xaibench-tensor" in path.read_bytes())
    kept.write_bytes(b"damaged")
    assert torch.equal(second("views of seed 0", lambda: logits + 2), logits + 2), "a damaged file is computed again"


def test_students_of_a_study_do_not_ask_the_teacher_twice(tiny_study, tmp_path, monkeypatch):
    folder, kept = shutil.copytree(tiny_study.folder, tmp_path / "study"), []
    keep = AttributionStore.keep_tensor
    monkeypatch.setattr(AttributionStore, "keep_tensor", lambda *args: (kept.append(args[2].shape), keep(*args)))
    monkeypatch.setattr(work, "explain_ahead", lambda *args: None)
    config = tiny_study.runs["tops"].config.override(['methods=["kd","dkd"]', "train.views=2", "seeds=[0]"])
    images = len(create_run(config, folder / "runs" / "b")[1].task.train)
    for student in ("kd/seed0", "dkd/seed0"):
        work.perform(Task("student", folder / "runs" / "b", config, student), "cpu")
    assert kept == [(2 * images, 4)], "the validation images are known from the other run"


@pytest.mark.parametrize(
    ("change", "lent"),
    [("seeds=[7]", True), ("train.precision=32-true", False), ("teacher.mean=[0.5]", False)],
)
def test_moments_are_lent_between_runs_of_the_same_pixels_and_precision(
    tiny_study, tmp_path, monkeypatch, change, lent
):
    folder, measured = shutil.copytree(tiny_study.folder, tmp_path / "study"), []
    measure = training.measure_moments
    monkeypatch.setattr(training, "measure_moments", lambda *args: measured.append(args) or measure(*args))
    config = tiny_study.runs["tops"].config
    run, assets = create_run(config.override([change] if "mean" not in change else []), folder / "runs" / "other")
    if "mean" in change:  # of a state dict from elsewhere; the manifest says what pixels become
        manifest = json.loads((run.folder / "manifest.json").read_text())
        manifest["preprocessing"]["mean"] = [0.5]
        (run.folder / "manifest.json").write_text(json.dumps(manifest))
    measured.clear()  # of the check that methods fit
    training.shared_moments(run, assets)
    assert bool(measured) == (not lent)
