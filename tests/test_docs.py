"""The documentation site: it builds without a warning, and its reference has every public name."""

from __future__ import annotations

import doctest
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import xaibench as xb

ROOT = Path(__file__).parents[1]


def test_every_public_name_has_its_place_in_the_reference() -> None:
    pages = sorted((ROOT / "docs" / "api").glob("*.md"))
    named = [
        name for page in pages for name in re.findall(r"^::: xaibench\.(\w+)$", page.read_text("utf-8"), re.MULTILINE)
    ]
    assert sorted(named) == sorted(xb.__all__)


def test_docstrings_become_markdown() -> None:
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert doctest.testmod(module) == (0, 1)
    alone = module.as_markdown("c, d  the second\ne, f, g\n      the third")
    assert "`c, d`\n:   the second" in alone
    assert "`e, f, g`\n:   the third" in alone


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api" / "verbs.html").read_text(encoding="utf-8")
    assert 'id="xaibench.distill"' in page
    assert "<dt><code>seed</code></dt>" in page
    for built in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', built.read_text(encoding="utf-8")
        )
        assert loaded == [], built
