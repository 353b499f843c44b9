import asyncio
import html
import re
import shutil
import threading
from pathlib import Path

import pandas as pd
import pytest
import traitlets
from ipywidgets.widgets.widget import _instances

from xaibench.errors import ConfigError, RunFolderError, UnknownNameError
from xaibench.figures.names import method_label
from xaibench.progress import progress, tell_progress
from xaibench.questions.cues import CONTAMINATIONS
from xaibench.report.result_table import ResultTable
from xaibench.run.folder import open_run
from xaibench.widgets import run_panel, run_questions
from xaibench.widgets.explorer import Explorer
from xaibench.widgets.run_panel import RunPanel
from xaibench.widgets.run_panel_traits import PARTS
from xaibench.widgets.run_scene import compute_run_scene


@pytest.fixture
def folder(tiny_run, tmp_path):
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def panel_of(folder):
    """panel_of(**arguments) -> a panel of a copy of the tiny run; closed after the test."""
    made = []

    def make(what=folder, **arguments):
        made.append(RunPanel(what, **arguments))
        return made[-1]

    yield make
    for panel in made:
        panel.close()


class Study:
    """Results that are no run: `methods` of 40, by 7 explainers."""

    title, questions, metrics, metric = "a study", (), ("cosine",), "cosine"
    methods = tuple(f"method{i:02}" for i in range(40))
    explainers = tuple(f"e{i}" for i in range(7))
    groups, group = (), ""

    def at(self, group):
        return self

    def table(self):
        values = [i / 100 for i in range(len(self.methods))]
        return pd.DataFrame({"method": self.methods, "accuracy": values, "agreement": values})

    def summary(self):
        rows = [
            {"method": m, "explainer": e, "metric": "cosine", "mean": (i * (j + 3)) % 41 / 41, "low": 0.0, "high": 1.0}
            for i, m in enumerate(self.methods)
            for j, e in enumerate(self.explainers)
        ]
        return pd.DataFrame(rows).assign(n=9, nan=0, chance=0.0)

    def result_table(self, kind, explainer):
        return ResultTable(self.table(), "all")

    def intervals(self, explainer, metric, turn):
        return "<p>intervals</p>"

    def training(self, method, turn):
        raise RunFolderError("a study keeps no histories: open one of its runs")

    def images(self, method, explainer, metric, turn):
        return f"<p>{method} {explainer} {metric}</p>"

    def answer(self, question, explainer, metric, turn):
        raise AssertionError

    def ask(self, question, explainer, metric, turn):
        raise AssertionError

    def files(self):
        return []

    def renewed(self):
        return Study()


def alts(text):
    return [html.unescape(alt) for alt in re.findall(r'alt="([^"]*)"', text)]


def state(panel):
    return {name: getattr(panel, name) for name in ("part", "explainer", "metric", "sort", "opened", "method", "form")}


def set_together(panel, **values):
    with panel.hold_trait_notifications():
        for name, value in values.items():
            setattr(panel, name, value)


def names(panel):
    """Methods of the table, from above."""
    keys = {id(widget): key for key, widget in panel._scores._cells.items()}
    found = (keys.get(id(widget), ("", "")) for widget in panel._scores.box.children)
    return [method for method, column in found if column == "method"]


def visible(widget):
    return widget.layout.display != "none"


def test_every_score_of_the_summary_is_a_button(panel_of, folder):
    panel, run = panel_of(), open_run(folder)
    assert panel.error == ""
    assert names(panel) == list(dict.fromkeys(run.summary()["method"]))
    for _, row in run.summary().query("metric == @panel.metric").iterrows():
        text = panel._scores._buttons[row["method"], row["explainer"]].description
        expected = "–" if pd.isna(row["mean"]) else f"{row['mean']:.2f}".replace("-", "−")
        assert text.split(" ± ")[0] == expected
    assert "random maps" in panel._body.value
    assert "faithfulness" in panel._body.value


@pytest.mark.parametrize("by", ["accuracy", "agreement", "lrp"])
def test_methods_are_sorted_by_a_column(panel_of, folder, by):
    panel, run = panel_of(sort=by), open_run(folder)
    summary = run.summary().query("metric == @panel.metric and explainer == @by").set_index("method")["mean"]
    values = summary if by == "lrp" else run.table().set_index("method")[by]
    found = values.reindex(names(panel)).tolist()
    assert found == sorted(found, reverse=True)
    panel._controls["lowest"].value = True
    found = values.reindex(names(panel)).tolist()
    assert panel.lowest
    assert found == sorted(found)


def test_a_clicked_score_opens_its_least_and_most_alike_images(panel_of, folder):
    panel, run = panel_of(), open_run(folder)
    method = panel.results.methods[-1]
    panel._scores.click(method, "lrp")
    assert panel.opened == (method, "lrp", panel.metric)
    assert panel.error == ""
    scores = run.scores().query("pairing == 'matched' and explainer == 'lrp' and metric == @panel.metric")
    means = scores[scores["method"] == method].groupby("image")["value"].mean().dropna().sort_values()
    keys = [alt.removeprefix("The image ") for alt in alts(panel._images.value) if alt.startswith("The image ")]
    half = len(keys) // 2
    assert means[keys[:half]].tolist() == pytest.approx(means.iloc[:half].tolist())
    assert means[keys[half:]].tolist() == pytest.approx(means.iloc[::-1].iloc[:half].tolist())
    marked = [key for key, one in panel._scores._buttons.items() if "xb-here" in one._dom_classes]
    assert marked == [(method, "lrp")]


def test_a_clicked_score_moves_the_explorer(panel_of, folder):
    explorer = Explorer(folder)
    explorer.only = "all"
    panel = panel_of(explorer=explorer)
    for method in panel.results.methods:
        panel._scores.click(method, "lrp")
        assert {one.rpartition("/")[0] for one in explorer.students} == {method}
        assert (explorer.sort, explorer.metric, explorer.explainer) == ("least alike", panel.metric, "lrp")
        assert explorer.image == explorer.order[0]
        assert panel._images.value == ""
    explorer.sort = "given"
    panel._scores.click(method, "lrp")  # the same once more
    assert explorer.sort == "least alike"
    explorer.close()


def test_pictures_say_what_is_seen(panel_of):
    panel = panel_of(part="intervals")
    assert [alt.split(" ")[0] for alt in alts(panel._body.value)] == ["Chart", "Chart", "Table"]
    panel.part = "training"
    for method in panel.results.methods:
        panel.method = method
        assert panel.error == ""
        assert method_label(method) in alts(panel._body.value)[0]


def test_a_question_is_asked_once_and_then_shown(panel_of, folder, monkeypatch):
    panel = panel_of(part="questions", question="pooling")
    assert visible(panel._asking)
    assert "xaibench pooling" in panel._body.value
    assert not alts(panel._body.value)
    panel._asking.click()
    assert panel.error == ""
    assert not visible(panel._asking)
    assert alts(panel._body.value)[0].startswith("Plot pooling-lrp-cosine: ")
    assert (folder / "pooling-lrp-cosine.csv").is_file()
    again = panel_of(part="questions", question="pooling")
    assert again._body.value == panel._body.value
    again.metric = next(name for name in again.results.metrics if name != "cosine")
    assert visible(again._asking)
    assert not alts(again._body.value)
    (folder / "pooling-lrp-cosine.csv").write_text("damaged")
    again.metric = "cosine"
    assert visible(again._asking)
    assert "is not shown" in again._body.value


@pytest.mark.slow
def test_inside_is_asked_of_the_models(panel_of, folder):
    panel = panel_of(part="questions", question="inside")
    assert visible(panel._asking)
    panel._asking.click()
    assert panel.error == ""
    assert not visible(panel._asking)
    seen = alts(panel._body.value)
    assert seen[0].startswith("Plot inside: relevance cosine, mean over layers: ")
    assert all(f"{method_label(name)} " in seen[0] for name in panel.results.methods)
    assert (folder / "inside.csv").is_file()


@pytest.mark.slow  # 16 s: students for five shares of marked images, and their intervals
def test_cues_are_asked_of_students_that_are_trained_for_it(cli, small_settings, tmp_path):
    folder = tmp_path / "small"
    assert cli("run", "--preset", "demo", "--out", folder, *small_settings).code == 0
    panel = RunPanel(folder, part="questions", question="cues")
    panel._asking.click()
    assert panel.error == ""
    assert alts(panel._body.value)[0].startswith("Plot cues: marked images taken for the mark's class")
    assert "Student only" in alts(panel._body.value)[0]
    levels = pd.read_csv(folder / "cues.csv").query("method == 'student-only'")["contamination"]
    assert set(levels) == set(CONTAMINATIONS)
    panel.close()


def test_a_question_that_is_asked_reports_and_can_be_cancelled(panel_of, folder):
    panel, seen = panel_of(part="questions", question="flipping"), []
    before = panel._body.value

    def progressed(share, note):
        seen.append((share, note))
        if len(seen) == 3:
            panel.worker._turn.cancel()

    panel.worker._progress = progressed
    panel.ask()
    assert [share for share, _ in seen] == sorted(share for share, _ in seen)
    assert "flipping" in seen[-1][1]
    assert len(seen) == 3
    assert panel._body.value == before
    assert not list(folder.glob("flipping*"))


def test_told_progress_ends_with_the_block():
    heard = []
    with tell_progress(lambda share, note: heard.append((share, note))), progress("work", 2) as advance:
        advance()
        advance(note="second")
    with progress("other", 1) as advance:
        advance()
    assert heard == [(0.0, "work"), (0.5, "work"), (1.0, "work second")]


@pytest.mark.parametrize("form", ["text", "html", "latex", "csv"])
def test_tables_to_copy_are_those_of_the_run(panel_of, folder, form):
    panel = panel_of(part="export", form=form)
    written = panel.results.methods if form in ("text", "csv") else map(method_label, panel.results.methods)
    assert panel.error == ""
    assert all(one in panel._text.value for one in written)
    assert str(folder / "table.csv") in panel._body.value
    if form == "latex":
        assert panel._text.value == (folder / "table.tex").read_text()
    panel.copied = "scores"
    assert panel.error == ""
    assert "faithfulness" in panel._text.value


@pytest.mark.parametrize(
    ("trait", "value"),
    [
        ("part", "nowhere"),
        ("explainer", "tea leaves"),
        ("metric", "cosin"),
        ("sort", "beauty"),
        ("method", "magic"),
        ("question", "why"),
        ("copied", "all"),
        ("form", "docx"),
        ("opened", ("kd", "lrp", "nothing")),
    ],
)
def test_unknown_names_are_refused_and_change_nothing(panel_of, trait, value):
    panel = panel_of()
    before = state(panel), panel._body.value
    with pytest.raises(UnknownNameError) as error:
        setattr(panel, trait, value)
    assert "\n" not in str(error.value)
    assert (state(panel), panel._body.value) == before
    with pytest.raises(traitlets.TraitError):
        set_together(panel, **{"lowest": True, trait: value})
    assert not panel.lowest
    assert state(panel) == before[0]


def test_opened_needs_three_names(panel_of):
    panel = panel_of()
    with pytest.raises(ConfigError, match=r"\(method, explainer, metric\)"):
        panel.opened = ("kd",)
    assert panel.opened == ()


def test_impossible_messages_of_a_front_end_change_nothing(panel_of):
    panel = panel_of()
    before = state(panel), panel._body.value
    for control in panel._controls.values():
        if hasattr(control, "index"):
            with pytest.raises(traitlets.TraitError):
                control.set_state({"index": 99})
    assert (state(panel), panel._body.value) == before
    assert panel.error == ""


def test_controls_set_the_traits_and_follow_them(panel_of):
    panel = panel_of()
    for name in PARTS:
        panel._controls["part"].value = name
        assert panel.part == name
        assert panel.error == ""
        assert visible(panel._scores.box) == (name == "scores")
        assert visible(panel._text) == (name == "export")
    panel.part = "scores"
    assert panel._controls["part"].value == "scores"


def test_damage_midway_is_a_sentence_the_traits_go_back_and_the_rest_stays_usable(panel_of, folder):
    panel = panel_of()
    kept = (folder / "summary.csv").read_bytes()
    before = state(panel), panel._body.value, names(panel)
    (folder / "summary.csv").write_bytes(kept[:40])
    panel.sort = "method"
    assert "xaibench score" in panel.error
    assert "\n" not in panel.error
    assert (state(panel), panel._body.value, names(panel)) == before
    assert panel._controls["sort"].value == panel.sort == "given"
    assert visible(panel._scores.box)
    panel.part = "training"
    assert panel.error == ""
    assert alts(panel._body.value)
    panel.show_images(panel.results.methods[0], panel.explainer)
    assert "xaibench score" in panel.error
    assert (panel.part, panel._controls["part"].value, panel.opened) == ("training", "training", ())
    assert alts(panel._body.value)
    (folder / "summary.csv").write_bytes(kept)
    panel.part, panel.sort = "scores", "method"
    assert panel.error == ""
    assert names(panel) == sorted(names(panel), key=str.casefold)
    shutil.rmtree(folder)
    for name in PARTS:
        if name != "scores":
            panel.part = name
            assert panel.error
            assert "\n" not in panel.error
            assert panel.part == "scores"
    panel.refresh()
    assert str(folder) in panel.error


def test_what_is_new_after_reading_again_can_be_chosen_and_what_is_gone_is_not(monkeypatch):
    monkeypatch.setattr(Study, "methods", Study.methods[:3])
    panel = RunPanel(Study(), explainer="e6", method="method02", sort="e6")
    panel.opened = ("method02", "e6", "cosine")
    monkeypatch.setattr(Study, "methods", ("method00", *(f"new{i}" for i in range(39))))
    monkeypatch.setattr(Study, "explainers", ("e0", "e1"))
    panel.refresh()
    assert panel.error == ""
    assert (panel.explainer, panel.method, panel.sort, panel.opened) == ("e0", "method00", "given", ())
    assert "new38" in names(panel)
    panel.method = "new38"
    panel._controls["explainer"].value = "e1"
    assert panel.explainer == "e1"
    assert {explainer for _, explainer in panel._scores._buttons} == {"e0", "e1"}
    panel.close()


def test_a_run_that_is_damaged_when_it_is_read_again_is_not_on_show(panel_of, folder):
    panel = panel_of()
    (folder / "summary.csv").write_bytes(b"damaged")
    panel.refresh()
    assert "xaibench score" in panel.error
    assert panel._body.value == ""
    assert not visible(panel._scores.box)


def test_maps_that_are_gone_are_a_sentence(panel_of, folder):
    panel = panel_of()
    shutil.rmtree(folder / "attributions")
    panel.show_images(panel.results.methods[0], "lrp")
    assert "xaibench explain" in panel.error
    assert panel.opened == ()


def test_a_run_without_scores_says_which_command_makes_them(panel_of, folder):
    for name in ("scores.csv", "summary.csv", "table.csv"):
        (folder / name).unlink()
    panel = panel_of()
    assert "xaibench score" in panel.error
    panel.part = "training"
    assert panel.error == ""


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError):
        RunPanel(tmp_path)
    with pytest.raises(ConfigError, match="give a run"):
        RunPanel(42)


def test_an_explorer_must_be_one(folder):
    with pytest.raises(ConfigError, match=r"xb\.explore"):
        RunPanel(folder, explorer=42)


def test_a_study_of_forty_methods_and_seven_explainers_fills_it(panel_of):
    panel = panel_of(Study())
    assert panel.error == ""
    assert len(panel._scores._buttons) == 280
    panel.sort = "e3"
    means = Study().summary().query("explainer == 'e3'").set_index("method")["mean"][names(panel)].tolist()
    assert means == sorted(means, reverse=True)
    panel._scores.click("method07", "e6")
    assert panel._images.value == "<p>method07 e6 cosine</p>"
    assert panel.explainer == "e6"
    panel.part = "training"
    assert panel.error == "a study keeps no histories: open one of its runs"
    assert "further questions" not in [text for text, _ in panel._controls["part"].options]
    with pytest.raises(ConfigError, match="nothing to ask"):
        panel.ask()


def test_questions_lead_to_commands_that_there_are(folder):
    from xaibench.cli import app

    run = open_run(folder)
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    for name in run_questions.QUESTIONS:
        words = run_questions.command_line(run, name, "lrp", "cosine").split()
        assert words[0] == "xaibench"
        assert words[1] in known


def test_close_frees_every_widget(folder):
    before = set(_instances)
    panel = RunPanel(folder)
    panel.show_images(panel.results.methods[0], "lrp")
    panel.part = "questions"
    panel.close()
    assert set(_instances) == before


def test_beside_an_event_loop_the_latest_request_wins(folder):
    async def main():
        panel = RunPanel(folder)
        await panel.settled()
        assert panel.error == ""
        assert panel._scores._buttons
        panel.part = "intervals"
        panel.part = "export"
        await panel.settled()
        assert panel.part == "export"
        assert panel._text.value
        assert not alts(panel._body.value)
        panel.part = "training"
        panel.cancel()
        assert panel.part == panel._controls["part"].value == "export"
        assert panel._text.value
        panel.close()

    asyncio.run(main())


def test_a_clicked_score_reaches_the_explorer_though_something_else_is_set_at_once(folder):
    async def main():
        explorer = Explorer(folder)
        await explorer.settled()
        panel = RunPanel(folder, explorer=explorer)
        await panel.settled()
        method = panel.results.methods[-1]
        panel._scores.click(method, "lrp")
        panel.lowest = True  # supersedes the work that the click began
        await panel.settled()
        await explorer.settled()
        assert (panel.opened[0], panel.lowest, panel.error) == (method, True, "")
        assert {one.rpartition("/")[0] for one in explorer.students} == {method}
        assert explorer.sort == "least alike"
        explorer.sort = "given"
        await explorer.settled()
        panel._scores.click(panel.results.methods[0], "lrp")
        panel.cancel()  # neither now nor with what is shown next
        panel.lowest = False
        await panel.settled()
        assert (panel.opened[0], explorer.sort) == (method, "given")
        panel.close()
        explorer.close()

    asyncio.run(main())


def test_a_part_and_its_picture_stay_together_when_reading_again_is_cancelled(folder, monkeypatch):
    started, go_on = threading.Event(), threading.Event()

    def held(*arguments):
        started.set()
        assert go_on.wait(60)
        return compute_run_scene(*arguments)

    async def main():
        panel = RunPanel(folder)
        await panel.settled()
        shown = panel._body.value
        monkeypatch.setattr(run_panel, "compute_run_scene", held)
        panel.refresh()
        while not started.is_set():
            await asyncio.sleep(0)
        panel.part = "training"
        panel.cancel()
        assert panel.part == panel._controls["part"].value == "scores"
        assert panel._body.value == shown
        assert visible(panel._scores.box)
        go_on.set()
        panel.part = "training"
        panel.refresh()  # in place of the part that was asked for; it shows that nevertheless
        await panel.settled()
        assert (panel.part, panel.error) == ("training", "")
        assert panel._body.value != shown
        panel.close()

    asyncio.run(main())


class Grid(Study):
    """Results at one of two points, of which the second has few methods and another explainer."""

    groups = ("many", "few")

    def __init__(self, group="many", groups=("many", "few")):
        self.group, self.groups = group, groups
        if group == "few":
            self.methods, self.explainers = Study.methods[:3], ("e5",)

    def at(self, group):
        return self if group == self.group else Grid(group)

    def training(self, method, turn):
        return f"<p>training of {method}</p>"

    def renewed(self):
        return Grid("few", ())


def test_a_point_without_what_is_on_show_is_shown_whole_by_what_it_has(panel_of):
    panel = panel_of(Grid(), explainer="e2", sort="e2")
    panel.show_images("method30", "e2")
    panel.group = "few"
    assert panel.error == ""
    assert (panel.group, panel.explainer, panel.sort, panel.opened) == ("few", "e5", "given", ())
    assert panel._controls["explainer"].value == "e5"
    assert list(panel._on_show.methods) == ["method00", "method01", "method02"]
    panel.group, panel.part, panel.method = "many", "training", "method30"
    panel.group = "few"
    assert (panel.error, panel.method) == ("", "method00")
    assert panel._body.value == "<p>training of method00</p>"
    panel.cancel()
    assert panel.method == panel._controls["method"].value == "method00"


def test_a_grid_that_has_lost_its_other_points_has_no_choice_of_one(panel_of):
    panel = panel_of(Grid())
    panel.group = "few"
    panel.refresh()
    assert (panel.error, panel.group) == ("", "")
    assert panel._controls["group"].layout.display == "none"
    panel.part = "intervals"
    assert panel.error == ""


def test_a_part_that_results_do_not_have_is_refused(panel_of):
    panel = panel_of(Grid())
    with pytest.raises(UnknownNameError, match="part"):
        panel.part = "questions"
    assert (panel.part, panel._controls["part"].value) == ("scores", "scores")
    panel.sort = "method"
    assert panel.error == ""


class Slow(Study):
    """Results whose interval plots are drawn when `go_on` is set, once they were read anew."""

    def __init__(self, again=False):
        self.again, self.reached, self.go_on = again, threading.Event(), threading.Event()

    def intervals(self, explainer, metric, turn):
        if self.again:
            self.reached.set()
            assert self.go_on.wait(30)
        return "<p>intervals</p>"

    def renewed(self):
        self.next = Slow(again=True)
        return self.next


def test_a_refresh_that_is_cancelled_leaves_the_part_that_is_on_show():
    async def main():
        results = Slow()
        panel = RunPanel(results)
        await asyncio.wait_for(panel.settled(), 60)
        before = panel._body.value, names(panel)
        panel.part = "intervals"
        panel.refresh()
        while not hasattr(results, "next"):
            await asyncio.sleep(0)
        while not results.next.reached.is_set():
            await asyncio.sleep(0)
        panel.cancel()
        results.next.go_on.set()
        assert (panel.part, panel._controls["part"].value) == ("scores", "scores")
        assert (panel._body.value, names(panel)) == before
        assert visible(panel._scores.box)
        panel.part = "intervals"
        panel.refresh()
        while panel.results is results:
            if hasattr(results, "next"):
                results.next.go_on.set()
            await asyncio.sleep(0)
        await asyncio.wait_for(panel.settled(), 60)
        assert (panel.part, panel._body.value, panel.error) == ("intervals", "<p>intervals</p>", "")
        assert not visible(panel._scores.box)
        panel.close()

    asyncio.run(main())


@pytest.mark.parametrize("part", [name for name in PARTS if name != "scores"])
def test_a_folder_that_vanishes_is_said_in_our_words(panel_of, folder, part, caplog):
    panel = panel_of()
    shutil.rmtree(folder)
    panel.part = part
    assert str(folder) in panel.error
    assert not caplog.records
    panel.part = "scores"
    panel.show_images(panel.results.methods[0], "lrp")
    assert str(folder) in panel.error
    assert not caplog.records


def test_files_that_vanish_while_they_are_listed_are_said_in_our_words(panel_of, folder, caplog, monkeypatch):
    panel = panel_of()
    table = panel.results.result_table("methods", "lrp")

    def vanish(self, kind, explainer):
        shutil.rmtree(folder)
        return table

    monkeypatch.setattr(type(panel.results), "result_table", vanish)
    panel.part = "export"
    assert str(folder) in panel.error
    assert not caplog.records
