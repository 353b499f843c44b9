"""Further questions to a finished run, and the study of spurious cues."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xaibench.cli.app import Accelerator, Devices, Extend, Json, RunFolder, Set, app, say, show
from xaibench.errors import ConfigError

Explainer = Annotated[str | None, typer.Option(help="Explainer of the run; the first if not given.")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Method of the run; repeat for more.")]
Images = Annotated[int | None, typer.Option(min=1, help="How many of the explained images; all if not given.")]


@app.command()
def flip(
    folder: RunFolder,
    explainer: Explainer = None,
    fill: Annotated[str, typer.Option(help="What replaces a patch: inpaint, blur, mean or black.")] = "inpaint",
    grid: Annotated[int | None, typer.Option(min=1, help="Patches a side; the run's grid if not given.")] = None,
    methods: Methods = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Seed of the run; repeat for more.")] = None,
    images: Images = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a curve; one patch a step if not given.")] = None,
    accelerator: Accelerator = "auto",
    as_json: Json = False,
) -> None:
    """Flip pixels in each model's own order of relevance and the student's in the teacher's (cross flipping)."""
    from xaibench.distillation.distill import make_fabric
    from xaibench.questions.flipping import flip_footnote, flip_run
    from xaibench.run.folder import open_run

    run = open_run(folder)
    device = make_fabric(run.config.train, accelerator).device
    table = flip_run(
        run,
        explainer=explainer,
        fill=fill,
        grid=grid,
        images=images,
        methods=methods,
        seeds=seeds,
        steps=steps,
        device=device,
    )
    show(table, as_json)
    if not as_json and (footnote := flip_footnote(table)):
        say(footnote)


@app.command()
def inside(
    folder: RunFolder,
    layers: Annotated[list[str] | None, typer.Option("--layer", help="Layer pair; repeat for more.")] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Leading directions to compare; the student's width.")] = None,
    methods: Methods = None,
    images: Images = None,
    fss: Annotated[
        bool, typer.Option("--fss", help="Measure FSS too, which tells no distilled student apart.")
    ] = False,
    accelerator: Accelerator = "auto",
    as_json: Json = False,
) -> None:
    """Look inside: relevance in the teacher's subspace, and how alike the student's is, layer by layer."""
    from xaibench.distillation.distill import make_fabric
    from xaibench.questions.inside import inside_run
    from xaibench.report.tables import side_by_side
    from xaibench.run.folder import open_run

    run = open_run(folder)
    device = make_fabric(run.config.train, accelerator).device
    table = inside_run(run, layers=layers, k=k, methods=methods, images=images, fss=fss, device=device)
    of_students = (table["pairing"] == "matched") & (table["method"] != "teacher")
    shown = table[of_students & (table["measure"] != "direction cosine")]
    show(table if as_json else side_by_side(shown, ["layer", "method"], "measure", "value"), as_json)
    if not as_json:
        say(f"controls, shares of relevance and single directions: {run.folder}/inside*.csv and .png")


@app.command()
def dimension(
    folders: Annotated[list[Path], typer.Argument(help="A run folder, or several of different classes.")],
    bases: Annotated[
        list[str] | None, typer.Option("--basis", help="Basis; repeat for more. prcaposdef, pca and random.")
    ] = None,
    layers: Annotated[list[str] | None, typer.Option("--layer", help="Layer pair; repeat for more.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="How many test images; 500 if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the mean over several runs.")] = None,
    accelerator: Accelerator = "auto",
    as_json: Json = False,
) -> None:
    """Project the teacher's layers on few directions: how many does it need? Several runs give a mean over subtasks."""
    from xaibench.distillation.distill import make_fabric
    from xaibench.questions.dimension import dimension_run, dimension_runs
    from xaibench.report.tables import side_by_side
    from xaibench.run.folder import open_run

    runs = [open_run(folder) for folder in folders]
    device = make_fabric(runs[0].config.train, accelerator).device
    if len(runs) == 1:
        if out is not None:
            raise ConfigError("the answer of one run lies in its folder: leave out --out, or give several runs")
        table = dimension_run(runs[0], bases=bases, layers=layers, images=images, device=device)
    else:
        if out is None:
            raise ConfigError("the mean over several runs needs a folder of its own: give --out FOLDER")
        table = dimension_runs(runs, out, bases=bases, layers=layers, images=images, device=device)
    shown = table[table["basis"] != "none"]
    show(table if as_json else side_by_side(shown, ["layer", "k"], "basis", "accuracy"), as_json)


@app.command()
def pooling(
    folder: RunFolder,
    explainer: Explainer = None,
    metric: Annotated[str, typer.Option(help="Metric to score with.")] = "cosine",
    methods: Methods = None,
    grids: Annotated[list[int] | None, typer.Option("--grid", min=1, help="Cells a side; repeat for more.")] = None,
    as_json: Json = False,
) -> None:
    """Score the run's heatmaps on several grids: does likeness depend on the scale?"""
    from xaibench.questions.pooling import pool_run
    from xaibench.run.folder import open_run

    table = pool_run(open_run(folder), explainer=explainer, metric=metric, methods=methods, grids=grids)
    show(table, as_json)


@app.command()
def cues(
    config: Annotated[str, typer.Argument(help="A TOML file or a preset.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the study; runs/NAME-cues if not given.")] = None,
    cue: Annotated[str, typer.Option(help='The mark, e.g. "plus", "square:size=4,corner=random", "digit".')] = "plus",
    cue_class: Annotated[
        str | None, typer.Option("--class", help="The class that carries it; the first. None for digit.")
    ] = None,
    contaminations: Annotated[
        list[float] | None, typer.Option("--contamination", help="Share of its training images with the mark; repeat.")
    ] = None,
    explainers: Annotated[
        list[str] | None, typer.Option("--explainer", help="Explainer of the configuration; repeat for more.")
    ] = None,
    set_: Set = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    extend: Extend = False,
    as_json: Json = False,
) -> None:
    """Put a mark on images of one class, or a digit on all: does the student rely on it more than its teacher?"""
    from xaibench.questions.cues import CONTAMINATIONS, cue_study
    from xaibench.report.tables import side_by_side
    from xaibench.run.config import RunConfig

    folder = out or Path("runs") / f"{Path(config).stem}-cues"
    table = cue_study(
        RunConfig.load(config).override(set_ or []),
        folder,
        cue=cue,
        cue_class=cue_class,
        contaminations=contaminations or CONTAMINATIONS,
        explainers=explainers,
        accelerator=accelerator,
        devices=devices,
        extend=extend,
    )
    shown = table[table["quantity"].isin(("accuracy", "attack_success", "wrong_accuracy", "net_mass"))]
    shown = shown.assign(measure=shown["quantity"].where(shown["explainer"] == "-", shown["explainer"] + " net mass"))
    show(table if as_json else side_by_side(shown, ["contamination", "method"], "measure", "mean"), as_json)
    if not as_json:
        say(
            f"chance, differences to the teacher, the other measures: {folder}/cues.csv; the picture: {folder}/cues.png"
        )
