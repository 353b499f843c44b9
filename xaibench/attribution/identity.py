"""What an attribution depends on, as keys for the store."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from xaibench.attribution.base import Explainer
from xaibench.attribution.sealed import content_hash
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.files import sha256_of_file
from xaibench.models.checkpoints import state_hash

__all__ = ["architecture_hash", "attribution_key", "logits_key", "model_key", "versions_of"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_LEFT_OUT = ("training", "_parameters", "_buffers", "_modules")


def attribution_key(
    model: str, inputs: str, target: Target, explainer: Explainer, preprocessing: Preprocessing, *, check: bool
) -> str:
    """The key (40 hex digits) of one explanation.

    model   `model_key` of the explained model
    inputs  `content_hash` of the normalised images

    Beyond what it is given it holds the target's rule, the content of files that the explainer's options name, the
    versions of the libraries and the code of this package's explainers.
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
        content_hash(torch.stack([target.label.cpu(), target.contrast.cpu()])),
        target.rule,
        f"{type(explainer).__module__}.{explainer!r}",
        files,
        repr(preprocessing),
        versions_of(*explainer.libraries),
        _own_code(),
        check,
    )


def logits_key(model: str, inputs: str) -> str:
    """The key of a model's logits; arguments as for `attribution_key`."""
    return _key("logits", model, inputs, versions_of("torch"))


def model_key(model: nn.Module, weights: str | None = None) -> str:
    """What a model computes: its weights, its architecture, the packages that define it and the device it is on.

    weights  its `state_hash`, where that is known already
    """
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    device = next((value.device.type for value in model.parameters()), "cpu")
    return _key(weights or state_hash(model), architecture_hash(model), versions_of(*packages), device)


def versions_of(*libraries: str) -> dict[str, str]:
    """Library -> installed version, xaibench first."""
    return {library: _version(library) for library in ("xaibench", *sorted(libraries))}


def architecture_hash(model: nn.Module) -> str:
    """SHA-256 over what a model computes besides its parameters and buffers.

    For each module: its class with the code of all its methods, its plain attributes (stride, eps, lists and tensors
    that are no buffers) and its hooks. What functions and objects that it calls do is not followed any further: clear
    the store after changing those.
    """
    digest = hashlib.sha256()
    code = {cls: _class_code(cls) for cls in {type(module) for module in model.modules()}}
    for name, module in model.named_modules(remove_duplicate=False):
        own = {key: _describe(value) for key, value in sorted(vars(module).items()) if key not in _LEFT_OUT}
        digest.update(json.dumps([name, code[type(module)], own]).encode())
    return digest.hexdigest()


def _class_code(cls: type) -> str:
    parts: list[Any] = []
    for kind in cls.__mro__[: cls.__mro__.index(nn.Module)]:
        members = ((name, _function(value)) for name, value in sorted(vars(kind).items()))
        parts += [kind.__module__, kind.__qualname__, *((name, _code(f)) for name, f in members if f is not None)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _function(value: Any) -> FunctionType | None:
    value = getattr(value, "fget", getattr(value, "__func__", value))
    return value if isinstance(value, FunctionType) else None


def _code(function: FunctionType) -> list[Any]:
    cells = map(_content, function.__closure__ or ())
    defaults = [*(function.__defaults__ or ()), *sorted((function.__kwdefaults__ or {}).items())]
    return [_instructions(function.__code__), *(repr(v) for v in (*cells, *defaults) if isinstance(v, _PLAIN))]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _instructions(code: CodeType) -> list[Any]:
    constants = [_instructions(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts]
    return [code.co_code.hex(), code.co_names, constants]


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _describe(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return content_hash(value)
    if isinstance(value, (list, tuple)):
        return [_describe(v) for v in value]
    if isinstance(value, dict):  # integer keys are those of hooks, which differ from process to process
        return [(None if isinstance(key, int) else repr(key), _describe(v)) for key, v in value.items()]
    if isinstance(value, functools.partial):
        return [_describe(value.func), _describe(value.args), _describe(value.keywords)]
    if isinstance(value, (FunctionType, MethodType)):
        return _code(_function(value))  # type: ignore[arg-type]
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"  # imported from a source tree


@functools.cache
def _own_code() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
