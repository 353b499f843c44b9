"""A panel for a finished run: its tables and figures, the images behind each score, and further questions."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets
from traitlets import Bunch

from xaibench.errors import ConfigError, XaibenchError, unknown_name
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.report.result_table import FORMATS
from xaibench.run.folder import Run
from xaibench.study.folder import Study
from xaibench.widgets.explorer import Explorer
from xaibench.widgets.panel import button, checkbox, dropdown, line, set_options, stack, style_sheet
from xaibench.widgets.pictures import CARDS
from xaibench.widgets.run_panel_traits import ASKED, TABLES, USES, RunTraits, fitted, parts_of
from xaibench.widgets.run_questions import QUESTIONS
from xaibench.widgets.run_results import Results
from xaibench.widgets.run_scene import RunScene, compute_run_scene
from xaibench.widgets.score_table import SCORES, ScoreTable
from xaibench.widgets.stage import STAGE
from xaibench.widgets.study_results import results_of
from xaibench.widgets.worker import Turn

__all__ = ["RunPanel"]

_MOST_STUDENTS = 4
_EVERYWHERE = ("group", "part")


class RunPanel(RunTraits):
    """Tables and figures of a run, the images behind each of its scores, and further questions to it.

    what      a run or a study, or its folder, or anything with the methods of `run_results.Results`
    explorer  opens the images of a score that is clicked; None: they are shown below the table

    Every score is a button that opens the images on which a method is least and most like its teacher. Traits are the
    interface; set them from code or with the controls:

    group      the point of a study's grid, "fraction 0.1"; "" for a run, and where there is one point
    part       what is on show: "scores", "intervals", "training", "questions" or "export"
    explainer, metric
               of the run: what is compared
    sort       of the methods: "given", "method", "accuracy", "agreement" or an explainer; `lowest` first
    opened     () or (method, explainer, metric): the score whose images are open, see `show_images`
    method     whose training is on show
    question   "flipping", "inside", "pooling" or "cues": an answer that lies in the run folder is shown, else `ask`
    copied     the table to copy, "methods" or "scores" of the explainer; `form` "text", "html", "latex" or "csv"

    A value that is not there raises an error and changes nothing. Where results are missing or damaged `error` says
    which command makes them, and the traits go back to what is on show; `refresh` reads the run again.
    """

    def __init__(
        self, what: Run | Study | Path | str | Results, *, explorer: Explorer | None = None, **traits: Any
    ) -> None:
        self.results: Results = results_of(what)
        if not isinstance(self.results, Results):
            raise ConfigError(f"cannot show {what!r:.60}: give a run, its folder, or results (`Results`)")
        if explorer is not None and not isinstance(explorer, Explorer):
            raise ConfigError(
                f"explorer must be an Explorer or None, got {explorer!r:.60}: make one by xb.explore(run)"
            )
        self.explorer = explorer
        self._on_show: RunScene | None = None
        self._wanted: tuple[str, ...] = ()  # the score that the explorer shall open, until it has
        first = {"explainer": self.results.explainers[0], "metric": self.results.metric}
        first |= {"group": self.results.group if self.results.groups else ""}
        first |= {"method": self.results.methods[0], "question": next(iter(self.results.questions), "")}
        super().__init__(**{**first, **traits})
        self.add_class("xaibench-run")
        self._build()
        self.observe(self._changed, list(ASKED))
        self._settling = False
        self._ask()

    def show_images(self, method: str, explainer: str, metric: str | None = None) -> None:
        """Show the images on which a method is least and most like its teacher; in the explorer, where there is one."""
        one = method, explainer, metric or self.metric
        self._return_to({"opened": one, "part": "scores", "explainer": one[1], "metric": one[2]})
        self._ask(Bunch(name="opened"))

    def ask(self) -> None:
        """Answer the further question on show; the answer lies in the run folder then."""
        asked = self._asked()
        question = asked["question"], asked["explainer"], asked["metric"]
        if not question[0]:
            raise ConfigError("there is nothing to ask: further questions are asked of one run")

        def work(turn: Turn) -> RunScene:
            self._results_at(asked["group"]).ask(*question, turn)
            return self._compute({**asked, "part": "questions"}, turn)

        self._work(work, self._show)

    def refresh(self) -> None:
        """Read the run's files again."""

        def work(turn: Turn) -> Callable[[], None]:
            turn.report(0.0, "read the run")
            renewed = self.results.renewed()
            asked = fitted(before, renewed)
            try:
                return partial(self._show, self._scene(renewed, asked, turn))
            except XaibenchError as error:  # what was on show is of files that are gone
                return partial(self._show_nothing, renewed, asked, error)

        before = self._asked()
        self._work(work, lambda show: show())

    def cancel(self) -> None:
        """End what is being computed; the traits go back to what is on show."""
        super().cancel()
        self._wanted = ()
        self._go_back()

    def _take(self, known: Results, asked: Mapping[str, Any]) -> None:
        """Other results: choices are those that there are now, and traits what is asked of them."""
        self.results = known
        self._title.value = f"<b>{html.escape(known.title)}</b>"
        options = self._options()
        with self._controls_follow():
            for name, choices in options.items():
                set_options(self._controls[name], choices, asked[name] if choices else None)
        self._return_to(asked)
        self._scores.renew(known.explainers)

    def _options(self) -> dict[str, list[tuple[str, str]]]:
        """Trait -> what can be chosen, as it is worded and as it is called."""
        known, named = self.results, {"given": "as given", "method": "name"}
        return {
            "metric": [(metric_label(name), name) for name in known.metrics],
            "explainer": [(explainer_label(name), name) for name in known.explainers],
            "sort": [(named.get(name, explainer_label(name)), name) for name in self.sorts],
            "method": [(method_label(name), name) for name in known.methods],
            "question": [(QUESTIONS[name].title, name) for name in known.questions],
            "group": [(name, name) for name in known.groups],
        }

    def _build(self) -> None:
        known, options = self.results, self._options()
        self._controls: dict[str, Any] = {
            "part": widgets.ToggleButtons(
                options=[(text, name) for name, text in parts_of(known).items()],
                description="show",
                style={"description_width": "initial", "button_width": "auto"},
            ),
            "metric": dropdown("metric", options["metric"]),
            "explainer": dropdown("explainer", options["explainer"]),
            "sort": dropdown("sort by", options["sort"]),
            "lowest": checkbox("lowest first"),
            "method": dropdown("method", options["method"]),
            "question": dropdown("question", options["question"]),
            "group": dropdown("runs of", options["group"]),
            "copied": dropdown("table", [(text, name) for name, text in TABLES.items()]),
            "form": dropdown("as", list(FORMATS)),
        }
        for name, control in self._controls.items():
            control.observe(lambda change, name=name: self._choose(name, change.new), "value")
        self._scores = ScoreTable(known.explainers, self._clicked)
        self._title, self._body, self._images = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._text = widgets.Textarea(
            description="to copy",
            style={"description_width": "initial"},
            layout=widgets.Layout(width="auto", height="16rem"),
        )
        self._asking = button("ask now", self._pressed_ask, icon="play", tooltip="answer this question by its defaults")
        self._refreshing = button("read again", self.refresh, icon="refresh", tooltip="read the run's files again")
        self._title.value = f"<b>{html.escape(known.title)}</b>"
        self._controls["group"].layout.display = None if known.groups else "none"
        self.children = (
            style_sheet(CARDS + STAGE + SCORES),
            line(self._title, self._controls["group"], self._refreshing),
            self._controls["part"],
            line(*(control for name, control in self._controls.items() if name not in _EVERYWHERE)),
            self._status,
            line(self._asking),
            stack(self._scores.box, self._text, self._images, self._body),
        )

    def _clicked(self, method: str, explainer: str) -> None:
        try:
            self.show_images(method, explainer)
        except (XaibenchError, traitlets.TraitError) as error:
            self.error = str(error)

    def _pressed_ask(self) -> None:
        try:
            self.ask()
        except XaibenchError as error:
            self.error = str(error)

    def _asked(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ASKED}

    def _is_on_show(self) -> bool:
        return self._on_show is not None and self._asked() == self._on_show.asked

    def _ask(self, change: Any = None) -> None:
        """Compute what the traits ask for, and show it when all of it is there."""
        if self._settling:
            return
        self._follow()
        asked = self._asked()
        if change is not None and change.name == "opened":
            self._wanted = self.opened
        self._work(lambda turn: self._compute(asked, turn), self._show)

    def _compute(self, asked: dict[str, Any], turn: Turn) -> RunScene:
        known = self._results_at(asked["group"])
        return self._scene(known, fitted(asked, known), turn)

    def _scene(self, known: Results, asked: dict[str, Any], turn: Turn) -> RunScene:
        return compute_run_scene(known, asked, lambda: self._opened(known, asked["opened"], turn), turn)

    def _results_at(self, group: str) -> Results:
        return self.results.at(group) if self.results.groups else self.results

    def _opened(self, known: Results, opened: tuple[str, ...], turn: Turn) -> str:
        if not opened or self.explorer is not None:
            return ""
        shown = self._on_show
        if shown is not None and shown.opened and shown.results is known and shown.asked["opened"] == opened:
            return shown.opened
        method, explainer, metric = opened
        return known.images(method, explainer, metric, turn)

    def _show(self, shown: RunScene) -> None:
        self._on_show = shown
        if shown.results is not self.results:
            self._take(shown.results, shown.asked)
        self._go_back()
        asked = shown.asked
        if shown.table is not None and shown.scores is not None:
            self._scores.show(shown.table, shown.scores, shown.methods, asked["metric"], asked["opened"])
        self._body.value, self._text.value, self._images.value = shown.html, shown.text, shown.opened
        self._visible(shown)
        wanted, self._wanted = self._wanted, ()
        if self.explorer is not None and wanted and wanted == asked["opened"]:
            _open_in(self.explorer, *wanted)

    def _failed(self, error: Exception) -> None:
        """What is on show stays, and the traits go back to it."""
        super()._failed(error)
        self._wanted = ()
        if self._on_show is None:
            self._body.value = self._text.value = self._images.value = ""
            self._visible(None)
        self._go_back()

    def _show_nothing(self, known: Results, asked: Mapping[str, Any], error: Exception) -> None:
        """What was asked of other results cannot be shown."""
        self._on_show = None
        self._take(known, asked)
        self._failed(error)

    def _visible(self, shown: RunScene | None) -> None:
        """Show the widgets of the part that is on show."""
        part = self.part
        for name, control in self._controls.items():
            control.layout.display = None if name in (*_EVERYWHERE, *USES[part]) else "none"
        self._controls["group"].layout.display = None if self.results.groups else "none"
        self._scores.box.layout.display = None if shown and part == "scores" else "none"
        self._text.layout.display = None if shown and part == "export" else "none"
        self._asking.layout.display = None if shown and part == "questions" and not shown.answered else "none"

    def _go_back(self) -> None:
        """Set the traits to what is on show."""
        self._return_to(self._on_show.asked if self._on_show is not None else {})

    def _follow(self) -> None:
        with self._controls_follow():
            for name, control in self._controls.items():
                if getattr(control, "options", True):
                    control.value = getattr(self, name)


def _open_in(explorer: Any, method: str, explainer: str, metric: str) -> None:
    """Show a method's students in an explorer, the least alike images first."""
    known = explorer.comparison
    if method not in known.groups:
        raise unknown_name("method of the explorer", method, known.groups)
    members = known.groups[method]
    with explorer.hold_trait_notifications():
        explorer.students = members if len(members) <= _MOST_STUDENTS else (f"{method}/mean",)
        explorer.explainer, explorer.metric, explorer.sort = explainer, metric, "least alike"
        explorer.only, explorer.label, explorer.contrast, explorer.of_class = "all", "", "", ""
    if explorer.order and not explorer.worker.busy and not explorer.order_is_older:
        explorer.image = explorer.order[0]
