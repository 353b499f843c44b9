"""The README's first example works as it stands, and the files it links to exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_work(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"cosine\s+-?\d\.\d{3}\s+\[", printed)
    assert "random student" in printed


@pytest.mark.parametrize("link", sorted(set(re.findall(r'(?:\]\(|src=")([^)"#:]+)', README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
