"""What teacher and student of a run cost: counted and measured once, since a measured time is never the same twice."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from xaibench.errors import RunFolderError
from xaibench.files import write_text
from xaibench.models.cost import model_cost
from xaibench.run.folder import TEACHER, Run
from xaibench.run.inputs import Assets
from xaibench.run.ledger import digest

__all__ = ["STUDENT", "costs_of", "measure_costs"]

STUDENT = "student"
"""The row of all of a run's students: they have one architecture."""

_FILE = "cost.csv"


def costs_of(run: Run) -> pd.DataFrame:
    """A row "teacher" and a row "student": columns model, architecture, parameters, macs, latency_ms, device.

    Raises RunFolderError where they were not measured yet, or for other models.
    """
    return pd.read_csv(run.ledger.require(_FILE, "explain", _source(run)))


def measure_costs(run: Run, assets: Assets) -> None:
    """Write cost.csv (`model_cost` of teacher and student) unless it is there and of these models."""
    try:
        costs_of(run)
    except RunFolderError:
        channels, height, width = run.preprocessing(assets.task.test.images[:1]).shape[1:]
        models = {TEACHER: assets.pair.teacher, STUDENT: assets.pair.student}
        names = (assets.card.architecture, assets.student.architecture)
        rows = [
            {"model": name, "architecture": architecture, **asdict(model_cost(model, (channels, height, width)))}
            for (name, model), architecture in zip(models.items(), names)
        ]
        write_text(run.folder / _FILE, pd.DataFrame(rows).to_csv(index=False))
        run.ledger.record(_FILE, source=_source(run))


def _source(run: Run) -> str:
    config = run.config.for_digests()
    return digest(config["student"], config["data"], run.manifest["hashes"]["teacher"])
