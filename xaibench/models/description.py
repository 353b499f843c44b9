"""What objects consist of, the same in every process: the part of a model that its weights do not say."""

from __future__ import annotations

import dis
import functools
import hashlib
import operator
import platform
import sys
import weakref
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Description", "UndescribableError", "tensor_bytes"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)
_NOT_COMPUTED_WITH = ("training", "_parameters", "_buffers", "_modules", "_compiled_call_impl")
_OTHER_HOOKS = ("_backward", "_state_dict", "_load_state_dict")


class UndescribableError(Exception):
    """An object whose content cannot be told; the message names its type."""


class Description:
    """Called with an object, gives lists of texts (for JSON) that say all that it consists of.

    Functions and classes: their code with closures, defaults and the global names it reads; those of installed packages
    by name and version. Modules: the class, plain attributes and forward hooks of each module in them. Tensors and
    arrays: their content. Anything else: what `copy.deepcopy` would copy. An object that was met before is given by
    its number. No text depends on addresses or on the order of sets.

    Raises UndescribableError for what cannot be taken apart, such as TorchScript code and locks.
    """

    def __init__(self) -> None:
        self._met: dict[int, tuple[object, int]] = {}  # the object is kept alive, so that no other has its id

    def __call__(self, value: Any) -> Any:
        if type(value) in _PLAIN:
            return repr(value)
        if type(value) is tuple:
            return [self(part) for part in value]
        if id(value) in self._met:
            return f"#{self._met[id(value)][1]}"
        self._met[id(value)] = value, len(self._met)
        return [type(value).__name__, self._content(value)]

    def modules(self, model: nn.Module) -> Iterator[Any]:
        """One description a module: its name, class, plain attributes and forward hooks; weights are left out."""
        whole = dict(model.named_modules())
        new = {id(module) for module in whole.values() if id(module) not in self._met or module is model}
        self._met |= {id(module): (module, len(self._met) + n) for n, module in enumerate(whole.values())}
        for name, module in model.named_modules(remove_duplicate=False):
            if id(module) in new:
                new.remove(id(module))
                yield [name, self._met[id(module)][1], self._class(type(module)), self._own(module)]
            else:
                yield [name, self(module)]

    def _own(self, module: nn.Module) -> list[Any]:
        found = []
        for key, value in sorted(vars(module).items()):
            if key in _NOT_COMPUTED_WITH or key.startswith(_OTHER_HOOKS):
                continue
            if "_hooks" in key and isinstance(value, dict):  # numbered through the process: only the order tells
                numbers = sorted(module._forward_hooks.keys() | module._forward_pre_hooks.keys())
                value = {numbers.index(number): hook for number, hook in value.items() if number in numbers}
            found.append([key, self(value)])
        return found

    def _content(self, value: Any) -> Any:
        if type(value) is list:
            return [self(part) for part in value]
        if type(value) in (dict, MappingProxyType):
            return [[self(key), self(part)] for key, part in value.items()]
        if type(value) in (set, frozenset):
            return sorted(str(Description()(part)) for part in value)
        if isinstance(value, Tensor):
            return _tensor(value)
        if isinstance(value, nn.Module):
            state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
            return [self(state), list(self.modules(value))]
        if isinstance(value, type):
            return _installed(value) or self._class(value)
        if isinstance(value, FunctionType):
            return _installed(value) or self._function(value)
        if isinstance(value, CodeType):
            return [value.co_code.hex(), value.co_names, [self(constant) for constant in value.co_consts]]
        if isinstance(value, ModuleType):
            return value.__name__
        return [self(part) for part in _parts(value)]

    def _function(self, function: FunctionType) -> list[Any]:
        code, names = function.__code__, function.__globals__
        read = {name: names[name] for name in sorted(set(_globals_of(code))) if name in names}
        cells = [_inside(cell) for cell in function.__closure__ or ()]
        defaults = function.__defaults__, function.__kwdefaults__
        return [self(part) for part in (code, cells, defaults, vars(function), read)]

    def _class(self, cls: type) -> list[Any]:
        kinds = cls.__mro__[: cls.__mro__.index(nn.Module if issubclass(cls, nn.Module) else object)]
        return [
            [kind.__module__, kind.__qualname__, [[name, self(value)] for name, value in _members(kind)]]
            if kind is cls or issubclass(kind, nn.Module)
            else self(kind)
            for kind in kinds
        ]


def tensor_bytes(x: Tensor) -> memoryview:
    """The values of a dense tensor as bytes, row by row."""
    data: memoryview = x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return data


def _tensor(x: Tensor) -> list[str]:
    try:
        plain = x.dequantize() if x.is_quantized else x.to_dense() if x.layout != torch.strided else x
        return [str(x.dtype), str(x.layout), str(tuple(x.shape)), hashlib.sha256(tensor_bytes(plain)).hexdigest()]
    except (RuntimeError, ValueError, TypeError) as error:  # on the meta device, without values
        raise UndescribableError(type(x).__name__) from error


def _members(cls: type) -> list[tuple[str, Any]]:
    """What a class defines: methods, and attributes but those that Python itself keeps there."""
    return [
        (name, value)
        for name, value in sorted(vars(cls).items())
        if name != "_abc_impl" and (not name.startswith("__") or isinstance(value, (FunctionType, classmethod)))
    ]


def _parts(value: Any) -> tuple[Any, ...]:
    """What an object is made from again."""
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, property):
        return value.fget, value.fset, value.fdel
    if isinstance(value, (staticmethod, classmethod)):
        return (value.__func__,)
    if isinstance(value, functools.cached_property):
        return (value.func,)
    if isinstance(value, weakref.ReferenceType):
        return (value(),)
    if isinstance(value, torch.autocast):  # its other attributes are those of the last time it was entered
        return value.device, value.fast_dtype, value._enabled, value._cache_enabled
    try:
        made = value.__reduce_ex__(4)
    except Exception as error:  # whatever an object may raise that cannot be copied
        raise UndescribableError(type(value).__name__) from error
    if isinstance(made, str):  # a global name
        return getattr(value, "__module__", None), made, getattr(value, "__wrapped__", None)
    if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, type):
        return value.__self__.__module__, value.__qualname__
    construct, arguments, state, items, pairs = (*made, *[None] * 5)[:5]
    return construct, arguments, state, list(items or ()), list(pairs or ())


def _installed(value: Any) -> str | None:
    """Name and version of what can be imported from an installed package or from Python; None for anything else."""
    package = value.__module__.partition(".")[0]
    try:
        if operator.attrgetter(value.__qualname__)(sys.modules[value.__module__]) is not value:
            return None
    except (AttributeError, KeyError):
        return None
    known = _version(package)
    return known and f"{value.__module__}.{value.__qualname__} {known}"


@functools.cache
def _version(package: str) -> str | None:
    if package in sys.stdlib_module_names:
        return platform.python_version()
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    try:  # not in a source tree, which may change while its version stays
        return version(package) if "site-packages" in file or "dist-packages" in file else None
    except PackageNotFoundError:
        return None


def _globals_of(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
        elif isinstance(step.argval, CodeType):
            yield from _globals_of(step.argval)


def _inside(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
