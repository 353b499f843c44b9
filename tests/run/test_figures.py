"""Every kind of figure of a run, from Python and the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import xaibench as xb
from tests.figures.well_drawn import assert_well_drawn, drawn_texts
from xaibench.errors import ConfigError, DataError, RunFolderError, UnknownNameError, XaibenchError
from xaibench.questions.dimension import dimension_run
from xaibench.questions.flipping import flip_run
from xaibench.questions.inside import inside_run
from xaibench.questions.pooling import pool_run
from xaibench.run.figure_kinds import KINDS
from xaibench.run.folder import Run, open_run

WITHOUT_ANSWER = ("cues", "influence")


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was asked every further question. Shared: nothing is written into it."""
    run = open_run(shutil.copytree(tiny_run, tmp_path_factory.mktemp("asked") / "run"))
    flip_run(run, grid=2)
    flip_run(run, explainer=run.explainers[1], grid=2, methods=["kd"])
    pool_run(run, grids=[2, 4])
    inside_run(run, images=4)
    dimension_run(run, images=8, bases=["pca"])
    return run


@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITHOUT_ANSWER])
def test_every_kind_is_drawn_well(run: Run, kind: str, width: str) -> None:
    assert_well_drawn(xb.figure(run, kind, width=width))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gallery", "league", "spectra", "inside"])
def test_two_drawings_of_a_run_are_the_same_bytes(run: Run, kind: str, tmp_path: Path) -> None:
    one, two = (
        xb.save_figure(xb.figure(open_run(run.folder), kind), tmp_path / name, ("pdf", "svg", "png")) for name in "ab"
    )
    for first, second in zip(one, two):
        assert first.read_bytes() == second.read_bytes()


def test_the_page_and_the_figure_are_one(run: Run, tmp_path: Path) -> None:
    for kind in ("gallery", "league", "similarity", "scores", "history"):
        (path,) = xb.save_figure(xb.figure(run.folder, kind), tmp_path / f"{kind}.png")
        assert path.read_bytes() == (run.folder / f"{kind}.png").read_bytes(), kind
    (path,) = xb.save_figure(xb.figure(run, "flipping"), tmp_path / "f.pdf")
    assert path.read_bytes() == (run.folder / "flipping-lrp-inpaint-2x2.pdf").read_bytes()


def test_choices_narrow_what_is_drawn(run: Run) -> None:
    image = run.images.keys[2]
    figure = xb.figure(run, "gallery", methods=["kd: temperature=4"], images=[image], explainer=run.explainers[1])
    assert [axes.get_title() for axes in figure.axes][:3] == ["input", "teacher", "KD"]
    assert sum(bool(axes.images) for axes in figure.axes) == 3
    one = xb.figure(run, "similarity", explainer="lrp", methods=["kd", "subdistill"])
    assert [axes.get_title() for axes in one.axes] == ["LRP"]
    legend = [text.get_text() for text in one.legends[0].get_texts()]
    assert legend[:2] == ["KD", "SubDistill"]
    other = xb.figure(run, "flipping", explainer=run.explainers[1])
    assert [axes.get_title() for axes in other.axes if axes.get_title()] == ["teacher", "KD"]


def test_names_are_written_wherever_they_stand(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"subdistill": "Ours", "lrp": "relevance", "cosine": "likeness", "teacher": "expert"}))
    for kind in ("gallery", "similarity", "league", "history", "flipping", "pooling", "inside"):
        texts = "\n".join(text.get_text() for text, _ in drawn_texts(xb.figure(run, kind, names=path)))
        assert "Ours" in texts, kind
        assert "SubDistill" not in texts, kind
    texts = [text.get_text() for text, _ in drawn_texts(xb.figure(run, names={"Shirt": "blouse", "input": "image"}))]
    assert "image" in texts
    assert "Shirt" not in texts
    assert "blouse" in " ".join(texts)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "galery"}, UnknownNameError, "unknown kind of figure 'galery': did you mean 'gallery'"),
        ({"width": "doubel"}, UnknownNameError, "unknown figure width 'doubel': did you mean 'double'"),
        ({"width": 30}, ConfigError, "figure width 30 in is out of range"),
        ({"font": "comic"}, UnknownNameError, "unknown font 'comic'"),
        ({"explainer": "lpr"}, UnknownNameError, "unknown explainer of this run 'lpr': did you mean 'lrp'"),
        ({"methods": ["kdd"]}, UnknownNameError, "unknown method of this run 'kdd': did you mean 'kd'"),
        ({"images": ["none"]}, UnknownNameError, "unknown image 'none'"),
        ({"rows": 0}, ConfigError, "rows must be at least 1, got 0"),
        ({"kind": "league", "rows": 2}, ConfigError, "'league' takes no rows: leave it out, or draw gallery"),
        ({"names": {"kdd": "x"}}, UnknownNameError, "unknown name to write otherwise 'kdd': did you mean 'kd'"),
        ({"names": {"kd": "SubDistill"}}, ConfigError, "'kd' and 'subdistill' are both written 'SubDistill'"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(
    run: Run, options: dict[str, object], error: type[XaibenchError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        xb.figure(run, **options)
    assert "\n" not in str(caught.value)


def test_a_figure_higher_than_a_page_is_refused_with_a_way_out(run: Run) -> None:
    images = [run.images.keys[0]] * 40
    with pytest.raises(DataError, match=r"a page has 9\.5 in: ask for fewer by explainer, methods, images, rows"):
        xb.figure(run, images=images)


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("flipping", "flip '?RUN"),
        ("pooling", "pooling '?RUN"),
        ("inside", "inside '?RUN"),
        ("layers", "inside '?RUN"),
        ("dimension", "dimension '?RUN"),
        ("cues", "cues CONFIG --out '?RUN"),
        ("influence", "run' with a method such as"),
    ],
)
def test_what_the_run_lacks_names_the_command_that_makes_it(tiny_run: Path, kind: str, command: str) -> None:
    with pytest.raises(RunFolderError, match=f"run 'xaibench {command}".replace("RUN", str(tiny_run))):
        xb.figure(tiny_run, kind)


def test_an_answer_that_is_out_of_date_is_not_drawn(run: Run, tmp_path: Path) -> None:
    other = open_run(shutil.copytree(run.folder, tmp_path / "run"))
    (other.folder / "pooling-lrp-cosine-2_4.csv").write_text("method,grid\n")
    with pytest.raises(RunFolderError, match=r"pooling-lrp-cosine-2_4 is out of date: run 'xaibench pooling .* --grid"):
        xb.figure(other, "pooling")
    (other.folder / "subspace.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"subspace\.safetensors does not exist yet: run 'xaibench inside"):
        xb.figure(other, "spectra")


def test_the_command_writes_the_formats_that_are_asked_for(run: Run, cli, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    called = cli("figure", run.folder, "--kind", "league", "--format", "pdf,svg", "--width", "3.5", "--font", "serif")
    assert (called.code, called.out.split()) == (0, ["league.pdf", "league.svg"])
    assert cli("figure", run.folder, "--kind", "spectra", "--out", "s.png").out == "s.png\n"
    assert cli("figure", run.folder, "--rows", 1).out == "gallery.pdf\n"
    assert {path.name for path in tmp_path.iterdir()} == {"league.pdf", "league.svg", "s.png", "gallery.pdf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "leage"), "unknown kind of figure 'leage': did you mean 'league'"),
        (("--width", "duoble"), "unknown figure width 'duoble'"),
        (("--width", "0.1"), "figure width 0.1 in is out of range"),
        (("--format", "pdf,pgn"), "unknown figure format 'pgn': did you mean 'png'"),
        (("--out", "a.pdf", "--format", "png"), "a.pdf is a pdf file, but the formats are png: leave one out"),
        (("--font", "serfi"), "unknown font 'serfi': did you mean 'serif'"),
        (("--names", "none.toml"), "cannot read the names in none.toml (No such file or directory)"),
        (("--kind", "cues"), "run 'xaibench cues CONFIG --out"),
    ],
)
def test_the_command_refuses_before_it_writes(run: Run, cli, tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    called = cli("figure", run.folder, *arguments)
    assert (called.code, called.out) == (2, "")
    assert message in called.error
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_every_kind(cli) -> None:
    shown = " ".join(cli("figure", "--help").out.replace("│", " ").split())
    assert all(kind in shown for kind in KINDS)
