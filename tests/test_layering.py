"""Modules import only leftwards in the flow of the data."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import xaibench

PACKAGE = Path(xaibench.__file__).parent
LAYERS = (
    ("errors",),
    ("validation",),
    ("allocator", "files", "options", "precision", "progress"),
    ("data",),
    ("models",),
    ("subspace",),
    ("distillation",),
    ("attribution",),
    ("similarity",),
    ("figures",),
    ("report",),
    ("run",),
    ("questions",),
    ("experiments", "study"),
    ("widgets", "testing"),
    ("pytest_plugin",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name != "__init__.py")


def part(path: Path) -> str:
    """The top-level part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source: str) -> set[str]:
    """Names of the parts of xaibench that a module imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names if name]
    return {p[1] for p in parts if p[0] == "xaibench" and len(p) > 1}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_left(path: Path) -> None:
    own = part(path)
    assert own in RANK, f"{own} has no place in the flow: add it to LAYERS"
    known = {name for name in imported(path.read_text(encoding="utf-8")) if name in RANK}
    wrong = sorted(name for name in known if name != own and RANK[name] >= RANK[own])
    assert not wrong, f"{own} imports {wrong}, which do not lie to its left"


def test_the_check_sees_imports_of_every_form() -> None:
    source = (
        "import xaibench.cli\nfrom xaibench import report\ndef f():\n    from xaibench.data.images import ImageSet\n"
    )
    assert imported(source) == {"cli", "report", "data"}
    with pytest.raises(AssertionError, match="relative import"):
        imported("from . import cli")


def test_there_are_modules_to_look_at() -> None:
    assert {"errors", "data", "models", "subspace", "distillation", "attribution", "similarity"} <= set(
        map(part, MODULES)
    )
