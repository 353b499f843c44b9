"""What `import xaibench as xb` gives: every name is there, type checkers know it, nothing heavy comes with it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import mypy.api
import pytest

import xaibench as xb

ROOT = Path(__file__).parents[1]
STUB = ast.parse((ROOT / "xaibench" / "__init__.pyi").read_text(encoding="utf-8"))
NAMES = [alias.asname or alias.name for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names]


def test_a_name_is_given_once_and_under_its_own_name() -> None:
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []
    assert sorted(NAMES) == sorted(xb.__all__)
    assert set(NAMES) <= set(dir(xb))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_leads_to_its_object(name: str) -> None:
    found = getattr(xb, name)
    assert getattr(found, "__name__", name) == name
    assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        xb.nonsense  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    assert version("xaibench") == xb.__version__
    assert f"\nversion: {xb.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{xb.__version__}] - 20" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert (ROOT / "docs" / "releases" / f"{xb.__version__.rpartition('.')[0]}.md").exists()


def test_the_import_brings_in_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'matplotlib', 'scipy', 'rich', 'beartype'}"
    code = f"import sys, xaibench; xaibench.__version__; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_type_checkers_know_every_name(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    lines = ["import xaibench as xb", *(f"reveal_type(xb.{name})" for name in NAMES), "xb.nonsense"]
    snippet.write_text("\n".join(lines), encoding="utf-8")
    out, err, code = mypy.api.run(["--config-file", str(ROOT / "pyproject.toml"), "--hide-error-context", str(snippet)])
    assert err == ""
    assert code == 1
    revealed = [line for line in out.splitlines() if "Revealed type is" in line]
    assert len(revealed) == len(NAMES)
    assert [line for line in revealed if '"Any"' in line] == []
    # Of a snippet that it knows mypy says the path of the time before.
    errors = [line for line in out.splitlines() if f"{snippet.name}:" in line and ": error: " in line]
    assert len(errors) == 1
    assert '"nonsense"' in errors[0]
