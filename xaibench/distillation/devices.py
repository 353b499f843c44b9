"""Where and in what numbers a student is trained, whatever the process has switched on."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric

from xaibench.distillation.recipe import Recipe, resolve_precision
from xaibench.errors import ConfigError
from xaibench.models.predict import as_device
from xaibench.precision import full_precision
from xaibench.validation import checked

__all__ = ["ACCELERATORS", "as_ever", "fabric_on", "make_fabric", "own_generators", "quiet", "seed_generators"]

ACCELERATORS = ("auto", "cpu", "cuda")


@checked
def make_fabric(
    recipe: Recipe, accelerator: str = "auto", devices: int | str | list[int] = 1, *, launch: bool = True
) -> Fabric:
    """A Fabric for this recipe's precision. Several `devices` train data-parallel, in processes that `launch` starts.

    accelerator  "cpu", "cuda", or "auto": cuda where there is one. Apple's mps has no float64, which subspaces and
                 folded batch normalisation are computed in

    Raises ConfigError for an accelerator, or a number of devices, that this machine does not have.
    """
    several = devices != 1 and not (isinstance(devices, list) and len(devices) == 1)
    try:
        if accelerator not in ACCELERATORS:
            raise ValueError("it has no float64" if accelerator == "mps" else "not known")
        if accelerator == "cuda" and not torch.cuda.is_available():
            raise ValueError("torch finds none")
        if accelerator == "auto":
            accelerator = "cuda" if torch.cuda.is_available() else "cpu"
        precision = resolve_precision(recipe.precision, accelerator)
        # A loss of layers alone leaves the classifier without a gradient, which DDP has to be told.
        strategy = "ddp_find_unused_parameters_true" if several else "auto"
        with quiet("lightning_fabric", logging.WARNING):  # what it chose
            fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)  # type: ignore[arg-type]
    except ConfigError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ConfigError(
            f"cannot train on {devices} device(s) of accelerator '{accelerator}' ({reason}): "
            f"choose {', '.join(ACCELERATORS[1:])} or auto, and a number of devices that this machine has"
        ) from error
    if several:
        atexit.register(_leave_group)
    if launch:
        fabric.launch()
    return fabric


@contextmanager
def quiet(logger: str, level: int) -> Iterator[None]:
    """Within the block a logger says nothing below a level."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)


def _leave_group() -> None:
    """Without this the threads of a process group end the interpreter with an abort."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def fabric_on(recipe: Recipe, device: torch.device | str | None) -> Fabric:
    """A Fabric on one device: "cpu", "cuda", "cuda:1"; None is the best one."""
    place = as_device(device)
    if place is None:
        return make_fabric(recipe)
    return make_fabric(recipe, place.type, 1 if place.index is None or place.type == "cpu" else [place.index])


@contextmanager
def as_ever() -> Iterator[None]:
    """Within the block gradients are recorded, whatever mode the caller is in, and `full_precision` holds.

    Mixed precision works in it, without autocast's cache of weights: that is cleared when the outermost autocast block
    ends, which is outside this one, and would keep weights from before an optimiser's step.
    """
    with torch.inference_mode(False), torch.enable_grad(), full_precision():
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            yield
        finally:
            torch.set_autocast_cache_enabled(cached)


@contextmanager
def own_generators(device: torch.device) -> Iterator[None]:
    """After the block the global generators of the CPU and of `device` are as they were before it."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        yield


def seed_generators(seed: int, device: torch.device) -> None:
    """Start the global generators of the CPU and of `device`, from which dropout is drawn, from `seed`."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
