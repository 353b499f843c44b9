"""What README and how-tos show works as it stands: Python, commands, configurations, links."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from inspect import signature
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from xaibench.cli import app
from xaibench.run.config import RunConfig
from xaibench.study.config import StudyConfig
from xaibench.study.ray_engine import RayCluster
from xaibench.study.run_study import run_study

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = [page for page in PAGES if page.name == "README.md" or page.parent.name == "howto"]
NETS = """
from torch import nn


class Big(nn.Sequential):
    def __init__(self, width=8, num_classes=2):
        super().__init__(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(2 * width, num_classes),
        )


class Small(Big):
    def __init__(self, num_classes=2):
        super().__init__(4, num_classes)
"""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of one language on a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def every(pages: list[Path], language: str) -> list[object]:
    return [
        pytest.param(code, id=f"{page.stem}-{number}")
        for page in pages
        for number, code in enumerate(blocks(page, language), 1)
    ]


@pytest.fixture
def desk(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with what the examples name: nets.py, pictures/, runs/demo."""
    (tmp_path / "nets.py").write_text(NETS)
    shutil.copytree(tiny_run, tmp_path / "runs" / "demo")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("cats", "dogs")):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 150, (32, 32, 3), generator=generator)
                pixels[16 * label : 16 * label + 16] += 100
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{i}.png")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("nets", None)


def save_beans_vit(folder: Path) -> None:
    """A small random ViT of three classes, as Hugging Face keeps it; skips the test without `transformers`."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    labels = {0: "birds", 1: "cats", 2: "dogs"}
    config = transformers.ViTConfig(image_size=32, patch_size=8, id2label=labels, initializer_range=0.2, **sizes)
    transformers.ViTForImageClassification(config).save_pretrained(folder)


def ask_a_cluster(config: str, folder: str, engine: partial[RayCluster]) -> None:
    """In place of `run_study`, where there is no cluster: is it asked for with arguments that exist?"""
    signature(run_study).bind(config, folder, engine=engine)
    signature(engine.func).bind(Path(folder), **engine.keywords)


@pytest.mark.slow
@pytest.mark.parametrize("code", every(GUIDES, "python")[1:])  # the first has a test of its own
def test_the_python_works(code: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "RayCluster" in code:
        monkeypatch.setattr("xaibench.study.run_study.run_study", ask_a_cluster)
    if "transformers" in code:
        save_beans_vit(desk / "beans-vit")
    names: dict[str, object] = {}
    exec(compile(code, "example", "exec"), names)
    for name, value in names.items():
        if name.startswith("test_") and callable(value):
            value()


@pytest.mark.slow
def test_the_first_example_is_short_and_its_score_stands_above_every_null(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = blocks(PAGES[0], "python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith(("metric ", "cosine "))]  # scores, then nulls
    head, cosine = (re.split(r"\s{2,}", "  ".join(lines[i::2])) for i in range(2))
    row = dict(zip(head, cosine))
    nulls = [float(row[name]) for name in ("random student", "mismatched images", "shifted maps")]
    assert float(row["mean"]) > max(nulls) + 0.05


def test_own_models_take_eight_lines() -> None:
    code = blocks(PAGES[0], "python")[1]
    assert "nets" in code
    assert len([line for line in code.splitlines() if line.strip()]) <= 8


@pytest.mark.parametrize("code", every(PAGES, "toml"))
def test_the_configurations_are_valid(code: str) -> None:
    raw = tomllib.loads(code)
    if raw.keys() & {"about", "claim", "control", "vary", "small"}:
        StudyConfig.from_dict(raw)
    else:
        RunConfig.parse(code)


def commands() -> list[str]:
    lines = [
        line.strip()
        for page in PAGES
        for code in blocks(page, "bash")
        for line in code.replace("\\\n", " ").splitlines()
    ]
    return sorted({re.sub(r"\s+#.*", "", line) for line in lines if re.match(r"(\w+=\S+ )?xaibench ", line)})


@pytest.mark.parametrize("line", commands())
def test_the_commands_exist_with_their_options(line: str) -> None:
    words = shlex.split(line)
    words = words[words.index("xaibench") + 1 :]
    known = typer.main.get_command(app).commands
    assert words[0] in known
    known[words[0]].make_context(words[0], words[1:])


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r'(?:\]\(|src=")([^)"\s]+)', page.read_text(encoding="utf-8"))
    for link in {link for link in links if "://" not in link and not link.startswith("#")}:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve()
        assert target.exists(), link
        if anchor and not anchor.startswith("xaibench."):  # those of the reference: the site's own build looks
            assert anchor in headings(target), link
