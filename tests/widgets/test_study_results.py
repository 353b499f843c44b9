import pandas as pd
import pytest

from xaibench.errors import RunFolderError, UnknownNameError
from xaibench.study.folder import Study
from xaibench.study.tables import over_runs
from xaibench.widgets.run_panel import RunPanel
from xaibench.widgets.run_results import Results
from xaibench.widgets.study_results import StudyResults
from xaibench.widgets.worker import Turn

SUBDISTILL = "subdistill:layer_weight=1"


@pytest.fixture(scope="module")
def results(tiny_study):
    return StudyResults(tiny_study.folder)


@pytest.fixture
def turn():
    return Turn(lambda share, note: None)


def test_a_study_fills_a_run_panel(tiny_study):
    panel = RunPanel(tiny_study.folder)
    assert not panel.error
    assert "2 runs (tops, footwear)" in panel.results.title
    panel.part = "intervals"
    assert not panel.error
    panel.part = "training"
    assert not panel.error
    panel.show_images(SUBDISTILL, "lrp")
    assert not panel.error
    panel.part = "export"
    assert not panel.error


def test_its_tables_are_means_over_runs(results, tiny_study):
    assert isinstance(results, Results)
    runs = [run.summary().set_index("method")["mean"] for run in tiny_study.runs.values()]
    means = results.summary().set_index("method")["mean"]
    assert means[SUBDISTILL] == pytest.approx((runs[0][SUBDISTILL] + runs[1][SUBDISTILL]) / 2)
    accuracy = results.table().set_index("method")["accuracy"]
    own = [run.table().set_index("method")["accuracy"] for run in tiny_study.runs.values()]
    assert accuracy["teacher"] == pytest.approx((own[0]["teacher"] + own[1]["teacher"]) / 2)
    assert "Means over 2 runs" in results.result_table("methods", "lrp").render("latex")


def test_one_run_keeps_its_own_intervals():
    table = pd.DataFrame({"method": ["kd"], "accuracy": [0.5], "accuracy low": [0.4], "accuracy high": [0.6]})
    assert over_runs([table], ["method"]).equals(table)
    two = over_runs([table, table.assign(accuracy=0.7)], ["method"])
    assert two["accuracy"].item() == pytest.approx(0.6)
    assert two[["accuracy low", "accuracy high"]].to_numpy().tolist() == [[0, 1]]  # no accuracy lies outside
    lift = table.rename(columns=lambda name: name.replace("accuracy", "lrp lift"))
    two = over_runs([lift, lift.assign(**{"lrp lift": 0.7})], ["method"])
    assert two["lrp lift high"].item() == pytest.approx(0.6 + 12.706 * 0.1, rel=1e-3)


def test_methods_are_averaged_over_the_runs_that_all_of_them_have():
    first = pd.DataFrame(
        {"method": ["teacher", "kd", "at"], "accuracy": [0.9, 0.8, 0.7], "agreement": [None, 0.8, 0.7]}
    )
    second = pd.DataFrame({"method": ["teacher", "kd"], "accuracy": [0.9, 0.5], "agreement": [None, 0.5]})
    means = over_runs([first.astype({"agreement": float}), second.astype({"agreement": float})], ["method"])
    means = means.set_index("method")
    assert means["accuracy"].to_dict() == {"teacher": 0.9, "kd": 0.8, "at": 0.7}
    assert means["agreement"].dropna().to_dict() == {"kd": 0.8, "at": 0.7}


def test_images_are_those_of_the_run_that_is_least_alike(results, tiny_study, turn):
    means = {name: run.summary().set_index("method")["mean"][SUBDISTILL] for name, run in tiny_study.runs.items()}
    assert f"least alike: {min(means, key=means.get)}" in results.images(SUBDISTILL, "lrp", "cosine", turn)


def test_what_cannot_be_shown_is_said(results, tiny_study, tmp_path, turn):
    with pytest.raises(RunFolderError, match="questions are asked of one run"):
        results.ask("flipping", "lrp", "cosine", turn)
    with pytest.raises(UnknownNameError, match="group of this study"):
        StudyResults(tiny_study, "fraction 0.1")
    with pytest.raises(RunFolderError, match=r"no run of .* is finished"):
        StudyResults(Study(tmp_path, tiny_study.config))
