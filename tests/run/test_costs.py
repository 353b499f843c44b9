"""What the models of a run cost: measured once, and a run without it says how to get it."""

import shutil
from dataclasses import replace

import pytest

from xaibench.errors import RunFolderError
from xaibench.models.cost import model_cost
from xaibench.run.costs import costs_of, measure_costs
from xaibench.run.folder import open_run
from xaibench.run.manifest import extend_manifest
from xaibench.run.pipeline import reopen


def test_the_costs_are_those_of_teacher_and_student(tiny_run):
    run = open_run(tiny_run)
    teacher, student = costs_of(run).to_dict("records")
    assert [teacher["model"], student["model"]] == ["teacher", "student"]
    assert student["architecture"] == "resnet18-cifar:4-6-8-8@8"
    counted = model_cost(run.student("kd/seed0"), (run.images.images.shape[1], 28, 28), repeats=1)
    assert (student["parameters"], student["macs"]) == (counted.parameters, counted.macs)
    assert teacher["macs"] > student["macs"]
    assert student["latency_ms"] > 0


def test_costs_are_measured_once_and_made_again_where_they_are_missing(tiny_run, tmp_path, cli):
    run = open_run(shutil.copytree(tiny_run, tmp_path / "run"))
    before = (run.folder / "cost.csv").read_bytes()
    _, assets = reopen(run)
    measure_costs(run, assets)
    more = replace(run.config, methods=(*run.config.methods, "fitnet"))
    extend_manifest(run.folder, more)
    measure_costs(open_run(run.folder), assets)
    assert (run.folder / "cost.csv").read_bytes() == before
    extend_manifest(run.folder, run.config)
    (run.folder / "cost.csv").unlink()  # as in a run of version 0.2
    run.ledger.forget("cost.csv")
    with pytest.raises(RunFolderError, match=r"cost\.csv does not exist yet: run 'xaibench explain"):
        costs_of(run)
    assert cli("info", run.folder).code == 0
    assert run.finished
    assert cli("explain", run.folder).code == 0
    assert list(costs_of(run)["macs"]) == list(costs_of(open_run(tiny_run))["macs"])
