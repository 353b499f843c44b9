"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xaibench.cli.app import RunFolder, app, say


@app.command("figure")
def draw(
    folder: RunFolder,
    kind: Annotated[
        str,
        typer.Option(
            help="gallery, similarity, league, scores, history, flipping, inside, layers, spectra, dimension, pooling, "
            "influence, students or cues."
        ),
    ] = "gallery",
    out: Annotated[
        Path | None, typer.Option(help="Where to write it, with or without a suffix; KIND in this folder if not given.")
    ] = None,
    formats: Annotated[
        str | None, typer.Option("--format", help="pdf, svg, png, or several as in pdf,png; that of --out, or pdf.")
    ] = None,
    width: Annotated[str | None, typer.Option(help="single, double or inches; the kind's own if not given.")] = None,
    font: Annotated[str, typer.Option(help="sans, serif or latex.")] = "sans",
    names: Annotated[
        Path | None, typer.Option(help="A .toml or .json file: method, class, explainer, ... -> what to print.")
    ] = None,
    explainer: Annotated[str | None, typer.Option(help="Explainer of the run; the kind's own if not given.")] = None,
    images: Annotated[list[str] | None, typer.Option("--image", help="Image key; repeat for more rows.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Number of images where none are named, most to least alike.")
    ] = None,
    methods: Annotated[list[str] | None, typer.Option("--method", help="Method to draw; repeat for more.")] = None,
) -> None:
    """Draw a figure of a run for a paper: by default the comparison of heatmaps."""
    from xaibench.figures.style import save_figure, stem_and_formats
    from xaibench.run.figures import figure

    asked = None if formats is None else [part.strip() for part in formats.split(",")]
    stem, written = stem_and_formats(out or Path(kind), asked, ("pdf",))
    drawn = figure(
        folder,
        kind,
        explainer=explainer,
        methods=methods,
        images=images,
        rows=rows,
        names=names,
        font=font,
        width=width,
    )
    for path in save_figure(drawn, stem, written):
        say(path)
