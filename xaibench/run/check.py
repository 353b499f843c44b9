"""Everything that is wrong with a configuration, found without training: for `xaibench check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xaibench.errors import XaibenchError
from xaibench.run.config import RunConfig, read_toml, with_assignments
from xaibench.run.settings import problems

if TYPE_CHECKING:
    from xaibench.run.inputs import Assets

__all__ = ["check_configuration"]


def check_configuration(
    path: Path | str, assignments: list[str] | None = None
) -> list[XaibenchError] | tuple[RunConfig, Assets]:
    """The errors of a TOML file or preset; without any, the configuration and what it works on.

    First the keys and values of all sections; if they are right, data, teacher and student; if they fit, each method on
    a few images, and each explainer on the teacher and the untrained student.
    """
    raw, folder = read_toml(path)
    found = problems(RunConfig, raw, folder)
    if not found and assignments:
        raw, folder = with_assignments(RunConfig.from_dict(raw, folder).to_dict(), assignments), Path()
        found = problems(RunConfig, raw, folder)
    if found:
        return found
    return _misfits(RunConfig.from_dict(raw, folder))


def _misfits(config: RunConfig) -> list[XaibenchError] | tuple[RunConfig, Assets]:
    # slow to import, and not needed to say that a file is missing or a key unknown
    from xaibench.distillation.trainer import check_enough_images
    from xaibench.models.architectures import build_model
    from xaibench.run.explaining import check_models
    from xaibench.run.inputs import load_assets, load_teacher
    from xaibench.run.training import check_trainable

    found: list[XaibenchError] = []
    try:
        assets = load_assets(config)
    except XaibenchError as error:
        found.append(error)
        try:  # the rest can be looked at, if it is the layers alone that do not fit
            assets = load_assets(replace(config, student=replace(config.student, layers="auto")))
        except XaibenchError:
            alone = (
                *_errors(lambda: load_teacher(config.teacher, config.data.dataset)),
                *_errors(lambda: build_model(config.student.architecture, 2, 3)),
            )
            return [error, *(one for one in alone if str(one) != str(error))]
    found += _errors(partial(check_enough_images, len(assets.task.train), config.train))
    for method in config.methods:
        one = replace(config, methods=(method,))
        found += _errors(partial(check_trainable, one, assets), f"method {method}: ")
    for explainer in config.explain.explainers:
        one = replace(config, explain=replace(config.explain, explainers=(explainer,)))
        found += _errors(partial(check_models, one, assets), f"explainer {explainer}: ")
    return found or (config, assets)


def _errors(check: Callable[[], object], what: str = "") -> list[XaibenchError]:
    try:
        check()
    except XaibenchError as error:
        return [type(error)(f"{what}{error}")]
    return []
