"""The command line: the only place where names become objects.

Progress on stderr, tables on stdout. Exit codes: 0 done, 1 our bug, 2 the user's input, 3 a score below its threshold.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.logging import RichHandler

from xaibench.errors import BelowThresholdError, ConfigError, RunFolderError, XaibenchError, unknown_name
from xaibench.progress import end_progress, show_progress

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Does a distilled student decide for the same reasons as its teacher? Distil, explain, compare.",
)
_errors = Console(stderr=True)
_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Accelerator = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")]
Devices = Annotated[int, typer.Option(min=1, help="Number of devices to train on.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
Extend = Annotated[
    bool, typer.Option(help="Keep the students of a run folder that differs in methods, seeds, explain or similarity.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: --set train.epochs=5")]


@app.command()
def run(
    config: Annotated[str | None, typer.Argument(help="A TOML file.")] = None,
    preset: Annotated[str | None, typer.Option(help="A configuration that comes with xaibench, e.g. demo.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME if not given.")] = None,
    set_: Set = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    extend: Extend = False,
    as_json: Json = False,
) -> None:
    """Distil, explain, score and report: the main job. A killed run resumes when it is started again."""
    from xaibench.study.config import RunConfig, presets
    from xaibench.study.runner import run_study

    if (config is None) == (preset is None):
        raise ConfigError("give either a configuration file or --preset NAME")
    if preset is not None and preset not in presets():
        raise unknown_name("preset", preset, presets())
    settings = RunConfig.load(config or str(preset)).override(set_ or [])
    folder = out or Path("runs") / (preset or Path(str(config)).stem)
    finished = run_study(settings, folder, accelerator=accelerator, devices=devices, extend=extend)
    _show(finished.table(), as_json)
    sys.stderr.write(f"report: {finished.folder / 'report.html'}\n")


@app.command()
def distill(
    config: Annotated[str, typer.Argument(help="A TOML file, a preset or an existing run folder.")],
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME if not given.")] = None,
    set_: Set = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    extend: Extend = False,
    as_json: Json = False,
) -> None:
    """Train the students of a configuration into a run folder, or the missing ones of an existing run."""
    from xaibench.distill.distill import make_fabric
    from xaibench.study.config import RunConfig
    from xaibench.study.run import open_run
    from xaibench.study.runner import create_run, reopen
    from xaibench.study.steps import distill_students

    if (Path(config) / "manifest.json").is_file():
        if out is not None or set_ or extend:
            raise ConfigError(f"{config} is a run with its own configuration: leave out --out, --set, --extend")
        run = open_run(config)
        fabric = make_fabric(run.config.train, accelerator, devices, launch=False)
        this, assets = reopen(run)
    else:
        settings = RunConfig.load(config).override(set_ or [])
        fabric = make_fabric(settings.train, accelerator, devices, launch=False)
        this, assets = create_run(settings, out or Path("runs") / Path(config).stem, extend=extend)
    distill_students(this, assets, fabric)
    rows = []
    for name in this.students:
        history = this.history(name)
        best = int(history["validation_accuracy"].to_numpy().argmax())
        accuracy = history["validation_accuracy"].iloc[best]
        rows.append({"student": name, "validation accuracy": accuracy, "best epoch": best})
    _show(pd.DataFrame(rows), as_json)


@app.command()
def explain(folder: RunFolder, as_json: Json = False) -> None:
    """Explain the run's test images under every model and check the explanations."""
    from xaibench.study.run import open_run
    from xaibench.study.runner import reopen
    from xaibench.study.steps import explain_models

    this, assets = reopen(open_run(folder))
    explain_models(this, assets)
    _show(this.validity(), as_json)


@app.command()
def score(
    folder: RunFolder,
    minimum: Annotated[
        list[str] | None,
        typer.Option("--min", help="EXPLAINER.METRIC=VALUE, e.g. lrp.cosine=0.6; exit code 3 below."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Hold only this method to --min.")] = None,
    as_json: Json = False,
) -> None:
    """Score the students' heatmaps against the teacher's; fail where a mean lies below its threshold."""
    from xaibench.study.run import open_run
    from xaibench.study.steps import score_models
    from xaibench.study.thresholds import parse_threshold, shortfalls

    this = open_run(folder)
    thresholds = [parse_threshold(text, this) for text in minimum or []]
    score_models(this)
    _show(this.summary(), as_json)
    below = shortfalls(this.summary(), thresholds, method)
    if below:
        raise BelowThresholdError("; ".join(below))


@app.command()
def report(folder: RunFolder) -> None:
    """Draw the figures of a scored run and write report.html."""
    from xaibench.study.present import present
    from xaibench.study.run import open_run

    this = open_run(folder)
    present(this)
    _print(this.folder / "report.html")


@app.command()
def figure(
    folder: RunFolder,
    out: Annotated[Path, typer.Option(help="Where to write it: .pdf, .svg or .png.")] = Path("gallery.pdf"),
    explainer: Annotated[str | None, typer.Option(help="Explainer of the run; the first if not given.")] = None,
    images: Annotated[list[str] | None, typer.Option("--image", help="Image key; repeat for more rows.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of images where none are named, most to least alike.")] = 6,
    methods: Annotated[list[str] | None, typer.Option("--method", help="Method to draw; repeat for more.")] = None,
) -> None:
    """Draw the comparison figure of a scored run."""
    from xaibench.figures.style import save_figure
    from xaibench.study.present import gallery_of, spread_images
    from xaibench.study.run import open_run

    this = open_run(folder)
    chosen = explainer or this.explainers[0]
    for key in images or []:
        if key not in this.images.keys:
            raise unknown_name("image", key, this.images.keys)
    for method in methods or []:
        if method not in this.config.methods:
            raise unknown_name("method of this run", method, this.config.methods)
    students = {m: f"{m}/seed{this.config.seeds[0]}" for m in methods or this.config.methods}
    drawn = gallery_of(this, chosen, students, images or spread_images(this, chosen, rows))
    for path in save_figure(drawn, out.with_suffix(""), (out.suffix.removeprefix(".") or "pdf",)):
        _print(path)


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
    from xaibench.study.teacher import make_teacher

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
        command=_command(),
    )
    _show(pd.DataFrame([made]), as_json)


@app.command()
def info(
    target: Annotated[
        str | None, typer.Argument(help="A run folder, a configuration, a checkpoint, or nothing: what there is.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run or checkpoint holds, what a configuration or preset would do (with the layer pairs and their
    shapes), or list the names of datasets, methods, explainers, metrics and presets."""
    from xaibench.study.describe import describe

    facts = describe(Path(target) if target else None)
    if as_json:
        _print(json.dumps(facts, indent=2, default=str))
    else:
        for key, value in facts.items():
            _print(f"{key:<14} {value}")


@app.command()
def lab(folder: Annotated[Path, typer.Argument(help="Where the notebooks are.")] = Path("notebooks")) -> None:
    """Open the notebooks in JupyterLab."""
    import importlib.util
    import subprocess

    if importlib.util.find_spec("jupyterlab") is None:
        raise ConfigError("JupyterLab is not installed: pip install 'xaibench[notebooks]'")
    if not folder.is_dir():
        raise RunFolderError(f"no folder {folder}: give the folder of your notebooks")
    raise typer.Exit(subprocess.call([sys.executable, "-m", "jupyterlab", str(folder)]))


def main() -> None:
    """Run the command line; turn the user's errors into one line on stderr and their exit code."""
    handler = RichHandler(logging.WARNING, _errors, show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    try:
        with show_progress(_errors):
            code = app(standalone_mode=False)
    except XaibenchError as error:
        _fail(" ".join(str(error).split()), error.exit_code)
    except typer.TyperException as error:
        message = " ".join(error.format_message().split())
        if not message:  # no arguments: the help is the answer
            sys.exit(2)
        context = getattr(error, "ctx", None)
        _fail(f"{message.rstrip('.')}: see '{context.command_path if context else 'xaibench'} --help'", 2)
    if code == _INTERRUPTED:
        _fail("interrupted: start the same command again to go on where it stopped", code)
    if isinstance(code, int):  # of `typer.Exit`
        sys.exit(code)


def _command() -> str:
    return " ".join(["xaibench", *sys.argv[1:]])


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)


def _show(table: pd.DataFrame, as_json: bool) -> None:
    from xaibench.report.tables import text_table

    _print(table.to_json(orient="records", indent=2) if as_json else text_table(table))


def _print(text: object) -> None:
    end_progress()
    typer.echo(text)
