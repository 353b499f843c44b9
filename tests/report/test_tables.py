import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xaibench.errors import DataError, UnknownNameError
from xaibench.report.latex import latex_table
from xaibench.report.result_table import FORMATS, ResultTable
from xaibench.report.tables import best_rows, chosen_columns, csv_table, html_table, presented, text_table


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "method": ["subdistill:centring=mean", "a_b & c|d [e]"],
            "accuracy": [1 / 3, np.nan],
            "lrp cosine": [0.71, 0.5],
            "lrp cosine low": [0.68, np.nan],
            "lrp cosine high": [0.75, np.nan],
            "ssim": [0.1, -0.2],
            "ssim_low": [0.0, -0.3],
            "ssim_high": [0.2, -0.1],
            "seeds": [3, 1],
            "passed": [True, False],
        }
    )


def test_intervals_become_mean_and_half_width(table):
    shown = presented(table)
    assert list(shown.columns) == ["method", "accuracy", "lrp cosine", "ssim", "seeds", "passed"]
    assert list(shown["lrp cosine"]) == ["0.710 ± 0.035", "0.500"]
    assert list(shown["ssim"]) == ["0.100 ± 0.100", "-0.200 ± 0.100"]
    assert list(shown["accuracy"]) == ["0.333", "–"]
    assert list(shown["seeds"]) == ["3", "1"]
    assert list(shown["passed"]) == ["yes", "no"]


def test_a_column_named_low_alone_stays_a_column():
    assert list(presented(pd.DataFrame({"x": [1.0], "x low": [0.5]})).columns) == ["x", "x low"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.000"), (1e-7, "1.0e-07"), (-3e-5, "-3.0e-05"), (2.5e8, "2.5e+08"), (12.3456, "12.346")]
)
def test_very_small_and_very_large_numbers_keep_their_digits(value, text):
    assert presented(pd.DataFrame({"x": [value]}))["x"][0] == text


def test_csv_keeps_every_column_and_full_precision(table):
    text = csv_table(table)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(text)), table)
    assert "\r" not in text


def test_latex_is_booktabs_with_numbers_to_the_right(table):
    text = latex_table(table)
    assert text.startswith("\\begin{tabular}{lrrrrl}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert "0.710 $\\pm$ 0.035" in text
    assert "a\\_b \\& c\\textbar{}d [e] & -- & 0.500 &" in text
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 3
    assert all(row.replace("\\&", "").count("&") == 5 for row in rows)


def test_latex_with_caption_is_a_float(table):
    text = latex_table(table, caption="50% of", label="tab:demo", digits=1)
    assert "\\caption{50\\% of}" in text
    assert "\\label{tab:demo}" in text
    assert text.startswith("\\begin{table}")
    assert "0.7 $\\pm$ 0.0" in text


@pytest.mark.parametrize(
    ("value", "latex"),
    [
        (-0.25, "$-$0.250"),
        (1e-7, "$1.0\\cdot10^{-7}$"),
        (-2.5e8, "$-$$2.5\\cdot10^{8}$"),
        (np.nan, "--"),
        (-7, "$-$7"),
        (1234567, "1,234,567"),
    ],
)
def test_latex_sets_numbers_as_numbers(value, latex):
    assert f"\n{latex} \\\\\n" in latex_table(pd.DataFrame({"x": [value]}))
    assert "\na-b \\\\\n" in latex_table(pd.DataFrame({"x": ["a-b"]}))  # a name keeps its hyphen


def test_latex_sets_the_best_in_bold_and_chosen_columns_only(table):
    text = latex_table(table, columns=["ssim", "method"], bold={"ssim": [0], "accuracy": [1]})
    assert text.splitlines()[2] == "ssim & method \\\\"
    assert "\\textbf{0.100 $\\pm$ 0.100} & subdistill" in text
    assert "\n$-$0.200 $\\pm$ 0.100 & a" in text
    assert text.count("textbf") == 1


@pytest.mark.parametrize(
    ("columns", "error", "said"),
    [
        (["ssin"], UnknownNameError, "unknown column 'ssin': did you mean 'ssim'"),
        (["ssim_low"], UnknownNameError, "unknown column 'ssim_low'"),
        ([], DataError, "columns must be named once each, got none: choose method, accuracy, lrp cosine"),
        (["ssim", "ssim"], DataError, "columns must be named once each, got ssim, ssim"),
    ],
)
def test_columns_that_are_not_there_are_refused(table, columns, error, said):
    for call in (chosen_columns, lambda *a: latex_table(a[0], columns=a[1])):
        with pytest.raises(error, match=said):
            call(table, columns)


def test_chosen_columns_bring_their_intervals(table):
    assert list(chosen_columns(table, ["ssim", "method"])) == ["ssim", "ssim_low", "ssim_high", "method"]


def intervals(rows):
    return pd.DataFrame(rows, columns=["x", "x low", "x high"])


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5)), min_size=2, max_size=6))
def test_the_best_rows_are_those_whose_interval_reaches_the_highest_mean(rows):
    (best,) = best_rows(intervals([(m, m - below, m + above) for m, below, above in rows])).values()
    highest = max(m for m, _, _ in rows)
    assert best == [i for i, (m, _, above) in enumerate(rows) if m + above >= highest]
    assert best


def test_without_an_interval_or_a_rival_nothing_is_best():
    nan = np.nan
    assert best_rows(intervals([(0.9, nan, nan), (0.8, 0.7, 0.9)])) == {}
    assert best_rows(intervals([(0.9, 0.8, 1.0)])) == {}
    assert best_rows(intervals([(nan, nan, nan), (0.8, 0.7, 0.9)])) == {}
    assert best_rows(intervals([(0.9, 0.8, 1.0), (0.8, 0.7, 0.85), (0.7, 0.6, nan)])) == {"x": [0]}
    teacher_first = intervals([(0.99, 0.98, 1.0), (0.8, 0.7, 0.9), (0.7, 0.6, 0.75)])
    assert best_rows(teacher_first, rivals=[1, 2]) == {"x": [1]}


def test_markdown_has_one_line_a_row_and_equal_widths(table):
    lines = text_table(table).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split("|")[1].strip() == "method"
    assert "a_b & c\\|d [e]" in lines[3]
    assert set(lines[1]) == {"|", "-"}
    assert "\x1b" not in "".join(lines)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cf", "Mn"]), max_size=12)))
def test_no_cell_is_lost_in_markdown(names):
    lines = text_table(pd.DataFrame({"name": names, "x": [0.5] * len(names)})).splitlines()
    assert len(lines) == 2 + len(names)
    assert all(line.rstrip(" |").endswith("0.500") for line in lines[2:])


def test_html_escapes_text_and_carries_exact_values(table):
    table.loc[0, "method"] = '<script>"&'
    text = html_table(table, caption="A < B")
    assert "<script>" not in text
    assert '<th scope="row" data-value="&lt;script&gt;&quot;&amp;">&lt;script&gt;&quot;&amp;</th>' in text
    assert '<td class="number" data-value="0.3333333333333333">0.333</td>' in text
    assert '<td class="number" data-value="">–</td>' in text
    assert '<td class="no" data-value="False">no</td>' in text
    assert '<td class="number" data-value="-0.2">−0.200 ± 0.100</td>' in text
    assert "<caption>A &lt; B</caption>" in text


def test_empty_tables_have_their_heading():
    empty = pd.DataFrame({"method": [], "x": []})
    assert "method" in text_table(empty)
    assert "\\midrule" in latex_table(empty)
    assert "<th" in html_table(empty)


@settings(deadline=None, max_examples=30)
@given(
    names=st.lists(st.text("abcdefgh :=[],_", min_size=1, max_size=60), min_size=1, max_size=4, unique=True),
    columns=st.integers(1, 14),
)
@example(names=[":a:"], columns=1)  # no emoji
def test_a_table_with_a_width_keeps_it_and_hides_nothing(names, columns):
    frame = pd.DataFrame({"method": names} | {f"column {i} of many": [0.125 + i] * len(names) for i in range(columns)})
    text = text_table(frame, width=100)
    assert max(map(len, text.splitlines())) <= 100
    for i in range(columns):
        assert f"column {i} of many" in text
        assert text.count(f" {0.125 + i:.3f} ") == len(names)
    letters = "".join(text.split())
    for name in names:
        assert set(name) - set(" ") <= set(letters)
    assert text_table(frame, width=10_000).replace("\n", "") == text_table(frame).replace("\n", "")


def test_one_table_in_every_format(table):
    result = ResultTable(table, "Scores of two.", {"ssim": [0]})
    text, page, latex, csv = (result.render(form) for form in FORMATS)
    assert text == text_table(table, width=100) + "\nScores of two.\n"
    assert "<caption>Scores of two. Bold: the highest mean" in page
    assert "<strong>0.100 ± 0.100</strong>" in page
    assert page.count("<strong>") == latex.count("\\textbf{") == 1
    assert "\\caption{Scores of two. Bold: the highest mean" in latex
    assert csv == csv_table(table)
    assert "Bold" not in ResultTable(table, "Scores.").render("latex")
    named = ResultTable(table, "", {"lrp cosine": [0]}, {"lrp cosine": "LRP", "a_b & c|d [e]": "AB"})
    assert "method & accuracy & LRP & ssim" in named.render("latex")
    assert "\nAB & -- & 0.500 & " in named.render("latex")
    assert "\\textbf{0.710" in named.render("latex")
    assert '<th scope="row" data-value="AB">AB</th>' in named.render("html")
    assert named.render("csv") == csv
    assert named.render("text") == text_table(table, width=100)
    with pytest.raises(UnknownNameError, match="unknown format 'latx': did you mean 'latex'"):
        result.render("latx")
