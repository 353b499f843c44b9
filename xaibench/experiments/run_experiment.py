"""An experiment in a folder: measured seed by seed, resumed where it was interrupted.

experiment.json        the experiment with all its options, and the versions of libraries
seeds/seedN.csv        what seed N gave
NAME-scores.csv        the rows of all seeds
NAME.csv               their means with 95% intervals
NAME.pdf, NAME.png     the picture
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from xaibench.errors import ConfigError, RunFolderError
from xaibench.experiments.base import Experiment, summarise
from xaibench.experiments.convergence import Convergence
from xaibench.experiments.xor import Xor
from xaibench.figures.style import save_figure
from xaibench.files import sweep_partials, write_json, write_text
from xaibench.options import format_options, parse_options
from xaibench.progress import progress, silent_unless
from xaibench.run.manifest import library_versions
from xaibench.validation import checked

__all__ = ["EXPERIMENTS", "parse_experiment", "run_experiment"]

EXPERIMENTS: dict[str, type[Experiment]] = {experiment.name: experiment for experiment in (Xor, Convergence)}
"""All experiments, by name."""

_MOST_SEEDS = 1000


@checked
def parse_experiment(text: str) -> Experiment:
    """An experiment from its name and options.

    >>> parse_experiment("xor:points=100").points
    100
    """
    return parse_options(text, EXPERIMENTS, "experiment")


@checked
def run_experiment(experiment: Experiment, folder: Path | str, *, seeds: int = 5) -> pd.DataFrame:
    """Measure seeds 0 to `seeds` - 1, write tables and picture into `folder`, return the rows of all seeds.

    Seeds that the folder holds are kept: an interrupted experiment goes on, and a finished one can get more seeds.

    Raises RunFolderError for a folder with other contents or another experiment, ConfigError for fewer than 1 seed.
    """
    folder = Path(folder)
    if not 1 <= seeds <= _MOST_SEEDS:
        raise ConfigError(f"seeds must be 1 to {_MOST_SEEDS}, got {seeds}: it is how many are measured")
    about = {"experiment": format_options(experiment, full=True), "versions": library_versions()}
    _check(folder, about)
    parts = []
    with progress(experiment.name, seeds * experiment.trainings) as advance:
        for seed in range(seeds):
            path = folder / "seeds" / f"seed{seed}.csv"
            if path.is_file():
                advance(experiment.trainings)
            else:
                with silent_unless(shown=False):
                    rows = experiment.measure(seed, advance)
                write_json(folder / "experiment.json", about)
                write_text(path, rows.to_csv(index=False))
            parts.append(_rows(path, experiment).assign(seed=seed))
    scores = pd.concat(parts, ignore_index=True)[[*experiment.keys, "seed", "value"]]
    table = summarise(scores, experiment.keys)
    write_text(folder / f"{experiment.name}-scores.csv", scores.to_csv(index=False))
    write_text(folder / f"{experiment.name}.csv", table.to_csv(index=False))
    save_figure(experiment.figure(table), folder / experiment.name)
    return scores


def _check(folder: Path, about: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this experiment."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose another folder")
    record = folder / "experiment.json"
    if not record.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise RunFolderError(f"{folder} is not empty and holds no experiment: choose another folder")
        return
    try:
        held = json.loads(record.read_text(encoding="utf-8"))
        text, versions = held["experiment"], held["versions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{record} is corrupt: start again in another folder") from error
    if text != about["experiment"]:
        raise RunFolderError(f"{folder} holds another experiment ({text}): choose another folder, or its options")
    if versions != about["versions"]:
        raise RunFolderError(f"{folder} was made with other versions of libraries ({record}): choose another folder")
    sweep_partials(folder)


def _rows(path: Path, experiment: Experiment) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} is corrupt: delete it to measure the seed again") from error
    missing = [name for name in (*experiment.keys, "value") if name not in rows]
    if missing or rows.empty:
        raise RunFolderError(f"{path} lacks {', '.join(missing) or 'rows'}: delete it to measure the seed again")
    return rows
