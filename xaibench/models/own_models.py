"""Models of the user's own code, by name: `file.py:Class` or `module:Class`.

A name makes the file run. So it must come from the user (a configuration, an argument), never from a checkpoint.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from xaibench.errors import ModelError, unknown_name

__all__ = ["build_own", "find_own", "is_own", "located", "same_code"]

_OWN = re.compile(r"(?P<home>.+\.py|[A-Za-z_]\w*(?:\.\w+)*):(?P<name>[A-Za-z_]\w*)")


def is_own(name: str) -> bool:
    """Whether an architecture is the user's code: "file.py:Class" or "module:Class"."""
    return _OWN.fullmatch(name) is not None


def located(name: str, folder: Path | str = ".") -> str:
    """An architecture with the absolute path of its file, which is relative to `folder`; other names as they are.

    >>> located("nets.py:Net", "/home/me"), located("resnet18-cifar")
    ('/home/me/nets.py:Net', 'resnet18-cifar')
    """
    found = _OWN.fullmatch(name)
    if found is None or not found["home"].endswith(".py"):
        return name
    return f"{(Path(folder) / Path(found['home']).expanduser()).absolute()}:{found['name']}"


def same_code(a: str, b: str) -> bool:
    """Whether two architectures are the same; of files, the names count and not the folders."""
    files = [_OWN.fullmatch(name) for name in (a, b)]
    return a == b or (all(files) and len({(Path(f["home"]).name, f["name"]) for f in files if f}) == 1)


def find_own(name: str) -> Callable[..., Any]:
    """The class or function that `name` stands for; its file is run, once.

    Raises ModelError for a file or module that is missing or fails, UnknownNameError with the nearest name in it.
    """
    found = _OWN.fullmatch(name)
    if found is None:
        raise ModelError(f"'{name}' names no code: write file.py:Class or module:Class")
    home = found["home"]
    code = _from_file(Path(home).expanduser()) if home.endswith(".py") else _imported(home)
    make: Callable[..., Any] | None = getattr(code, found["name"], None)
    if not callable(make):
        names = [key for key, value in vars(code).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"model of {home}", found["name"], names)
    return make


def build_own(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """Call the class or function with the keywords `num_classes` and `in_channels`, where it takes them.

    Raises ModelError for code that fails or returns no module, and what `find_own` raises.
    """
    make = find_own(name)
    given = {"num_classes": num_classes, "in_channels": in_channels}
    try:
        model = make(**_taken(make, given))
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ModelError(f"{name} cannot be built ({_reason(error)}): correct its code") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} gives a {type(model).__name__}, not a torch.nn.Module: name a model's class")
    return model


def _from_file(path: Path) -> ModuleType:
    """The module in a file, under a name that says its content: equal files give one module."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model's file {path} ({error.strerror}): correct the path") from error
    name = f"{path.stem}_{hashlib.sha256(content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    loader = SourceFileLoader(name, str(path))
    spec = ModuleSpec(name, loader, origin=str(path))
    spec.has_location = True  # the module knows its file
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    folder = str(path.absolute().parent)
    sys.path.insert(0, folder)  # for what the file imports from beside it
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        del sys.modules[name]
        raise ModelError(f"{path} cannot be run ({_reason(error)}): correct its code") from error
    finally:
        sys.path.remove(folder)
    return module


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever the module raises
        raise ModelError(
            f"module '{name}' cannot be imported ({_reason(error)}): install it, or name a file, as in {name}.py:Class"
        ) from error


def _taken(make: Callable[..., Any], given: dict[str, int]) -> dict[str, int]:
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return given
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {key: value for key, value in given.items() if key in parameters or (open_ended and key == "num_classes")}


def _reason(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text}"[:150]
