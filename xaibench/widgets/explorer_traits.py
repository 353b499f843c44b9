"""The explorer's traits: what may be set, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import traitlets

from xaibench.attribution.explainers import parse_explainer
from xaibench.errors import ConfigError, unknown_name
from xaibench.figures.gallery import NORMALISATIONS
from xaibench.similarity.maps import SIGNS
from xaibench.similarity.metrics.table import METRICS
from xaibench.widgets.comparison import Comparison
from xaibench.widgets.live import Question
from xaibench.widgets.order import ONLY, SORTS
from xaibench.widgets.panel import Panel, validate
from xaibench.widgets.stage import LOOKS

__all__ = ["ASKED", "DRAWN", "Asked", "ExplorerTraits"]

_MOST_ROWS = 12


@dataclass(frozen=True)
class Asked:
    """The traits that say what is computed."""

    image: str
    students: tuple[str, ...]
    explainer: str
    label: str
    contrast: str
    metric: str
    sign: str
    sort: str
    only: str
    of_class: str
    rows: int

    @property
    def question(self) -> Question:
        return Question(self.explainer, self.label, self.contrast)


ASKED = [field.name for field in fields(Asked)]
DRAWN = ["look", "scale", "opacity", "zoom", "cursor"]
"""Names of the traits that say what is computed, and of those that say how it is drawn."""


class ExplorerTraits(Panel):
    """Traits of `Explorer`, where they are explained. A value that is refused changes nothing."""

    comparison: Comparison

    image = traitlets.Unicode()
    students = traitlets.Tuple()
    explainer = traitlets.Unicode()
    label = traitlets.Unicode()
    contrast = traitlets.Unicode()
    metric = traitlets.Unicode()
    sort = traitlets.Unicode("given")
    only = traitlets.Unicode("all")
    of_class = traitlets.Unicode()
    rows = traitlets.Int(1)
    look = traitlets.Unicode("heatmap")
    scale = traitlets.Unicode("share")
    sign = traitlets.Unicode()
    opacity = traitlets.Float(0.6)
    zoom = traitlets.Float(1.0)
    cursor = traitlets.Tuple()

    @validate("image", "label", "contrast", "metric", "sort", "only", "of_class", "look", "scale", "sign")
    def _known(self, proposal: Any) -> str:
        name, known = proposal.trait.name, self.comparison
        classes = ("", *known.classes)
        valid: dict[str, Any] = {"image": known.keys, "label": classes, "contrast": classes, "of_class": classes}
        valid |= {"metric": METRICS, "sort": SORTS, "only": ONLY, "look": LOOKS, "scale": NORMALISATIONS, "sign": SIGNS}
        if proposal.value not in valid[name]:
            kind = "class" if name in ("label", "contrast", "of_class") else name
            raise unknown_name(kind, proposal.value, valid[name])
        return str(proposal.value)

    @validate("explainer")
    def _known_explainer(self, proposal: Any) -> str:
        parse_explainer(proposal.value)
        if self.comparison.live is None and proposal.value not in self.comparison.explainers:
            raise unknown_name("explainer of these maps", proposal.value, self.comparison.explainers)
        return str(proposal.value)

    @validate("students")
    def _known_students(self, proposal: Any) -> tuple[str, ...]:
        choices = self.comparison.choices
        for model in proposal.value:
            if model not in choices:
                raise unknown_name("student", model, choices)
        return tuple(model for model in choices if model in proposal.value)

    @validate("rows", "opacity", "zoom")
    def _in_range(self, proposal: Any) -> Any:
        name, value = proposal.trait.name, proposal.value
        low, high = {"rows": (1, _MOST_ROWS), "opacity": (0, 1), "zoom": (1, 8)}[name]
        if not low <= value <= high:
            raise ConfigError(f"{name} must lie between {low} and {high}, got {value}")
        return value

    @validate("cursor")
    def _on_image(self, proposal: Any) -> tuple[float, ...]:
        value = tuple(proposal.value)
        if value and not (len(value) == 2 and all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in value)):
            raise ConfigError(f"cursor must be () or (row, column) as shares of the sides, got {value!r:.60}")
        return value
