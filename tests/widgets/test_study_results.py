import pandas as pd
import pytest

from xaibench.errors import RunFolderError, UnknownNameError
from xaibench.study.folder import Study
from xaibench.study.pooled import over_runs
from xaibench.widgets import study_results
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


@pytest.fixture
def two_points(monkeypatch):
    """Studies whose runs are points of their grid, one each."""

    def split(_config, students):
        return ((f"subtask {name}", rows) for name, rows in students.groupby("run", sort=False))

    monkeypatch.setattr(study_results, "groups_of", split)


def test_a_panel_moves_between_the_points_of_a_grid(tiny_study, two_points):
    panel = RunPanel(tiny_study.folder)
    choice = panel._controls["group"]
    assert [text for text, _ in choice.options] == ["subtask tops", "subtask footwear"]
    assert choice.layout.display is None
    for name in ("footwear", "tops"):
        choice.value = f"subtask {name}"
        assert not panel.error
        assert (panel.group, panel.results.group) == (f"subtask {name}",) * 2
        assert f"1 run ({name})" in panel._title.value
        run = tiny_study.runs[name]
        pd.testing.assert_frame_equal(panel._on_show.table[["accuracy"]], run.table()[["accuracy"]])


def test_a_score_that_is_open_stays_open_at_another_point(tiny_study, two_points):
    panel = RunPanel(tiny_study.folder)
    panel.show_images(SUBDISTILL, "lrp")
    before = panel._images.value
    panel.group = "subtask footwear"
    assert panel.opened == (SUBDISTILL, "lrp", "cosine")
    assert "footwear" in panel._images.value != before


def test_a_point_that_cannot_be_read_changes_nothing(tiny_study, two_points, monkeypatch):
    panel = RunPanel(tiny_study.folder)
    before, table = panel._title.value, panel._on_show.table

    def fail(_self, _group):
        raise RunFolderError("footwear is gone")

    monkeypatch.setattr(StudyResults, "at", fail)
    panel.group = "subtask footwear"
    assert panel.error == "footwear is gone"
    assert (panel.group, panel._controls["group"].value) == ("subtask tops",) * 2
    assert panel._title.value == before
    assert panel._on_show.table is table
    with pytest.raises(UnknownNameError, match="group"):
        panel.group = "subtask hats"
    assert panel.group == "subtask tops"


def test_a_run_has_one_point_and_no_choice_of_it(tiny_run):
    panel = RunPanel(tiny_run)
    assert panel.group == ""
    assert panel._controls["group"].layout.display == "none"
    with pytest.raises(UnknownNameError, match="group"):
        panel.group = "subtask tops"
