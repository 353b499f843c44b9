"""What all commands share: the application, their common options, and how a result is printed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import xaibench
from xaibench.progress import end_progress

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LINE",
    "Accelerator",
    "Devices",
    "Extend",
    "Json",
    "RunFolder",
    "Set",
    "app",
    "command_line",
    "errors",
    "say",
    "show",
]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
errors = Console(stderr=True, emoji=False)

LINE = 100  # characters that a printed line may have

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Accelerator = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Devices = Annotated[int, typer.Option(min=1, help="Number of devices to train on.")]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
Extend = Annotated[
    bool, typer.Option(help="Keep the students of a run folder that differs in methods, seeds, explain or similarity.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a setting: --set train.epochs=5")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xaibench {xaibench.__version__}")
        raise typer.Exit


@app.callback()
def of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Does a distilled student decide for the same reasons as its teacher? Distil, explain, compare."""


def show(table: pd.DataFrame, as_json: bool) -> None:
    """Print a table, as text or as JSON."""
    from xaibench.report.tables import text_table

    say(table.to_json(orient="records", indent=2) if as_json else text_table(table, width=LINE))


def say(text: object) -> None:
    """Print a line of the result."""
    end_progress()
    typer.echo(text)


def command_line() -> str:
    """The command that was given, for the record."""
    return " ".join(["xaibench", *sys.argv[1:]])
