"""What a report shows of a run with many methods."""

import html
import json
import re
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from xaibench.figures.style import new_figure
from xaibench.questions.flipping import flip_run
from xaibench.questions.pooling import pool_run
from xaibench.questions.question import Question
from xaibench.report.html import write_report
from xaibench.run.answers import facts, read_record, up_to_date
from xaibench.run.drawing import spread_methods
from xaibench.run.explaining import explain_models
from xaibench.run.folder import open_run
from xaibench.run.manifest import extend_manifest
from xaibench.run.page import further_section, present
from xaibench.run.pipeline import reopen
from xaibench.run.scoring import score_models

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


@pytest.mark.slow
def test_the_page_shows_further_answers_and_says_what_is_a_part(tiny_run, tmp_path, monkeypatch):
    run = open_run(shutil.copytree(tiny_run, tmp_path / "run"))
    present(run)
    page = (run.folder / "report.html").read_text()
    assert "Further questions" not in page
    assert "with chance and nulls</figcaption>" in page  # two explainers, default metrics: all of them are drawn
    stems = ["flipping-lrp-blur", "flipping-lrp-blur-2x2", "inside", "directions", "pooling-lrp-cosine", "cues"]
    for stem in stems:
        Question(run.folder, stem, {}, {}).keep({}, {stem: new_figure(1, 1)})
    monkeypatch.setattr("xaibench.run.page.PANELS", 1)
    present(run)
    page = (run.folder / "report.html").read_text()
    shown = [line.partition(":")[0] for line in of_further(page).split("<figcaption>")[1:]]
    assert shown == stems
    assert "not shown" not in page
    assert "with chance and nulls: 1 of 2 explainers, " in page


def of_further(page):
    """The section of answers to further questions."""
    return page.partition('<h2 id="further-questions">')[2].partition("</section>")[0]


def further(run):
    """Names of the further answers that the page shows, and command -> what it has to make again."""
    page = run.folder / "further.html"
    write_report(page, title="", headline="", sections=[further_section(run)])
    part = of_further(page.read_text())
    page.unlink()
    shown = [line.partition(":")[0] for line in part.split("<figcaption>")[1:]]
    outdated = re.findall(r"<p>(.*?) (?:is|are) not shown: .*?<code>(.*?)</code></p>", part)
    return shown, {html.unescape(command): names for names, command in outdated}


@pytest.mark.slow
def test_an_answer_is_shown_until_what_it_was_made_from_is_made_again(tiny_run, tmp_path, cli):
    run = open_run(shutil.copytree(tiny_run, tmp_path / "my run"))
    for explainer in run.explainers:
        pool_run(run, explainer=explainer, grids=[4])
    flip_run(run, methods=["kd"], images=2, grid=2, steps=1)
    names = ["flipping-lrp-inpaint-2x2-2images-1steps-kd", "pooling-ig_budget_1025-cosine-4", "pooling-lrp-cosine-4"]
    assert further(run) == (names, {})
    other = replace(run.config, explain=replace(run.config.explain, explainers=("lrp",), images=4))
    extend_manifest(run.folder, other)
    run = open_run(run.folder)
    explain_models(*reopen(run))
    score_models(run)
    shown, outdated = further(run)
    asked = f"'{run.folder}' --explainer"
    assert shown == []
    assert outdated == {
        f"xaibench flip {asked} lrp --fill inpaint --grid 2 --images 2 --steps 1 --method kd": names[0],
        f"xaibench pooling {asked} ig:budget=1025 --metric cosine --grid 4": names[1],
        f"xaibench pooling {asked} lrp --metric cosine --grid 4": names[2],
    }
    for command in list(outdated)[::2]:
        assert cli(*shlex.split(command)[1:]).code == 0
    assert further(run)[0] == [names[0], names[2]]
    assert cli(*shlex.split(list(outdated)[1])[1:]).error.startswith("error: unknown explainer of this run")


def test_a_picture_without_a_whole_record_is_not_shown(run_with_an_answer):
    run, name = run_with_an_answer
    plain = {f"xaibench pooling {run.folder}": name}
    record = run.folder / f"{name}.json"
    known = json.loads(record.read_text())
    for changed in (
        {"command": None, "made_from": {"else": {}}},
        {"files": 3},
        {"made_from": {"config": {"x.y.z": 1}}},
    ):
        record.write_text(json.dumps(known | {"command": []} | changed))
        assert further(run) == ([], plain)
    record.write_text(json.dumps(known))
    (run.folder / f"{name}.png").write_bytes(b"edited")
    ((command, names),) = further(run)[1].items()
    assert (names, command) == (name, f"xaibench pooling {run.folder} --explainer lrp --metric cosine --grid 4")
    record.unlink()
    assert further(run) == ([], plain)


@pytest.mark.parametrize(
    ("change", "stands"),
    [
        ({"methods": ("kd", "subdistill")}, False),  # the answer is on all methods
        ({"seeds": (0, 1)}, False),
        ({"similarity": {"sign": "positive"}}, False),
        ({"similarity": {"metrics": ("cosine", "ssim")}}, True),
    ],
)
def test_an_answer_on_all_that_a_run_has_is_out_of_date_once_it_has_other_things(run_with_an_answer, change, stands):
    run, name = run_with_an_answer
    record = read_record(run.folder / f"{name}.json")
    assert up_to_date(run, record)
    held = {"config": record["made_from"]["config"]}
    parts = {k: replace(getattr(run.config, k), **v) if isinstance(v, dict) else v for k, v in change.items()}
    config = replace(run.config, **parts)
    assert (facts(replace(run, config=config), held) == held) == stands


@pytest.fixture
def run_with_an_answer(tiny_run, tmp_path):
    run = open_run(shutil.copytree(tiny_run, tmp_path / "run"))
    pool_run(run, grids=[4])
    return run, "pooling-lrp-cosine-4"
