"""What an attribution depends on, as keys for the store."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.attribution.base import Explainer, reason
from xaibench.attribution.explainers import as_explainer
from xaibench.attribution.store.sealed_files import content_hash
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.files import sha256_of_file
from xaibench.models.checkpoints import state_hash
from xaibench.models.class_slice import unsliced
from xaibench.models.copies import uncompiled
from xaibench.models.description import Description, UndescribableError

__all__ = [
    "architecture_hash",
    "attribution_key",
    "curve_key",
    "key_of",
    "logits_key",
    "model_key",
    "training_logits_key",
    "versions_of",
]

_log = logging.getLogger(__name__)

_EXPLAINING = ("attribution", "models", "data")  # parts of the package that explanations run through


def attribution_key(
    model: str, inputs: str, target: Target, explainer: Explainer, preprocessing: Preprocessing, *, check: bool
) -> str:
    """The key (40 hex digits) of one explanation.

    model   `model_key` of the explained model; nothing is kept of a model without one
    inputs  `content_hash` of the normalised images

    Beyond what it is given it holds the target's rule, the content of files that the explainer's options name, the
    versions of the libraries and the code of this package that explanations run through.
    """
    options = {field.name: getattr(explainer, field.name) for field in dataclasses.fields(explainer)}  # type: ignore[arg-type]
    files = {
        name: sha256_of_file(value)
        for name, value in options.items()
        if isinstance(value, str) and value.endswith(".safetensors") and Path(value).is_file()
    }
    return _key(
        "attribution",
        model,
        inputs,
        _target(target),
        target.rule,
        f"{type(explainer).__module__}.{explainer!r}",
        files,
        repr(preprocessing),
        versions_of(*explainer.libraries),
        _own_code(*_EXPLAINING),
        check,
    )


def curve_key(
    model: str, inputs: str, target: Target, preprocessing: Preprocessing, order: Tensor, **options: Any
) -> str:
    """The key of what a model answers while its images' patches vanish in an order (N, cells).

    options  of the flipping, as plain values; the other arguments as for `attribution_key`
    """
    code = _own_code(*_EXPLAINING, "similarity")
    asked = _target(target), content_hash(order), options
    return _key("curve", model, inputs, *asked, repr(preprocessing), versions_of("torch"), code)


def logits_key(model: str, inputs: str) -> str:
    """The key of a model's logits; arguments as for `attribution_key`."""
    return _key("logits", model, inputs, versions_of("torch"))


def training_logits_key(model: str, what: str) -> str:
    """The key of a teacher's logits in a training: `what` they depend on beside the teacher and the code."""
    return _key("training logits", model, what, versions_of("torch"), _own_code("data", "models", "distillation"))


def key_of(
    model: nn.Module,
    x: Tensor,
    target: Target,
    explainer: Explainer | str,
    preprocessing: Preprocessing,
    *,
    check: bool = True,
    device: torch.device | None = None,
) -> str | None:
    """The key under which `explain_model`, called with these arguments, keeps its result; None if it keeps none."""
    if (known := model_key(uncompiled(model), device=device)) is None:
        return None
    return attribution_key(known, content_hash(x), target, as_explainer(explainer), preprocessing, check=check)


def model_key(model: nn.Module, weights: str | None = None, device: torch.device | str | None = None) -> str | None:
    """What a model computes: its weights, its architecture, the packages that define it, and where it is run.

    weights  its `state_hash`, where that is known already
    device   where it is run; None: where it lies

    None, and a warning in the log, where the architecture holds something that cannot be described.
    """
    try:
        architecture = architecture_hash(model)
    except (UndescribableError, RecursionError) as error:
        kind = type(unsliced(model)).__name__
        _log.warning("nothing is kept of %s: it holds %s, whose content cannot be told", kind, reason(error))
        return None
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    home = next((value.device for value in model.parameters()), torch.device("cpu"))
    place = torch.device(home if device is None else device).type
    return _key(weights or state_hash(model), architecture, versions_of(*packages), place)


def versions_of(*libraries: str) -> dict[str, str]:
    """Library -> installed version, xaibench first."""
    return {library: _version(library) for library in ("xaibench", *sorted(libraries))}


def architecture_hash(model: nn.Module) -> str:
    """SHA-256 over what a model computes besides its parameters and buffers.

    For each module: its class, its attributes (stride, eps, lists and tensors that are no buffers, objects with all
    they hold) and its forward hooks, with all code outside installed packages; see `description.Description`.

    Raises UndescribableError where one of them cannot be described, as TorchScript.
    """
    digest = hashlib.sha256()
    for part in Description().modules(model):
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()


def _target(target: Target) -> str:
    return content_hash(torch.stack([target.label.cpu(), target.contrast.cpu()]))


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"  # imported from a source tree


@functools.cache
def _own_code(*parts: str) -> str:
    digest, package = hashlib.sha256(), Path(__file__).parents[2]
    files = [path for part in parts for path in (package / part).rglob("*.py")]
    for path in sorted([*files, package / "precision.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
