"""The whole of a run: configuration -> folder with students, heatmaps, scores, figures and report; resumable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric

from xaibench.distillation.distill import make_fabric
from xaibench.distillation.trainer import check_enough_images
from xaibench.errors import RunFolderError
from xaibench.files import sweep_partials
from xaibench.run.config import RunConfig
from xaibench.run.explaining import check_models, explain_models
from xaibench.run.extending import EXTENSIBLE, first_difference
from xaibench.run.folder import Run, open_run
from xaibench.run.inputs import Assets, load_assets
from xaibench.run.manifest import asset_hashes, extend_manifest, write_manifest
from xaibench.run.page import present
from xaibench.run.scoring import score_models
from xaibench.run.training import check_trainable, distill_students
from xaibench.validation import checked

__all__ = ["create_run", "leave_to_one_process", "reopen", "run_config"]


@checked
def run_config(
    config: RunConfig | str | Path,
    folder: Path | str,
    *,
    accelerator: str = "auto",
    devices: int = 1,
    extend: bool = False,
) -> Run:
    """Distil, explain, score and report into `folder`; what is already there is kept, so that a killed run resumes.

    config   a RunConfig, a TOML file or the name of a preset ("demo")
    devices  of the training; with more than one, the processes that train beside the first end when it is done
    extend   the folder may hold a run that differs in methods, seeds, explanations and scores: its students are kept

    Raises RunFolderError for a folder with other contents or a run of another configuration.
    """
    config = config if isinstance(config, RunConfig) else RunConfig.load(config)
    fabric = make_fabric(config.train, accelerator, devices, launch=False)
    run, assets = create_run(config, folder, extend=extend)
    distill_students(run, assets, fabric)
    leave_to_one_process(fabric)
    explain_models(run, assets, fabric.device)
    score_models(run)
    present(run)
    return run


def leave_to_one_process(fabric: Fabric) -> None:
    """End every process of a training on several devices but the first: what follows is explained and written once."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():  # else nothing was trained
        fabric.barrier()
        if not fabric.is_global_zero:
            sys.exit(0)


@checked
def create_run(
    config: RunConfig, folder: Path | str, *, extend: bool = False, check: Callable[[Assets], object] | None = None
) -> tuple[Run, Assets]:
    """Make the run folder, or reopen it where it holds the same configuration; load and check what it works on.

    extend  the folder's configuration may differ in what a single student's training does not depend on
    check   raises for assets that the caller cannot use, before anything is written
    """
    folder = Path(folder).absolute()
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose another run folder")
    if (folder / "manifest.json").is_file():
        held = open_run(folder).config
        different = first_difference(held, config, extend=extend)
        if different:
            remedy = "choose another folder"
            if not extend and different.split(" ")[0].split(".")[0] in EXTENSIBLE:
                remedy += ", or add --extend to keep its students"
            raise RunFolderError(f"{folder} holds a run with another configuration ({different}): {remedy}")
        run, assets = reopen(Run(folder, config))
        if held != config:
            _check(config, assets, check)
            extend_manifest(folder, config)
        return run, assets
    if folder.exists() and any(folder.iterdir()):
        raise RunFolderError(f"{folder} is not empty and holds no run: choose another folder")
    assets = load_assets(config)
    _check(config, assets, check)
    write_manifest(folder, config, assets)
    return Run(folder, config), assets


def reopen(run: Run) -> tuple[Run, Assets]:
    """Load what an existing run works on, and make sure that teacher, data and preprocessing are still the same."""
    assets = load_assets(run.config)
    manifest = run.manifest
    for name, value in asset_hashes(assets).items():
        if manifest["hashes"].get(name) != value:
            raise RunFolderError(
                f"the {name} of {run.folder} changed since the run began: restore it or start in another folder"
            )
    layers = list(map(str, assets.pair.layers))
    if manifest["layers"] != layers:
        raise RunFolderError(
            f"{run.folder} pairs the layers {', '.join(manifest['layers'])}, now {', '.join(layers)} would be paired: "
            "give student.layers as they were, or start in another folder"
        )
    if run.preprocessing != assets.pair.preprocessing:
        raise RunFolderError(
            f"{run.folder} was made with {run.preprocessing}, the teacher now asks for {assets.pair.preprocessing}: "
            "start in another folder"
        )
    sweep_partials(run.folder)
    return run, assets


def _check(config: RunConfig, assets: Assets, further: Callable[[Assets], object] | None) -> None:
    if further:
        further(assets)
    check_enough_images(len(assets.task.train), config.train)
    check_trainable(config, assets)
    check_models(config, assets)
