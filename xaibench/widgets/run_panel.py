"""A panel for a finished run: its tables and figures, the images behind each score, and further questions."""

from __future__ import annotations

import html
from collections.abc import Mapping
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
from xaibench.widgets.parts import button, checkbox, dropdown, line, set_options, stack, style_sheet
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
        first = {"explainer": self.results.explainers[0], "metric": self.results.metric}
        first |= {"group": self.results.group if self.results.groups else ""}
        first |= {"method": self.results.methods[0], "question": next(iter(self.results.questions), "")}
        super().__init__(**{**first, **traits})
        self.add_class("xaibench-run")
        self._build()
        self.observe(self._changed, list(ASKED))
        self._settling = False
        self._ask()

    def close(self) -> None:
        """Free the panel with all its parts."""
        if hasattr(self, "_scores"):
            self._scores.close()
        super().close()

    def show_images(self, method: str, explainer: str, metric: str | None = None) -> None:
        """Show the images on which a method is least and most like its teacher; in the explorer, where there is one."""
        one = method, explainer, metric or self.metric
        self._return_to({"opened": one, "part": "scores", "explainer": one[1], "metric": one[2]})
        self._ask_for("opened")

    def ask(self) -> None:
        """Answer the further question on show; the answer lies in the run folder then."""
        asked, known = self._asked(), self.results
        question = asked["question"], asked["explainer"], asked["metric"]
        if not question[0]:
            raise ConfigError("there is nothing to ask: further questions are asked of one run")

        def work(turn: Turn) -> RunScene:
            _at(known, asked["group"]).ask(*question, turn)
            return self._compute(known, {**asked, "part": "questions"}, turn)

        self._work(work, self._show)

    def refresh(self) -> None:
        """Read the run's files again."""

        asked, known = self._asked(), self.results

        def renew(turn: Turn) -> tuple[Results, RunScene | Exception]:
            turn.report(0.0, "read the run")
            renewed = known.renewed()
            try:
                return renewed, self._compute(renewed, asked, turn)
            except Exception as error:  # noqa: BLE001 - of this part; the others may be there
                return renewed, error

        def show(found: tuple[Results, RunScene | Exception]) -> None:
            renewed, shown = found
            if isinstance(shown, RunScene):
                self._show(shown)
                return
            self._on_show = None
            self._take(renewed, fitted(asked, renewed))
            self._failed(shown)

        self._work(renew, show)

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

    def _shown(self) -> Mapping[str, Any]:
        return self._on_show.asked if self._on_show is not None else {}

    def _ask(self) -> None:
        self._follow()
        asked, known = self._asked(), self.results
        self._work(lambda turn: self._compute(known, asked, turn), self._show)

    def _compute(self, known: Results, asked: dict[str, Any], turn: Turn) -> RunScene:
        known = _at(known, asked["group"])
        asked = fitted(asked, known)
        return compute_run_scene(known, asked, lambda: self._opened(known, asked["opened"], turn), turn)

    def _opened(self, known: Results, opened: tuple[str, ...], turn: Turn) -> str:
        if not opened or self.explorer is not None:
            return ""
        shown = self._on_show
        if shown is not None and shown.opened and shown.results is known and shown.asked["opened"] == opened:
            return shown.opened
        method, explainer, metric = opened
        return known.images(method, explainer, metric, turn)

    def _show(self, shown: RunScene) -> None:
        self._on_show, clicked = shown, "opened" in self._changes
        if shown.results is not self.results:
            self._take(shown.results, shown.asked)
        self._go_back()
        asked = shown.asked
        if shown.table is not None and shown.scores is not None:
            self._scores.show(shown.table, shown.scores, shown.methods, asked["metric"], asked["opened"])
        self._body.value, self._text.value, self._images.value = shown.html, shown.text, shown.opened
        self._visible(shown)
        if clicked and asked["opened"] and self.explorer is not None:
            _open_in(self.explorer, *asked["opened"])

    def _failed(self, error: BaseException) -> None:
        super()._failed(error)
        if self._on_show is None:  # a run that was read again, or cannot be read at all
            self._body.value = self._text.value = self._images.value = ""
            self._visible(None)

    def _visible(self, shown: RunScene | None) -> None:
        """Show the widgets of the part that is on show."""
        part = self.part
        for name, control in self._controls.items():
            control.layout.display = None if name in (*_EVERYWHERE, *USES[part]) else "none"
        self._controls["group"].layout.display = None if self.results.groups else "none"
        self._scores.box.layout.display = None if shown and part == "scores" else "none"
        self._text.layout.display = None if shown and part == "export" else "none"
        self._asking.layout.display = None if shown and part == "questions" and not shown.answered else "none"

    def _follow(self) -> None:
        with self._controls_follow():
            for name, control in self._controls.items():
                if getattr(control, "options", True):
                    control.value = getattr(self, name)


def _at(known: Results, group: str) -> Results:
    """The results at a point of a study's grid; as they are where there is no such choice."""
    return known.at(group) if group in known.groups else known


def _open_in(explorer: Explorer, method: str, explainer: str, metric: str) -> None:
    """Show a method's students in an explorer, the least alike images first."""
    explorer._must_be_open()
    known = explorer.comparison
    if method not in known.groups:
        raise unknown_name("method of the explorer", method, known.groups)
    members = known.groups[method]
    with explorer.hold_trait_notifications():
        explorer.students = members if len(members) <= _MOST_STUDENTS else (f"{method}/mean",)
        explorer.explainer, explorer.metric, explorer.sort = explainer, metric, "least alike"
        explorer.only, explorer.label, explorer.contrast, explorer.of_class = "all", "", "", ""
    explorer._changed(Bunch(name="metric"))  # begins with the first image, also where nothing else changes
