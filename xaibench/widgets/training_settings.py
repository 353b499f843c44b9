"""The controls of a training: method and its options, layer pairs, recipe, and the buttons."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import torch

from xaibench.distillation.methods import METHODS, Method, method_name, parse_method
from xaibench.distillation.methods.subdistill import DIMENSIONS
from xaibench.errors import ModelError
from xaibench.figures.names import method_label
from xaibench.models.layer_pairs import suggest_layers
from xaibench.models.pair import ModelPair
from xaibench.options import format_options
from xaibench.widgets.parts import checkbox, dropdown, free, line, stack

__all__ = ["Settings"]

_CHOICES = {"dimension": {"student": "the student's channels", "full": "all of the teacher's channels"}}


class Settings:
    """Controls that ask for a trait's change by `choose(trait, value)`, and `follow` what the traits are then."""

    def __init__(
        self, choose: Callable[[str, Any], None], pair: ModelPair, size: Sequence[int], methods: Sequence[str]
    ) -> None:
        self._choose = choose
        options = [(method_label(text), text) for text in methods]
        self.offered = dropdown("method", options)
        self.method = _text("as text", "18rem")
        self.epochs = _number(widgets.BoundedIntText, "epochs", min=1, max=10**6)
        self.lr = _number(widgets.FloatText, "learning rate")
        self.seed = _number(widgets.BoundedIntText, "seed", min=0, max=2**31 - 1)
        self.recipe = _text("more of the recipe", "22rem", "batch_size=128,augment=none")
        self.layers = _text("layer pairs", "26rem", "layer1:layer1, layer2:layer2")
        self.boxes = {name: checkbox(f"{name}{width}") for name, width in _suggested(pair, size).items()}
        self.options: dict[str, widgets.Widget] = {}
        self._options_of: type[Method] | None = None
        self._options_line = line()
        self._hint = widgets.HTML()
        for trait in ("method", "epochs", "lr", "seed", "recipe"):
            getattr(self, trait).observe(lambda change, trait=trait: choose(trait, change.new), "value")
        self.offered.observe(lambda change: choose("method", change.new or self.method.value), "value")
        self.layers.observe(lambda change: choose("layers", _split(change.new)), "value")
        for box in self.boxes.values():
            box.observe(lambda _: self._tick(), "value")
        self.box = stack(
            line(self.offered, self.method, self.epochs, self.lr, self.seed),
            self._options_line,
            self._hint,
            line(self.layers, *self.boxes.values()),
            line(self.recipe),
        )

    def follow(self, traits: Mapping[str, Any]) -> None:
        """Set the controls to what the traits say."""
        method = parse_method(traits["method"])
        for name in ("method", "epochs", "lr", "seed", "recipe"):
            getattr(self, name).value = traits[name]
        self.offered.value = _nearest(method, [value for _, value in self.offered.options])
        self.layers.value = ", ".join(traits["layers"])
        for name, box in self.boxes.items():
            box.value = name in traits["layers"]
        self._show_options(method)

    def _show_options(self, method: Method) -> None:
        names = _options(method)
        if type(method) is not self._options_of:
            free(*self.options.values())
            self._options_of = type(method)
            self.options = {name: _option(name) for name in names}
            for name, control in self.options.items():
                control.observe(lambda change, name=name: self._set_option(name, change.new), "value")
            self._options_line.children = tuple(self.options.values())
        for name, control in self.options.items():
            control.value = getattr(method, name)
        if type(method) in METHODS.values() and not hasattr(method, "method"):
            options = html.escape(format_options(method, full=True).replace(",", ", "))
            self._hint.value = f'<div class="xb-note" style="overflow-wrap: anywhere">in full: {options}</div>'
        else:
            self._hint.value = ""

    def _set_option(self, name: str, value: Any) -> None:
        def changed(text: str) -> str:
            method: Any = parse_method(text)
            return method_name(dataclasses.replace(method, **{name: value}))

        self._choose("method", changed)

    def _tick(self) -> None:
        ticked = {name for name, box in self.boxes.items() if box.value}
        typed = [name for name in _split(self.layers.value) if name not in self.boxes]
        self._choose("layers", (*(name for name in self.boxes if name in ticked), *typed))


def _suggested(pair: ModelPair, size: Sequence[int]) -> dict[str, str]:
    """The pair's layer pairs and those that `suggest_layers` finds, with the widths of both models' layers."""
    home = next(pair.teacher.parameters()).device
    try:
        found = suggest_layers(pair.teacher, pair.student, torch.zeros(1, pair.preprocessing.channels, *size).to(home))
        every = dataclasses.replace(pair, layers=tuple(dict.fromkeys((*pair.layers, *found))))
        shapes = every.layer_shapes(size)
    except ModelError:  # what was given is offered nevertheless; a training says what is wrong with it
        return dict.fromkeys(map(str, pair.layers), "")
    return {str(pair): f" (k = {student[0]} of {teacher[0]})" for pair, (teacher, student) in shapes.items()}


def _options(method: Method) -> list[str]:
    if hasattr(method, "method") or not dataclasses.is_dataclass(method):
        return []
    fields = [field.name for field in dataclasses.fields(method)]
    return [name for name in fields if name.endswith("weight") or name == "temperature" or name in _CHOICES]


def _option(name: str) -> widgets.Widget:
    if name in _CHOICES:
        return dropdown(f"{name} (k)", [(_CHOICES[name][value], value) for value in DIMENSIONS])
    return _number(widgets.FloatText, name.replace("_", " "))


def _nearest(method: Method, offered: Iterable[str]) -> str | None:
    """The offered text that is this method, else the first of its kind."""
    offered = list(offered)
    alike = [text for text in offered if type(parse_method(text)) is type(method)]
    return method_name(method) if method_name(method) in offered else next(iter(alike), None)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number(kind: type[widgets.Widget], description: str, **bounds: float) -> widgets.Widget:
    style, layout = {"description_width": "initial"}, widgets.Layout(width=f"{6 + 0.5 * len(description):.0f}rem")
    return kind(description=description, style=style, layout=layout, **bounds)


def _text(description: str, width: str, placeholder: str = "") -> widgets.Text:
    style, layout = {"description_width": "initial"}, widgets.Layout(width=width, max_width="100%")
    return widgets.Text(
        description=description, placeholder=placeholder, continuous_update=False, style=style, layout=layout
    )
