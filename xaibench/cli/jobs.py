"""The main job, whole and one step at a time."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer

from xaibench.cli.app import LINE, Accelerator, Devices, Extend, Json, RunFolder, Set, app, say, show
from xaibench.errors import BelowThresholdError, ConfigError, unknown_name
from xaibench.files import write_text


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
    from xaibench.run.config import RunConfig, presets
    from xaibench.run.pipeline import run_config
    from xaibench.run.results import results

    if (config is None) == (preset is None):
        raise ConfigError("give either a configuration file or --preset NAME")
    if preset is not None and preset not in presets():
        raise unknown_name("preset", preset, presets())
    settings = RunConfig.load(config or str(preset)).override(set_ or [])
    folder = out or Path("runs") / (preset or Path(str(config)).stem)
    finished = run_config(settings, folder, accelerator=accelerator, devices=devices, extend=extend)
    if as_json:
        show(finished.table(), as_json)
    else:
        say(results(finished).render("text", width=LINE).rstrip())
    sys.stderr.write(f"report: {finished.folder / 'report.html'}\n")


@app.command()
def init(
    file: Annotated[Path | None, typer.Argument(help="The TOML file to write; printed if not given.")] = None,
) -> None:
    """Write a configuration with every key, its default and its meaning, to start from."""
    from xaibench.run.reference import configuration_toml

    if file is None:
        say(configuration_toml().rstrip())
        return
    if file.exists():
        raise ConfigError(f"{file} exists already: choose another name, or remove it first")
    if file.suffix != ".toml":
        raise ConfigError(f"{file} is no name of a TOML file: choose one that ends in .toml")
    write_text(file, configuration_toml())
    say(file)


@app.command()
def check(
    config: Annotated[str, typer.Argument(help="A TOML file or a preset.")],
    set_: Set = None,
) -> None:
    """Say everything that is wrong with a configuration, or what a run of it would do, without training."""
    from xaibench.run.check import check_configuration

    checked = check_configuration(config, set_)
    if isinstance(checked, list):
        for problem in checked:
            sys.stderr.write(f"error: {' '.join(str(problem).split())}\n")
        raise typer.Exit(2)
    from xaibench.cli.info import plan  # slow to import

    say(f"{config} is ok")
    for key, value in plan(*checked).items():
        say(f"{key:<14} {value}")


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
    import pandas as pd

    from xaibench.distillation.distill import make_fabric
    from xaibench.run.config import RunConfig, presets
    from xaibench.run.folder import open_run
    from xaibench.run.pipeline import create_run, leave_to_one_process, reopen
    from xaibench.run.training import distill_students

    if config not in presets() and (Path(config) / "manifest.json").is_file():
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
    leave_to_one_process(fabric)
    rows = []
    for name in this.students:
        history = this.history(name)
        best = int(history["validation_accuracy"].to_numpy().argmax())
        accuracy = history["validation_accuracy"].iloc[best]
        rows.append({"student": name, "validation accuracy": accuracy, "best epoch": best})
    show(pd.DataFrame(rows), as_json)


@app.command()
def explain(folder: RunFolder, accelerator: Accelerator = "auto", as_json: Json = False) -> None:
    """Explain the run's test images under every model and check the explanations."""
    from xaibench.distillation.distill import make_fabric
    from xaibench.run.explaining import explain_models
    from xaibench.run.folder import open_run
    from xaibench.run.pipeline import reopen

    run = open_run(folder)
    device = make_fabric(run.config.train, accelerator).device
    this, assets = reopen(run)
    explain_models(this, assets, device)
    show(this.validity(), as_json)


@app.command()
def score(
    folder: RunFolder,
    minimum: Annotated[
        list[str] | None,
        typer.Option("--min", help="EXPLAINER.METRIC=VALUE, e.g. lrp.cosine=0.6; exit code 3 below."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Hold only this method to --min.")] = None,
    explainers: Annotated[
        list[str] | None, typer.Option("--explainer", help="Print only this explainer's scores; repeat for more.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="Print only this metric's scores; repeat for more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score the students' heatmaps against the teacher's; fail where a mean lies below its threshold."""
    from xaibench.report.sentences import faithfulness_lines, rests_on
    from xaibench.run.folder import open_run
    from xaibench.run.scoring import score_models
    from xaibench.run.tables import gap_table
    from xaibench.run.thresholds import parse_threshold, shortfalls

    this = open_run(folder)
    thresholds = [parse_threshold(text, this) for text in minimum or []]
    wanted = {
        "explainer": (explainers, this.explainers),
        "metric": (metrics, this.config.similarity.metrics),
    }
    for kind, (names, known) in wanted.items():
        for name in names or ():
            if name not in known:
                raise unknown_name(f"{kind} of this run", name, known)
    score_models(this)
    summary = printed = this.summary()
    for kind, (names, _) in wanted.items():
        printed = printed[printed[kind].isin(names)] if names else printed
    show(printed, as_json)
    if not as_json:
        say(fill(rests_on(printed), LINE))
        gaps = gap_table(this.faithfulness())
        for line in faithfulness_lines(gaps[gaps["explainer"].isin(printed["explainer"])]):
            say(fill(line, LINE))
    below = shortfalls(summary, thresholds, method)
    if below:
        raise BelowThresholdError("; ".join(below))


@app.command()
def report(folder: RunFolder) -> None:
    """Draw the figures of a scored run and write report.html."""
    from xaibench.run.folder import open_run
    from xaibench.run.page import present

    this = open_run(folder)
    present(this)
    say(this.folder / "report.html")


@app.command()
def table(
    folder: RunFolder,
    form: Annotated[str, typer.Option("--format", help="text, html, latex or csv.")] = "text",
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", help="Column to show, also parameters, macs, latency_ms; repeat for more."),
    ] = None,
) -> None:
    """Print the table of methods of a scored run, for a terminal, a page, a paper or a program."""
    from xaibench.run.folder import open_run
    from xaibench.run.results import results

    say(results(open_run(folder), columns).render(form, width=LINE).rstrip())
