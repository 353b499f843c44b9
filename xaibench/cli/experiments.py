"""Small experiments that reproduce a paper's claim."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer

from xaibench.cli.app import LINE, Json, app, say, show


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="xor (which directions carry a subtask?) or convergence (onto PCA?).")],
    out: Annotated[Path | None, typer.Option(help="Folder of the experiment; runs/NAME if not given.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override an option: --set epochs=50")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds are measured, from 0.")] = 5,
    as_json: Json = False,
) -> None:
    """Repeat a small experiment of a paper over seeds: a table, a picture, and what was found."""
    from xaibench.experiments.base import summarise
    from xaibench.experiments.run_experiment import parse_experiment, run_experiment

    asked = parse_experiment(f"{name}:{','.join(set_)}" if set_ else name)
    folder = out or Path("runs") / asked.name
    scores = run_experiment(asked, folder, seeds=seeds)
    if as_json:
        show(summarise(scores, asked.keys), as_json)
        return
    for line in asked.sentences(scores):
        say(fill(line, LINE))
    say(f"the table: {folder}/{asked.name}.csv; the picture: {folder}/{asked.name}.png")
