"""The table for a paper: columns, captions, what is bold, and what is refused."""

import io
import re
import shutil

import pandas as pd
import pytest

from xaibench.run.costs import costs_of
from xaibench.run.folder import open_run
from xaibench.run.results import COSTS, results


def test_the_table_of_a_run_says_what_its_numbers_rest_on(tiny_run):
    run = open_run(tiny_run)
    whole = results(run)
    pd.testing.assert_frame_equal(whole.data, run.table())
    tests = run.manifest["images"]["test"]
    assert f"n = {tests} test images" in whole.caption
    assert re.search(r"heatmaps \(cosine\), images: LRP n = [56]; integrated gradients.* n = [56]\.", whole.caption)
    assert "Seeds: 1. ±: half of the 95% interval over images. Intervals speak for this student, not" in whole.caption
    assert all(rows and 0 not in rows for rows in whole.bold.values())  # the teacher competes with nobody
    accuracy = results(run, ["method", "accuracy"])
    assert list(accuracy.data) == ["method", "accuracy", "accuracy low", "accuracy high"]
    assert "heatmaps" not in accuracy.caption
    assert results(run, ["method", "seeds"]).caption == f"Students of fashion-mnist ({', '.join(run.classes)})."


def test_a_paper_has_its_own_names_and_a_label(tiny_run):
    run = open_run(tiny_run)
    table = results(run, ["method", "lrp cosine"], names={"subdistill": "Ours", "lrp": "relevance", "cosine": "cos"})
    latex = table.render("latex", label="tab:ours")
    assert "method & relevance cos" in latex
    assert "\nOurs & " in latex
    assert "heatmaps (cos), images: relevance n = " in latex
    assert "\\label{tab:ours}" in latex
    assert "subdistill" not in latex


def test_costs_stand_beside_each_method(tiny_run):
    run = open_run(tiny_run)
    table = results(run, ["method", *COSTS])
    teacher, student = costs_of(run)["macs"]
    assert list(table.data["macs"]) == [teacher] + 3 * [student]
    assert costs_of(run)["device"].iloc[0] in table.caption
    assert f" & {student:,} & " in table.render("latex")


def test_the_command_prints_every_format(tiny_run, cli):
    run = open_run(tiny_run)
    called = cli("table", tiny_run)
    assert called.code == 0
    assert called.out.startswith("| method ")
    called = cli("table", tiny_run, "--format", "csv")
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(called.out), dtype={"seeds": "Int64"}), run.table())
    called = cli("table", tiny_run, "--format", "latex", "--column", "method", "--column", "lrp cosine")
    assert "\\begin{tabular}{lr}" in called.out
    assert called.out.count("\\textbf{") >= 1
    assert cli("table", tiny_run, "--format", "html").out.startswith("<table><caption>Students of")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "latx"), "unknown format 'latx': did you mean 'latex'"),
        (("--column", "lrp cosin"), "unknown column 'lrp cosin': did you mean 'lrp cosine'"),
        (("--column", "parameter"), "unknown column 'parameter': did you mean 'parameters'"),
        (("--column", "method", "--column", "method"), "columns must be named once each, got method, method"),
        (("--column", "macs"), "cost.csv does not exist yet: run 'xaibench explain "),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(tiny_run, tmp_path, cli, arguments, said):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    (folder / "cost.csv").unlink()
    called = cli("table", folder, *arguments)
    assert (called.code, called.out) == (2, "")
    assert said in called.error


def test_a_folder_without_a_run_or_scores_is_refused(tiny_run, tmp_path, cli):
    assert "no run in" in cli("table", tmp_path).error
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    (folder / "table.csv").unlink()
    assert cli("table", folder).error.endswith(f"run 'xaibench score {folder}'")
