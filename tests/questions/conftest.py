"""Runs whose explanations were refused, or that have a second seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from xaibench.files import write_json
from xaibench.run.folder import Run, open_run
from xaibench.run.manifest import extend_manifest
from xaibench.run.scoring import score_models


def _write(run: Run, explanations: dict[str, dict[str, dict[str, str]]]) -> None:
    write_json(run.folder / "explanations.json", explanations)
    run.ledger.record("explanations.json", source=run.source("explain"))
    run.ledger.record(
        *(f"{name}.csv" for name in ("predictions", "validity", "faithfulness")), source=run.source("explain")
    )
    score_models(run)


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Run:
    return open_run(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def refuse() -> Callable[[Run, str, str], None]:
    """refuse(run, model, explainer): as if the explanation had not passed its checks."""

    def change(run: Run, model: str, explainer: str) -> None:
        found = run.explanations()
        found[explainer][model] = {"refused": "not conserved"}
        _write(run, found)

    return change


@pytest.fixture
def two_seeds(run: Run) -> Run:
    """A run with a second seed: kd's has the maps of the first mirrored, two of them flagged; others were refused."""
    config = replace(run.config, seeds=(0, 1))
    found = json.loads((run.folder / "explanations.json").read_text())
    for method in config.methods:
        shutil.copytree(run.folder / f"students/{method}/seed0", run.folder / f"students/{method}/seed1")
        for explainer in run.explainers:
            found[explainer][f"{method}/seed1"] = {"refused": "not conserved"}
    maps = run.attribution("kd/seed0", "lrp")
    other = replace(maps, relevance=maps.relevance.flip(-1), validity=replace(maps.validity, flagged=(1, 3)))
    other.save(run.store.folder / f"{'0' * 40}.safetensors")
    found["lrp"]["kd/seed1"] = {"key": "0" * 40}
    extend_manifest(run.folder, config)
    run = open_run(run.folder)
    _write(run, found)
    return run
