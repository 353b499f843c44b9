import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xaibench.run.outputs import load_outputs
from xaibench.study import tables
from xaibench.study.config import StudyConfig
from xaibench.study.results import _caption
from xaibench.study.tables import (
    _means,
    difference_table,
    groups,
    method_means,
    power_notes,
    quantities,
    rank_table,
    student_table,
)

METHODS = ("a", "b", "c")


def students(subtasks=8, seeds=3, gap=0.1, spread=0.02):
    """Method a lies `gap` above b, b above c; subtasks differ much, seeds little."""
    rng = np.random.default_rng(0)
    rows = []
    for subtask in range(subtasks):
        level = rng.normal(0.5, 0.2)
        for place, method in enumerate(METHODS):
            for seed in range(seeds):
                value = level - gap * place + rng.normal(0, spread)
                rows.append({"run": f"r{subtask}", "method": method, "seed": seed, "accuracy": value})
    return pd.DataFrame(rows).assign(**{"lrp cosine": lambda t: t["accuracy"] / 2, "lrp lift": 0.1})


def test_means_are_over_subtasks_of_means_over_seeds():
    table = students()
    means = method_means(table).set_index("method")
    own = table[table["method"] == "b"].groupby("run")["accuracy"].mean()
    low, high = stats.t.interval(0.95, 7, own.mean(), own.sem())
    assert means.loc["b", "accuracy"] == pytest.approx(own.mean())
    assert means.loc["b", ["accuracy low", "accuracy high"]].tolist() == pytest.approx([max(low, 0), min(high, 1)])
    assert (means["speaks_for"] == "other subtasks").all()
    assert (method_means(students(subtasks=1))["speaks_for"] == "other training seeds").all()
    assert (method_means(students(1, 1))["speaks_for"] == "this student").all()


def test_a_claim_is_tested_one_sided_over_subtasks():
    table = difference_table(students(), "a")
    assert set(zip(table["a"], table["b"])) == {("a", "b"), ("a", "c")}
    assert set(table["quantity"]) == {"accuracy", "lrp cosine"}  # differences of lifts are those of scores
    assert (table["unit"] == "subtasks").all()
    assert (table["n"] == 8).all()
    assert table["p"].to_numpy() == pytest.approx(2.0**-8)
    assert table["significant"].all()
    assert not power_notes(table)
    loser = difference_table(students(), "c")
    assert loser["p"].to_numpy() == pytest.approx(1)


def test_without_a_claim_all_pairs_are_tested_two_sided():
    table = difference_table(students())
    assert len(table) == 3 * 2
    assert table["p"].to_numpy() == pytest.approx(2.0**-7)


def test_every_method_is_held_against_a_control_two_sided():
    table = difference_table(students(), control="b")
    assert set(zip(table["a"], table["b"])) == {("a", "b"), ("c", "b")}
    pairs = difference_table(students()).set_index(["a", "b", "quantity"])
    row = table.set_index(["a", "b", "quantity"]).loc[("c", "b", "accuracy")]
    assert row["difference"] == -pairs.loc[("b", "c", "accuracy"), "difference"]
    assert row["p"] == pytest.approx(2.0**-7)


def test_few_units_cannot_be_significant_and_the_page_says_how_many_could():
    table = difference_table(students(subtasks=1, seeds=3, gap=1, spread=0), "a")
    assert (table["unit"] == "seeds").all()
    assert not table["significant"].any()
    (note,) = power_notes(table)
    assert "With 3 seeds" in note


def test_a_subtask_that_is_left_of_several_is_no_ground_for_a_test():
    table = students(subtasks=2, seeds=10)
    table.loc[(table["run"] == "r1") & table["method"].isin(["a", "b"]), ["accuracy", "lrp cosine"]] = np.nan
    left = difference_table(table, "a")
    assert (left["unit"] == "subtasks").all()
    assert left.loc[left["b"] == "b", "n"].tolist() == [1, 1]
    assert (left["speaks_for"] == "this subtask").all()
    assert left[["low", "high"]].isna().all().all()
    assert not left["significant"].any()


def test_one_finished_subtask_of_several_is_no_ground_for_a_test_over_seeds():
    table = students(subtasks=1, seeds=10)
    assert difference_table(table, "a")["significant"].all()
    of_several = difference_table(table, "a", subtasks=8)
    assert (of_several["unit"] == "subtasks").all()
    assert (of_several["n"] == 1).all()
    assert not of_several["significant"].any()
    means = [method_means(table, subtasks=8), rank_table(table, subtasks=8)]
    assert all((one["speaks_for"] == "this subtask").all() for one in means)
    assert all(one["accuracy low"].isna().all() for one in means)


def test_the_caption_says_where_a_subtask_has_fewer_seeds():
    table = students(subtasks=3, seeds=3)
    assert "Means over 3 subtasks of 3 seeds each." in _caption(method_means(table), "", 3)
    fewer = table[(table["run"] != "r1") | (table["seed"] != 2)]
    assert "Means over 3 subtasks of up to 3 seeds each." in _caption(method_means(fewer), "", 3)


def test_a_group_has_the_columns_of_explainers_that_were_asked_for():
    pairs = [{"name": "cnn", "explain.explainers": ["lrp", "ig"]}, {"name": "vit", "explain.explainers": ["ig"]}]
    config = StudyConfig.from_dict({"vary": {"pair": pairs}})
    parts = []
    for condition in config.conditions:
        own = students(1).drop(columns=["lrp cosine", "lrp lift"]).assign(run=condition.name, **dict(condition.levels))
        scores = {f"{explainer} cosine": own["accuracy"] / 2 for explainer in condition.config.explain.explainers}
        parts.append(own.assign(**scores))
    found = dict(groups(config, pd.concat(parts)))
    assert quantities(found["pair cnn"]) == ["accuracy", "lrp cosine", "ig cosine"]
    assert quantities(found["pair vit"]) == ["accuracy", "ig cosine"]


def test_methods_are_averaged_and_ranked_where_all_of_them_have_students():
    table = students()
    hardest = table.groupby("run")["accuracy"].mean().idxmin()
    kept = table[(table["run"] != hardest) | (table["method"] != "b")]
    means = method_means(kept).set_index("method")
    expected = method_means(table[table["run"] != hardest]).set_index("method")
    pd.testing.assert_frame_equal(means, expected)
    assert (means["subtasks"] == 7).all()
    assert rank_table(kept).set_index("method")["accuracy"].tolist() == [1, 2, 3]
    absent = table.assign(**{"lrp cosine": table["lrp cosine"].where(table["method"] != "c")})
    assert method_means(absent).set_index("method")["lrp cosine"].isna().tolist() == [False, False, True]


def test_a_note_on_power_counts_the_tests_that_it_means():
    table = students()
    few = table[(table["method"] != "c") | table["run"].isin(["r0", "r1", "r2"])]
    (note,) = power_notes(difference_table(few, "a"), "greater")
    assert note.startswith("With 3 subtasks in 1 of 2 tests no difference")


def test_an_explainer_without_any_valid_map_has_no_means():
    scores = pd.DataFrame(columns=["explainer", "metric", "pairing", "method", "seed", "image", "value"])
    assert _means(scores, "lrp", "cosine") == {"matched": {}, "lift": {}}


def test_ranks_are_those_of_methods_within_subtask_and_seed():
    ranks = rank_table(students()).set_index("method")
    assert ranks["accuracy"].tolist() == [1, 2, 3]


def test_groups_are_the_points_of_the_grid_without_its_subtasks():
    config = StudyConfig.from_dict({"vary": {"data.subtask": ["tops", "footwear"], "data.fraction": [0.5, 1]}})
    parts = []
    for fraction in ("0.5", "1"):
        runs = {"r0": f"tops_fraction{fraction}", "r1": f"footwear_fraction{fraction}"}
        parts.append(students(2).assign(fraction=fraction).replace({"run": runs}))
    table = pd.concat(parts)
    assert set(table["run"]) == {one.name for one in config.conditions}
    assert [name for name, _ in groups(config, table)] == ["fraction 0.5", "fraction 1"]
    assert [len(rows) for _, rows in groups(config, table)] == [len(table) / 2] * 2


def test_a_study_has_a_row_for_each_student_and_what_the_run_says(tiny_study):
    table = student_table(tiny_study)
    assert len(table) == 8
    assert list(table.columns[:4]) == ["run", "subtask", "method", "seed"]
    run = tiny_study.runs["tops"]
    row = table[(table["run"] == "tops") & (table["method"] == "student-only") & (table["seed"] == 0)].iloc[0]
    answers = run.predictions()
    own = answers[answers["model"] == "student-only/seed0"]
    assert row["accuracy"] == pytest.approx(own["correct"].mean())
    teacher = answers[answers["model"] == "teacher"]["predicted"].to_numpy()
    assert row["agreement"] == pytest.approx((own["predicted"].to_numpy() == teacher).mean())
    scores = run.scores()
    summary = run.summary().set_index("method")
    mean = table[(table["run"] == "tops") & (table["method"] == "student-only")]["lrp cosine"].mean()
    assert mean == pytest.approx(summary.loc["student-only", "mean"])
    lift = table[(table["run"] == "tops") & (table["method"] != "student-only")]["lrp lift"].mean()
    assert lift == pytest.approx(summary["lift"].dropna().iloc[0])
    assert not scores.empty


def test_the_page_holds_what_the_tables_say(tiny_study):
    page = (tiny_study.folder / "report.html").read_text()
    for text in ("Differences", "Are more accurate students also more alike?", "runs/tops/report.html", "students.csv"):
        assert text in page
    assert "With 2 subtasks no difference can be significant" in page
    latex = (tiny_study.folder / "methods.tex").read_text()
    assert "Means over 2 subtasks of 2 seeds each" in latex
    for name in ("methods", "differences", "likeness", "reliability-tops"):
        assert (tiny_study.folder / f"{name}.pdf").is_file()


def test_a_student_that_gives_a_class_no_probability_has_a_finite_loss(tiny_study, monkeypatch):
    run = tiny_study.runs["tops"]
    logits, labels = load_outputs(run)
    name = run.students[0]
    logits[name] = logits[name] * 1e6  # a softmax in float64 is 0 for all but one
    monkeypatch.setattr(tables, "load_outputs", lambda _: (logits, labels))
    losses = tables._students(run)["log_loss"]
    assert np.isfinite(losses).all()
    assert losses.max() > 1e4
