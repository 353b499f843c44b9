import shutil

import pytest
import torch

from xaibench.attribution.store.store import AttributionStore
from xaibench.run import explaining
from xaibench.run.folder import TEACHER, UNTRAINED
from xaibench.run.pipeline import create_run
from xaibench.run.siblings import siblings

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
