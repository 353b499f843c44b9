"""Many runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

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
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each process; 1.")] = None,
    memory: Annotated[
        float | None, typer.Option(help="GiB that all processes may use; four fifths of what is free.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local: processes of this machine; ray: a Ray cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, or auto; this machine alone if not given.")
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="CPUs, and threads, of each Ray task; 1.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs of each Ray task, 0.5 for two a GPU; 0.")] = None,
    retries: Annotated[int | None, typer.Option(min=0, help="Of a Ray task whose worker died; 2.")] = None,
    accelerator: Accelerator = "auto",
    extend: Annotated[bool, typer.Option(help="Keep what a folder with another study has in common with it.")] = False,
    as_json: Json = False,
) -> None:
    """Do many runs: a grid of subtasks, students, fractions... A killed study resumes when it is started again."""
    from xaibench.run.config import presets
    from xaibench.study.config import StudyConfig
    from xaibench.study.engines import Engine
    from xaibench.study.folder import Study, open_study
    from xaibench.study.run_study import run_study, tasks_left
    from xaibench.study.watch import watching

    options: dict[str, dict[str, Any]] = {
        "local": {"threads": threads, "memory": None if memory is None else memory * 2**30},
        "ray": {"address": address, "cpus": cpus, "gpus": gpus, "retries": retries},
    }
    if engine not in options:
        raise unknown_name("engine", engine, tuple(options))
    for other, theirs in options.items():
        for name in (name for name, value in theirs.items() if value is not None and other != engine):
            raise ConfigError(f"--{name} is an option of --engine {other}, not of {engine}: leave it out")
    if config not in presets("xaibench.study") and (Path(config) / "study.json").is_file():
        if out is not None or set_ or extend or scale != "full":
            raise ConfigError(f"{config} is a study with its own grid: leave out --out, --set, --scale, --extend")
        folder, settings = Path(config), open_study(config).config
    else:
        folder = out or Path("studies") / Path(config).stem
        settings = StudyConfig.load(config, set_ or (), scale)
    planned = Study(folder.absolute(), settings)
    if dry_run:
        from xaibench.study.estimate import cells

        show(cells(planned, accelerator), as_json)
        return
    kind: Callable[..., Engine]
    if engine == "ray":
        from xaibench.study.ray_engine import RayCluster as kind
    else:
        from xaibench.study.engines import Processes as kind
    given = {name: value for name, value in options[engine].items() if value is not None}
    work = partial(kind, workers=workers, accelerator=accelerator, **given)
    with watching(errors, len(tasks_left(planned)), settings.students) as watch:
        done = run_study(settings, folder, engine=work, extend=extend, watch=watch)
    for task, error in done.failures.items():
        sys.stderr.write(f"failed: {task}: {error}\n")
    say(done.folder)
