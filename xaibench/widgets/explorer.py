"""The explorer: move through a run's images and see where student and teacher disagree."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as widgets
import numpy as np
import traitlets
from matplotlib.figure import Figure

from xaibench.errors import XaibenchError, unknown_name
from xaibench.figures.gallery import NORMALISATIONS, displayed, gallery, symmetric_limit
from xaibench.figures.style import explainer_label, metric_label
from xaibench.widgets.pictures import Panel, colour_bar, heatmap_png, picture_png
from xaibench.widgets.view import SORTS, RunLike, RunView

__all__ = ["Explorer"]


class Explorer(widgets.VBox):
    """Input, teacher and students side by side on one colour scale, with their scores; a panel for Jupyter.

    The traits are its interface; set them from code or with the controls, observe them like any trait:

    image      key of the image shown
    students   models shown beside the teacher ("method/seedN"), in the order of the run
    explainer  whose heatmaps
    metric     the score below them, and the one that sorts
    sort       "given", "least alike" or "most alike" (mean score of the shown students; undefined ones last)
    differing  only images for which a shown student predicts another class than the teacher

    `order` holds the keys in the order of the slider; `figure()` draws the shown image for a paper.
    It starts with the first seed of each method. An unknown name raises UnknownNameError.
    """

    image = traitlets.Unicode()
    students = traitlets.Tuple()
    explainer = traitlets.Unicode()
    metric = traitlets.Unicode()
    sort = traitlets.Unicode("given")
    differing = traitlets.Bool(False)

    def __init__(self, run: RunLike, **traits: Any) -> None:
        self._view = view = RunView(run)
        self._following = False
        self.order = view.keys
        first = {model.rpartition("/")[0]: model for model in reversed(view.students)}
        start = {
            "image": view.keys[0],
            "students": tuple(first.values()),
            "explainer": view.explainers[0],
            "metric": view.metrics[0],
        }
        super().__init__(self._build(), **{**start, **traits})
        self.add_class("xaibench-explorer")
        self.observe(self._rearrange, ["students", "explainer", "metric", "sort", "differing"])
        self.observe(self._draw, "image")
        self._rearrange()

    def figure(self, width: str | float = "double") -> Figure:
        """The image, heatmaps and scores on show, as a figure for a paper."""
        place = self._view.place(self.image)
        maps = {model: self._view.heatmaps(model, self.explainer)[[place]] for model in ("teacher", *self.students)}
        scores = {model: self._view.score(model, self.explainer, self.metric, self.image)[0] for model in self.students}
        return gallery(
            self._view.pixels[[place]].transpose(0, 3, 1, 2),
            maps.pop("teacher"),
            maps,
            titles=["{}\nrather than {}".format(*self._view.question(self.explainer, self.image))],
            scores={model: [_score_text(self.metric, value)] for model, value in scores.items()},
            width=width,
        )

    @traitlets.validate("image", "explainer", "metric", "sort")
    def _known(self, proposal: Any) -> str:
        name, view = proposal.trait.name, self._view
        valid = {"image": view.keys, "explainer": view.explainers, "metric": view.metrics, "sort": SORTS}[name]
        if proposal.value not in valid:
            raise unknown_name(name, proposal.value, valid)
        return str(proposal.value)

    @traitlets.validate("students")
    def _known_students(self, proposal: Any) -> tuple[str, ...]:
        for model in proposal.value:
            if model not in self._view.students:
                raise unknown_name("student", model, self._view.students)
        return tuple(model for model in self._view.students if model in proposal.value)

    def _build(self) -> tuple[widgets.Widget, ...]:
        view = self._view
        self._controls = {
            "explainer": widgets.ToggleButtons(
                options=[(explainer_label(name), name) for name in view.explainers],
                style={"button_width": "auto"},
            ),
            "metric": _dropdown("score", [(metric_label(name), name) for name in view.metrics]),
            "sort": _dropdown("images", [(text, name) for name, text in SORTS.items()]),
            "differing": _checkbox("only where predictions differ"),
            "image": widgets.Dropdown(options=view.keys, layout=widgets.Layout(width="14rem")),
        }
        self._boxes = {model: _checkbox(model) for model in view.students}
        self._slider = widgets.IntSlider(
            min=1,
            max=len(view.keys),
            description="image",
            readout=False,
            style={"description_width": "initial"},
            layout=widgets.Layout(width="22rem"),
        )
        self._count, self._bar = widgets.HTML(), widgets.HTML()
        self._panels = {model: Panel(model) for model in ("input", "teacher", *view.students)}
        self._stage = widgets.HBox(layout=widgets.Layout(flex_flow="row wrap", margin="0.5em 0"))

        for trait, control in self._controls.items():
            control.observe(lambda change, trait=trait: self._choose(trait, change.new), "value")
        self._slider.observe(lambda change: self._slide(change.new), "value")
        for box in self._boxes.values():
            box.observe(
                lambda _: self._choose("students", tuple(m for m, b in self._boxes.items() if b.value)),
                "value",
            )
        image, *choices = (self._controls[name] for name in ("image", "explainer", "metric", "sort", "differing"))
        return (
            _line(*choices),
            _line(*self._boxes.values()),
            _line(self._slider, image, self._count),
            self._stage,
            self._bar,
        )

    def _slide(self, position: int) -> None:
        if 1 <= position <= len(self.order):  # a filter may have left no image
            self._choose("image", self.order[position - 1])

    def _choose(self, trait: str, value: Any) -> None:
        if not self._following:
            setattr(self, trait, value)

    @contextmanager
    def _controls_follow(self) -> Iterator[None]:
        # While controls are set to what the traits say, they must not answer back.
        before, self._following = self._following, True
        try:
            yield
        finally:
            self._following = before

    def _rearrange(self, change: Any = None) -> None:
        """Sort and filter; go to the first image if the order was asked to change, else stay put."""
        self.order = self._view.order(self.students, self.explainer, self.metric, self.sort, self.differing)
        asked = change is not None and change.name in ("sort", "metric", "differing")
        target = self.order[0] if self.order and (asked or self.image not in self.order) else self.image
        with self._controls_follow():
            for trait in ("explainer", "metric", "sort", "differing"):
                self._controls[trait].value = getattr(self, trait)
            for model, box in self._boxes.items():
                box.value = model in self.students
            self._slider.max = max(1, len(self.order))
            self._slider.disabled = self._controls["image"].disabled = not self.order
            if self.order and self._controls["image"].options != self.order:
                self._controls["image"].options = self.order
        if target == self.image:
            self._draw()
        else:
            self.image = target

    def _draw(self, _change: Any = None) -> None:
        try:
            self._show()
        except XaibenchError as error:  # files that vanished, say: a front end shows no exceptions, but the old image
            self._stage.children, self._bar.value = (), ""
            self._count.value = html.escape(str(error))

    def _show(self) -> None:
        view, key = self._view, self.image
        place = view.place(key)
        if key in self.order:
            position = self.order.index(key) + 1
            with self._controls_follow():
                self._slider.value, self._controls["image"].value = position, key
            self._count.value = f"{position} of {len(self.order)}"
        elif self.order:
            self._count.value = "not among the images chosen"
        else:
            self._count.value = "no such image: the models shown predict the same class everywhere"
        models = ("teacher", *self.students)
        maps = displayed(np.stack([view.heatmaps(model, self.explainer)[place] for model in models]))
        limit = symmetric_limit(maps)
        label, contrast = map(html.escape, view.question(self.explainer, key))
        self._panels["input"].show(picture_png(view.pixels[place]), f"<b>{label}</b>", f"rather than {contrast}")
        for model, values in zip(models, maps):
            self._panels[model].show(heatmap_png(values, limit), *self._below(model))
        self._bar.value = colour_bar(limit, NORMALISATIONS["share"])
        self._stage.children = tuple(self._panels[name].box for name in ("input", *models))

    def _below(self, model: str) -> Iterator[str]:
        prediction = self._view.prediction(model, self.image)
        mark = "✓" if prediction["correct"] else "✗"
        yield f"predicts {html.escape(str(prediction['predicted']))} {prediction['confidence']:.0%} {mark}"
        if words := self._view.in_words(model, self.explainer, self.image):
            yield f"<small>{html.escape(words)}</small>"
        if model == "teacher":
            return
        if not self._view.explained(model, self.explainer):
            yield "no valid explanation"
            return
        score, chance, rank = self._view.score(model, self.explainer, self.metric, self.image)
        text = _score_text(self.metric, score)
        yield text if math.isnan(score) else f"<b>{text}</b>, chance {chance:.2f}"
        if not math.isnan(rank):
            yield f"rank {rank:.0f} of {len(self._view.keys)}, 1 is least alike"


def _score_text(metric: str, score: float) -> str:
    return f"{metric_label(metric)} {'undefined' if math.isnan(score) else format(score, '.2f')}"


def _line(*controls: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(controls, layout=widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 1em"))


def _dropdown(description: str, options: list[tuple[str, str]]) -> widgets.Dropdown:
    style, layout = {"description_width": "initial"}, widgets.Layout(width="auto")
    return widgets.Dropdown(options=options, description=description, style=style, layout=layout)


def _checkbox(description: str) -> widgets.Checkbox:
    return widgets.Checkbox(description=description, indent=False, layout=widgets.Layout(width="auto"))
