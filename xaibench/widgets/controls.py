"""The explorer's controls: which images, what is asked of them, and how it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipywidgets as widgets

from xaibench.figures.gallery import NORMALISATIONS
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.similarity.maps import SIGNS
from xaibench.similarity.metrics.table import METRICS
from xaibench.widgets.order import ONLY, SORTS
from xaibench.widgets.parts import button, checkbox, dropdown, line, set_options, slider
from xaibench.widgets.stage import LOOKS

if TYPE_CHECKING:
    from xaibench.widgets.explorer import Explorer

__all__ = ["Controls"]

_CHOSEN = "as chosen"
_ALL = "all seeds"


class Controls:
    """Sets traits of an explorer and follows them; `above` and `below` are the rows of widgets around the pictures."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self.choices = {
            "explainer": dropdown("explainer"),
            "label": dropdown("what speaks for"),
            "contrast": dropdown("rather than"),
            "metric": dropdown("score"),
            "sort": dropdown("order", [(text, name) for name, text in SORTS.items()]),
            "only": dropdown("show", [(text, name) for name, text in ONLY.items()]),
            "of_class": dropdown("class"),
            "look": dropdown("draw", [(text, name) for name, text in LOOKS.items()]),
            "scale": dropdown("in", [(text, name) for name, text in NORMALISATIONS.items()]),
            "sign": dropdown("sign", [(f"{name}: {text}", name) for name, text in SIGNS.items()]),
        }
        self.options = widgets.Text(
            description="options",
            style={"description_width": "initial"},
            placeholder="e.g. baseline=blur",
            continuous_update=False,
            layout=widgets.Layout(width="15rem"),
            tooltip="options of the explainer, as NAME=VALUE,NAME=VALUE",
        )
        self.numbers = {
            "rows": slider("images at once", 1, 12, 1, 1),
            "opacity": slider("opacity", 0.0, 1.0, 0.05, 0.6),
            "zoom": slider("zoom", 1.0, 8.0, 0.25, 1.0),
        }
        self.position = slider("image", 1, len(explorer.comparison.keys), 1, 1)
        self.position.readout = False
        self.image = dropdown("name", width="18rem")
        self.count = widgets.HTML()
        self.cursor = checkbox("read off values")
        self.at = (slider("row", 0.0, 1.0, 0.005, 0.5), slider("column", 0.0, 1.0, 0.005, 0.5))
        self.everything = button("explain all images", explorer.explain_all, tooltip="so that they can be sorted")
        self.seeds = dropdown("seed")
        self.methods: dict[str, widgets.ToggleButton] = {}
        self._students = line()
        self._connect()
        steps = line(
            button("previous", lambda: self._step(-1), icon="chevron-left"),
            button("next", lambda: self._step(1), icon="chevron-right"),
        )
        c = self.choices
        self.above = (
            line(c["explainer"], self.options, c["label"], c["contrast"], c["metric"]),
            self._students,
            line(c["sort"], c["only"], c["of_class"], self.everything),
            line(self.position, steps, self.image, self.count),
        )
        self.below = (
            line(c["look"], c["scale"], c["sign"], self.numbers["opacity"], self.numbers["rows"]),
            line(self.numbers["zoom"], self.cursor, *self.at),
        )
        self.renew()

    def renew(self) -> None:
        """Take over what can be chosen: students and images may have been added."""
        explorer, known = self._explorer, self._explorer.comparison
        with explorer._controls_follow():
            groups = known.groups
            for method in groups:
                if method not in self.methods:
                    toggle = widgets.ToggleButton(description=method_label(method), layout=widgets.Layout(width="auto"))
                    toggle.tooltip = f"show {method_label(method)}"
                    toggle.observe(lambda _: self._choose_students(), "value")
                    self.methods[method] = toggle
            several = max(len(names) for names in groups.values()) > 1
            seeds = sorted(
                {name.rpartition("/seed")[2] for names in groups.values() if len(names) > 1 for name in names}
            )
            options = [(f"seed {seed}", seed) for seed in seeds] + [("mean over seeds", "mean"), (_ALL, _ALL)]
            self.seeds.options = [*options, (_CHOSEN, _CHOSEN)] if several else [(_CHOSEN, _CHOSEN)]
            self.seeds.layout.display = None if several else "none"
            self._students.children = (*self.methods.values(), self.seeds)
            self._students.layout.display = None if len(known.students) > 1 else "none"
            classes = [(name, name) for name in known.classes]
            self.choices["of_class"].options = [("all", ""), *classes]
            self.choices["label"].options = [("the image's class", ""), *classes]
            self.choices["contrast"].options = [("the teacher's runner-up", ""), *classes]
            for name in ("label", "contrast"):
                self.choices[name].disabled = known.live is None
            self.options.disabled = known.live is None
        self.follow()

    def follow(self) -> None:
        """Show what the traits say."""
        explorer, known = self._explorer, self._explorer.comparison
        with explorer._controls_follow():
            explainers = list(dict.fromkeys([*known.explainers, explorer.explainer]))
            set_options(
                self.choices["explainer"], [(explainer_label(name), name) for name in explainers], explorer.explainer
            )
            metrics = list(dict.fromkeys([*known.metrics, *METRICS]))
            set_options(self.choices["metric"], [(metric_label(name), name) for name in metrics], explorer.metric)
            for name in ("label", "contrast", "sort", "only", "of_class", "look", "scale", "sign"):
                self.choices[name].value = getattr(explorer, name)
            self.options.value = explorer.explainer.partition(":")[2]
            for name, control in self.numbers.items():
                control.value = getattr(explorer, name)
            self.cursor.value = bool(explorer.cursor)
            for control, value in zip(self.at, explorer.cursor or (0.5, 0.5)):
                control.value, control.layout.display = value, None if explorer.cursor else "none"
            self.numbers["opacity"].layout.display = None if explorer.look == "overlay" else "none"
            self._follow_students()
            self._follow_order()

    def _follow_students(self) -> None:
        shown, known = set(self._explorer.students), self._explorer.comparison
        seeds = {name.rpartition("/")[2].removeprefix("seed") for name in shown if "/" in name}
        groups = {method: set(names) for method, names in known.groups.items()}
        for method, toggle in self.methods.items():
            toggle.value = bool(shown & {*groups.get(method, ()), f"{method}/mean"})
        chosen = [method for method, toggle in self.methods.items() if toggle.value]
        self.seeds.value = next(
            (value for _, value in self.seeds.options if value != _CHOSEN and shown == self._named(chosen, value)),
            (self.seeds.value if len(seeds) == 1 and chosen else None) or _CHOSEN,
        )

    def _follow_order(self) -> None:
        explorer, order = self._explorer, self._explorer.order
        here = explorer.image in order
        self.position.max = max(1, len(order))
        self.position.disabled = self.image.disabled = not order
        if here:
            self.position.value = order.index(explorer.image) + 1
            set_options(self.image, [(key, key) for key in order], explorer.image)
            older = ", in the order of the question before" if explorer.order_is_older else ""
            self.count.value = f"{self.position.value} of {len(order)}{older}"
        else:
            self.count.value = "not among the images chosen" if order else "no such image"

    def _named(self, methods: list[str], seed: str) -> set[str]:
        """The students that a choice of methods and a seed stand for."""
        known, found = self._explorer.comparison, set()
        for method in methods:
            names = known.groups[method]
            if len(names) == 1 or seed == _ALL:
                found |= set(names)
            else:
                found.add(f"{method}/mean" if seed == "mean" else f"{method}/seed{seed}")
        return found & set(known.choices)

    def _choose_students(self) -> None:
        if self._explorer._following:
            return
        if self.seeds.value is None:  # which a front end may send
            self.follow()
            return
        groups = self._explorer.comparison.groups
        of = {name: method for method, names in groups.items() for name in (*names, f"{method}/mean")}
        chosen = [method for method, toggle in self.methods.items() if toggle.value]
        seed = self.seeds.value
        if seed == _CHOSEN:
            shown = self._explorer.students
            kept = [name for name in shown if of[name] in chosen]
            new = [method for method in chosen if method not in {of[name] for name in kept}]
            self._explorer._choose("students", (*kept, *(groups[method][0] for method in new)))
        else:
            self._explorer._choose("students", tuple(self._named(chosen, seed)))

    def _connect(self) -> None:
        explorer = self._explorer
        for name, control in {**self.choices, **self.numbers}.items():
            control.observe(lambda change, name=name: explorer._choose(name, change.new), "value")
        self.options.observe(lambda change: self._set_options(change.new), "value")
        self.seeds.observe(lambda _: self._choose_students(), "value")
        self.position.observe(lambda change: self._go_to(change.new), "value")
        self.image.observe(lambda change: explorer._choose("image", change.new), "value")
        self.cursor.observe(lambda change: explorer._choose("cursor", (0.5, 0.5) if change.new else ()), "value")
        for control in self.at:
            control.observe(lambda _: explorer._choose("cursor", tuple(one.value for one in self.at)), "value")

    def _set_options(self, text: str) -> None:
        base = self._explorer.explainer.partition(":")[0]
        self._explorer._choose("explainer", f"{base}:{text}" if text.strip() else base)

    def _go_to(self, position: int) -> None:
        if 1 <= position <= len(self._explorer.order):  # a filter may have left no image
            self._explorer._choose("image", self._explorer.order[position - 1])

    def _step(self, by: int) -> None:
        order, image = self._explorer.order, self._explorer.image
        if image in order:
            self._go_to(order.index(image) + 1 + by)
