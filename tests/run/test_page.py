"""What a report shows of a run with many methods."""

import shutil

import numpy as np
import pandas as pd
import pytest

from xaibench.figures.style import new_figure, save_figure
from xaibench.run.folder import open_run
from xaibench.run.page import present, spread_methods

NAMES = tuple("abcdefghijkl")


def summary(means):
    rows = {"method": NAMES[: len(means)], "explainer": "lrp", "metric": "cosine", "mean": means}
    return pd.DataFrame(rows)


def test_few_methods_are_all_shown():
    assert spread_methods(summary([0.1, 0.3, 0.2]), "lrp", ("a", "b", "c"), 6) == ["a", "b", "c"]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_of_many_the_least_and_the_most_alike_and_some_between(count):
    means = np.random.default_rng(0).permutation(12) / 12
    shown = spread_methods(summary(means), "lrp", NAMES, count)
    assert len(shown) == count
    assert NAMES[means.argmin()] in shown
    assert NAMES[means.argmax()] in shown
    assert shown == sorted(shown)


def test_a_figure_of_chosen_methods(cli, tiny_run, tmp_path):
    called = cli("figure", tiny_run, "--out", tmp_path / "f.png", "--method", "kd", "--rows", 2)
    assert called.code == 0
    assert (tmp_path / "f.png").is_file()
    called = cli("figure", tiny_run, "--method", "kdd")
    assert called.code == 2
    assert "unknown method of this run 'kdd': did you mean 'kd'" in called.error


def test_the_page_shows_further_answers_and_says_what_is_a_part(tiny_run, tmp_path, monkeypatch):
    run = open_run(shutil.copytree(tiny_run, tmp_path / "run"))
    present(run)
    page = (run.folder / "report.html").read_text()
    assert "Further questions" not in page
    assert "with chance and nulls</figcaption>" in page  # two explainers, default metrics: all of them are drawn
    for stem in ("flipping-lrp-blur", "flipping-lrp-blur-2x2", "inside", "directions", "pooling-lrp-cosine", "cues"):
        save_figure(new_figure(1, 1), run.folder / stem, ("png",))
    monkeypatch.setattr("xaibench.run.page._PANELS", 1)
    present(run)
    page = (run.folder / "report.html").read_text()
    captions = page.partition("Further questions")[2].partition("How to read")[0]
    shown = [line.partition(":")[0] for line in captions.split("<figcaption>")[1:]]
    assert shown == ["flipping-lrp-blur", "flipping-lrp-blur-2x2", "inside", "directions", "pooling-lrp-cosine", "cues"]
    assert "with chance and nulls: 1 of 2 explainers, " in page
