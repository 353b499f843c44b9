"""What a run's page says beside its pictures."""

import json
import re
import shutil
from dataclasses import replace
from html import unescape

import numpy as np
import pandas as pd
import pytest

from xaibench.report import html as blocks
from xaibench.run import sections
from xaibench.run.costs import costs_of
from xaibench.run.folder import open_run
from xaibench.run.page import present


@pytest.fixture(scope="module")
def page(tiny_run, tmp_path_factory):
    run = open_run(shutil.copytree(tiny_run, tmp_path_factory.mktemp("page") / "run"))
    present(run)
    return run, (run.folder / "report.html").read_text(encoding="utf-8")


def section(page, anchor):
    (found,) = re.findall(rf'<h2 id="{anchor}">.*?</section>', page, re.DOTALL)
    return unescape(re.sub(r"<[^>]+>", " ", found))


def test_the_page_has_its_sections_in_order(page):
    _, text = page
    assert re.findall(r'<h2 id="([\w-]+)">', text) == [
        "methods",
        "figures",
        "heatmaps",
        "classes",
        "where-students-answer-otherwise",
        "differences-between-methods",
        "size-and-cost",
        "how-to-read-the-numbers",
        "all-scores",
        "what-the-maps-account-for",
        "validity-of-the-explanations",
        "files",
        "reproduction",
    ]


def test_methods_are_named_with_their_source(page):
    _, text = page
    said = section(text, "methods")
    assert "0.9 T² KL + 0.1 CE, T = 4" in said
    assert "Hinton et al. 2015, arXiv 1503.02531" in said
    assert "arXiv 2601.05913" in said
    assert "Bold: the highest mean" in said
    assert "`" not in said


def test_the_key_says_what_colours_and_grid_stand_for(page):
    run, text = page
    said = section(text, "heatmaps")
    grid = int(run.summary()["grid"].iloc[0])
    assert "speaks against it" in said
    assert f"a grid of {grid} by {grid} cells, each {28 / grid:.3g} by {28 / grid:.3g} pixels" in said
    colours = re.findall(r'<span style="background: (#[0-9a-f]{6})">', text)
    assert len(set(colours)) == 3
    red, blue = (tuple(bytes.fromhex(colour[1:])) for colour in colours[:2])
    assert red[0] > red[2]
    assert blue[2] > blue[0]


def test_differences_say_for_whom_they_speak(page):
    run, text = page
    said = section(text, "differences-between-methods")
    assert "There is one student of each method" in said
    assert said.count("of 3 pairs have a p (Holm) below 0.05.") == len(run.explainers)


@pytest.mark.slow
def test_costs_are_shown_or_how_to_get_them(page, tmp_path):
    run, text = page
    teacher, student = costs_of(run)["parameters"]
    said = section(text, "size-and-cost")
    assert f"The teacher has {teacher / student:.1f} times the students' parameters" in said
    old = open_run(shutil.copytree(run.folder, tmp_path / "old"))
    (old.folder / "cost.csv").unlink()
    present(old)
    said = section((old.folder / "report.html").read_text(encoding="utf-8"), "size-and-cost")
    assert f"xaibench explain {old.folder}" in said


def test_files_beside_the_page_are_linked(page):
    run, text = page
    links = re.findall(r'<a href="([^#"]+)">', text)
    assert links[:2] == ["cost.csv", "faithfulness.csv"]
    assert set(links) == {path.name for kind in ("csv", "pdf", "tex") for path in run.folder.glob(f"*.{kind}")}


def test_the_command_and_the_manifest_can_be_read_back(page):
    run, text = page
    shown = re.search(r"<pre[^>]*>(.*?)</pre>", text, re.DOTALL).group(1)
    assert json.loads(unescape(shown)) == run.manifest
    assert f"xaibench report {run.folder}" in section(text, "reproduction")


def test_what_the_maps_account_for_is_told_for_teacher_and_methods(page):
    _, text = page
    said = section(text, "what-the-maps-account-for")
    assert said.count("the map accounts for") + said.count("estimated error") == 2 * 4


def test_failed_checks_and_undefined_scores_are_said(page, monkeypatch):
    run, text = page
    validity, summary = run.validity(), run.summary()
    undefined, scores = summary["nan"].sum(), summary["nan"].sum() + summary["n"].sum()
    said = section(text, "validity-of-the-explanations")
    assert f"All {len(validity)} checks passed; {undefined} of {scores} scores are undefined" in said
    validity.loc[0, "passed"] = False
    monkeypatch.setattr(type(run), "validity", lambda self: validity)
    monkeypatch.setattr(type(run), "summary", lambda self: summary.assign(nan=1))
    said = "".join(sections._validity(run).blocks)
    assert f"1 of {len(validity)} checks failed; {len(summary)} of " in said
    assert "undefined and left out: a map was flagged, zero or constant." in said


def test_several_seeds_and_one_method_change_what_is_said(page, monkeypatch):
    run, _ = page
    scores = sections.matched_scores(run, "lrp")
    monkeypatch.setattr(sections, "matched_scores", lambda *_: scores)
    several = replace(run, config=replace(run.config, seeds=(0, 1, 2)))
    assert "Intervals are over the 3 seeds and the images." in "".join(sections._pairs(several).blocks)
    assert not sections._pairs(replace(run, config=replace(run.config, methods=("kd",)))).blocks


def test_long_tables_are_shown_on_demand(page):
    run, _ = page
    table = pd.DataFrame({"x": np.arange(30.0)})
    assert sections._sheet(run, table, "Long: a table.").startswith("<details><summary>Long</summary>")
    assert sections._sheet(run, table.head(20), "Short: a table.") == blocks.sheet(table.head(20), "Short: a table.")


def test_tables_write_names_as_figures_do(page):
    _, text = page
    for anchor in ("methods", "classes", "differences-between-methods", "validity-of-the-explanations"):
        said = section(text, anchor)
        assert "SubDistill" in said
        assert "Student only" in said
    assert "LRP cosine" in section(text, "methods")
