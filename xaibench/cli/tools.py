"""Teachers, and what there is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from xaibench.cli.app import Accelerator, Json, app, command_line, say, show
from xaibench.errors import ConfigError


@app.command("train-teacher")
def train_teacher(
    out: Annotated[Path, typer.Argument(help="Checkpoint to write (.safetensors).")],
    model: Annotated[str, typer.Option(help="Architecture, e.g. resnet18-cifar.")],
    dataset: Annotated[str, typer.Option(help="Dataset by name.")] = "fashion-mnist",
    root: Annotated[Path | None, typer.Option(help="Folder of the dataset.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A field of the recipe: --set epochs=10")] = None,
    validation: Annotated[float, typer.Option(help="Share of the training images held out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Seeds split, initialisation, order and augmentation.")] = 0,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in float16.")] = False,
    accelerator: Accelerator = "auto",
    as_json: Json = False,
) -> None:
    """Train a classifier on all classes of a dataset, to serve as a teacher."""
    import pandas as pd

    from xaibench.distillation.make_teacher import make_teacher

    options = ",".join(set_ or [])
    made = make_teacher(
        out,
        model,
        dataset=dataset,
        root=root,
        recipe=options,
        validation=validation,
        seed=seed,
        half=half,
        accelerator=accelerator,
        command=command_line(),
    )
    show(pd.DataFrame([made]), as_json)


@app.command()
def info(
    target: Annotated[
        str | None,
        typer.Argument(help="A run folder, a configuration, a checkpoint, installed:NAME, or nothing: what there is."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run or checkpoint holds, what a configuration or preset would do (with the layer pairs and their
    shapes), or list what there is by name, with options and their defaults."""
    from xaibench.cli.info import describe

    facts = describe(Path(target) if target else None)
    if as_json:
        say(json.dumps(facts, indent=2, default=str))
    else:
        for key, value in facts.items():
            first, *others = value if isinstance(value, list) else [value]
            say(f"{key:<14} {first}")
            for other in others:
                say(f"{'':<14} {other}")


@app.command()
def lab(
    folder: Annotated[Path, typer.Argument(help="Your notebooks; a new or empty folder gets ours.")] = Path(
        "notebooks"
    ),
) -> None:
    """Open your notebooks, or a copy of those that come with xaibench, in JupyterLab."""
    import importlib.util
    import subprocess

    from xaibench.cli.notebooks import copy_notebooks

    if importlib.util.find_spec("jupyterlab") is None:
        raise ConfigError("JupyterLab is not installed: pip install 'xaibench[notebooks]'")
    for path in copy_notebooks(folder):
        say(path)
    raise typer.Exit(subprocess.call([sys.executable, "-m", "jupyterlab", str(folder)]))
