"""The traits of a training panel, which are its interface, and what each of them takes."""

from __future__ import annotations

import re
from typing import Any

import traitlets

from xaibench.distillation.methods import method_name, parse_method
from xaibench.distillation.recipe import Recipe, parse_recipe
from xaibench.errors import ConfigError
from xaibench.models.layer_outputs import layer_module
from xaibench.models.layer_pairs import parse_layers
from xaibench.models.pair import ModelPair
from xaibench.validation import check_seed
from xaibench.widgets.panel import Panel, validate

__all__ = ["TrainingTraits"]

_STATES = ("idle", "training", "cancelled", "finished")


class TrainingTraits(Panel):
    """Settings of the next training, and how far the present one is; see `TrainingPanel`."""

    method = traitlets.Unicode("subdistill")
    epochs = traitlets.Int(10)
    lr = traitlets.Float(1e-3)
    seed = traitlets.Int(0)
    layers = traitlets.Tuple()
    recipe = traitlets.Unicode()
    state = traitlets.Enum(_STATES, "idle", read_only=True)
    epoch = traitlets.Int(0, read_only=True)
    students = traitlets.Dict(read_only=True)
    _pair: ModelPair

    @validate("method")
    def _known_method(self, proposal: Any) -> str:
        return method_name(parse_method(proposal.value))

    @validate("epochs", "lr")
    def _known_number(self, proposal: Any) -> Any:
        Recipe(**{proposal.trait.name: proposal.value})
        return proposal.value

    @validate("seed")
    def _known_seed(self, proposal: Any) -> int:
        return check_seed(proposal.value)

    @validate("recipe")
    def _known_recipe(self, proposal: Any) -> str:
        parse_recipe(proposal.value)
        for name in re.findall(r"(\w+)\s*=", proposal.value):
            if name in ("epochs", "lr"):
                raise ConfigError(f"{name} is a trait of its own: leave it out of the recipe and set {name}")
        return str(proposal.value)

    @validate("layers")
    def _known_layers(self, proposal: Any) -> tuple[str, ...]:
        specs = [":".join(spec) if _is_pair(spec) else spec for spec in proposal.value]
        for spec in specs:
            if not isinstance(spec, str):
                raise ConfigError(f"layers must be texts as 'layer1:layer1' or (teacher, student), got {spec!r:.60}")
        pairs = parse_layers(specs)
        for teacher, student in pairs:
            layer_module(self._pair.teacher_network, teacher)
            layer_module(self._pair.student, student)
        return tuple(map(str, pairs))


def _is_pair(spec: Any) -> bool:
    """Whether it is (teacher, student), as a `LayerPair` is."""
    return isinstance(spec, tuple) and len(spec) == 2 and all(isinstance(name, str) for name in spec)
