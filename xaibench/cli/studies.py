"""Many runs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from xaibench.cli.app import Accelerator, Json, Set, app, errors, say, show
from xaibench.errors import ConfigError, unknown_name


@app.command()
def study(
    config: Annotated[str, typer.Argument(help="A TOML file, a preset, or an existing study folder.")],
    out: Annotated[Path | None, typer.Option(help="Study folder; studies/NAME if not given.")] = None,
    set_: Set = None,
    scale: Annotated[str, typer.Option(help="full, or small: the configuration's own short form.")] = "full",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cells and an estimate of time.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one a core if not given.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process.")] = 1,
    memory: Annotated[
        float | None, typer.Option(help="GiB that all processes may use; four fifths of what is free.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    accelerator: Accelerator = "auto",
    extend: Annotated[bool, typer.Option(help="Keep what a folder with another study has in common with it.")] = False,
    as_json: Json = False,
) -> None:
    """Do many runs: a grid of subtasks, students, fractions... A killed study resumes when it is started again."""
    from xaibench.study.config import StudyConfig
    from xaibench.study.engines import Processes
    from xaibench.study.folder import Study, open_study
    from xaibench.study.run_study import run_study, tasks_left
    from xaibench.study.watch import watching

    if engine not in ("local", "ray"):
        raise unknown_name("engine", engine, ("local", "ray"))
    if (Path(config) / "study.json").is_file():
        if out is not None or set_ or extend or scale != "full":
            raise ConfigError(f"{config} is a study with its own grid: leave out --out, --set, --scale, --extend")
        folder, settings = Path(config), open_study(config).config
    else:
        folder = out or Path("studies") / Path(config).stem
        settings = StudyConfig.load(config, set_ or (), scale)
    planned = Study(folder.absolute(), settings)
    if dry_run:
        from xaibench.study.estimate import cells

        show(cells(planned), as_json)
        return
    work = partial(
        Processes,
        workers=workers,
        threads=threads,
        memory=None if memory is None else memory * 2**30,
        accelerator=accelerator,
    )
    with watching(errors, len(tasks_left(planned)), settings.students) as watch:
        done = run_study(settings, folder, engine=work, extend=extend, watch=watch)
    for task, error in done.failures.items():
        sys.stderr.write(f"failed: {task}: {error}\n")
    say(done.folder)
