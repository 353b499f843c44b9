"""Layer-wise relevance propagation through zennit, and the checks that tell whether a network allows it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.models import VGG
from torchvision.models.resnet import BasicBlock, Bottleneck
from zennit.canonizers import Canonizer, SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox
from zennit.core import Composite
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import Convolution

from xaibench.attribution.base import Maps, logits_of, reason
from xaibench.attribution.coverage import Coverage
from xaibench.attribution.rules import NonNegativeGamma
from xaibench.attribution.targets import Target
from xaibench.attribution.validity import Check, at_most
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, unknown_name

__all__ = ["CANONIZERS", "COMPOSITES", "LRP"]

OUTPUT_TOLERANCE = 1e-3
CONSERVATION_TOLERANCE = 1e-3
_BOX_SLACK = 1e-4
_SCALE = 2.0**16

# What zennit or a network may raise where a composite does not fit it.
_MISFIT = (RuntimeError, AttributeError, KeyError, TypeError, ValueError, IndexError, NotImplementedError)

CANONIZERS: dict[str, Callable[[], list[Canonizer]]] = {
    "none": list,
    "resnet": lambda: [ResNetCanonizer()],
    "sequential": lambda: [SequentialMergeBatchNorm()],
    "vgg": lambda: [VGGCanonizer()],
}


def _epsilon_gamma_box(options: LRP, low: Tensor, high: Tensor, canonizers: list[Canonizer]) -> Composite:
    return EpsilonGammaBox(
        low=low,
        high=high,
        epsilon=options.epsilon,
        gamma=options.gamma,
        layer_map=[(Convolution, NonNegativeGamma(options.gamma))],
        canonizers=canonizers,
    )


COMPOSITES: dict[str, Callable[[LRP, Tensor, Tensor, list[Canonizer]], Composite]] = {
    "epsilon-gamma-box": _epsilon_gamma_box,
}


@dataclass(frozen=True)
class LRP:
    """Relevance R with sum R = z_y - z_r, propagated backwards layer by layer (zennit).

    Relevance starts as z_y at y and -z_r at r and runs back through the rules of `composite`:
    "epsilon-gamma-box": box rule in the first convolution (bounds from the preprocessing), gamma rule in the
    others, epsilon rule in linear layers.

    gamma      how much positive weights are favoured, >= 0
    epsilon    stabiliser of the linear layers, > 0
    canonizer  "auto" (by architecture: resnet, vgg, else sequential merging) or a name of CANONIZERS

    Source: Bach et al. 2015; Montavon et al. 2019 (gamma); defaults as in arXiv 2601.05913.
    """

    name: ClassVar[str] = "lrp"
    batch_size: ClassVar[int] = 32
    libraries: ClassVar[tuple[str, ...]] = ("torch", "zennit")

    composite: str = "epsilon-gamma-box"
    gamma: float = 1.0
    epsilon: float = 1e-6
    canonizer: str = "auto"

    def __post_init__(self) -> None:
        if self.composite not in COMPOSITES:
            raise unknown_name("LRP composite", self.composite, COMPOSITES)
        if self.canonizer != "auto" and self.canonizer not in CANONIZERS:
            raise unknown_name("canonizer", self.canonizer, ["auto", *CANONIZERS])
        if not 0 <= self.gamma < float("inf"):
            raise ConfigError(f"gamma must be a finite number >= 0, got {self.gamma}")
        if not 0 < self.epsilon < float("inf"):
            raise ConfigError(f"epsilon must be a finite number > 0, got {self.epsilon}")

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Refuse inputs that the preprocessing cannot produce: the box rule is not defined there."""
        low, high = preprocessing.bounds(x.device)
        slack = _BOX_SLACK * (high - low)
        outside = (x < low - slack) | (x > high + slack)
        if bool(outside.any()):
            image, channel, row, column = outside.nonzero()[0].tolist()
            raise ExplanationError(
                f"input {image} has the value {float(x[image, channel, row, column]):.4g} "
                f"in channel {channel}, "
                f"but pixels 0..255 give {float(low[0, channel]):.4g} to {float(high[0, channel]):.4g}: "
                "make it with the model's own preprocessing"
            )

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> Maps:
        """Relevance (N, C, H, W) of one batch; references: box bounds `low`, `high` (1, C, 1, 1)."""
        low, high = preprocessing.bounds(x.device)
        _, relevance = self._propagate(model, x, target, low, high)
        return Maps(relevance, {"low": low, "high": high})

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """Every operation has a rule, the canonised model computes the same, relevance is conserved.

        operations without a rule   how many computations of a forward pass happen outside modules that the
                                    composite knows; there zennit silently uses the plain gradient
        output difference           max |z_canonised - z_plain| / max |z_plain|
        conservation error          with all biases and batch-norm shifts zeroed, the largest
                                    |sum R - f| / max(|f|, median |f|) over the images, f = z_y - z_r of that
                                    network; the median keeps nearly equal logits from dividing by nearly 0
        """
        low, high = preprocessing.bounds(x.device)
        plain = logits_of(model, x)
        try:
            canonised, uncovered = self._forward(model, x, low, high)
            difference = float(
                (canonised - plain).abs().max() / plain.abs().max().clamp(min=torch.finfo(plain.dtype).tiny)
            )
            note = "zennit's canonised copy computes something else"
        except _MISFIT as error:
            uncovered, difference, note = (
                Counter(),
                float("nan"),
                f"zennit cannot take this network: {reason(error)}",
            )
        listed = ", ".join(f"{name} in {where}" for (name, where), _ in uncovered.most_common(4))
        checks = [
            at_most(
                "operations without an LRP rule",
                sum(uncovered.values()),
                0,
                f"{listed}: LRP needs nn.Module layers and a known canonizer" if uncovered else "",
            ),
            at_most(
                "relative output difference",
                difference,
                OUTPUT_TOLERANCE,
                note if not difference <= OUTPUT_TOLERANCE else "",
            ),
        ]
        try:
            error_value = self._conservation_error(model, x, target, low, high)
            note = "sum of relevance against the explained output, biases zeroed"
        except _MISFIT as error:
            error_value, note = float("nan"), f"zennit cannot take this network: {reason(error)}"
        checks.append(at_most("LRP conservation error", error_value, CONSERVATION_TOLERANCE, note))
        return tuple(checks)

    def judge(self, residual: Tensor | None) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """Nothing beyond what `validate` measured: biases take up relevance, so maps have no exact sum."""
        return (), ()

    def _composite(self, model: nn.Module, low: Tensor, high: Tensor) -> Composite:
        canonizer = _canonizer_for(model) if self.canonizer == "auto" else self.canonizer
        return COMPOSITES[self.composite](self, low, high, CANONIZERS[canonizer]())

    def _propagate(
        self, model: nn.Module, x: Tensor, target: Target, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        # A canonizer rewrites its module and does not always put everything back: it gets its own copy.
        x = x.detach().clone().requires_grad_()
        with (
            self._composite(model, low, high).context(copy.deepcopy(model)) as canonised,
            torch.enable_grad(),
        ):
            logits = canonised(x)
            (relevance,) = torch.autograd.grad(logits, x, grad_outputs=_initial_relevance(logits.detach(), target))
        return logits.detach(), relevance.detach()

    def _forward(
        self, model: nn.Module, x: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Counter[tuple[str, str]]]:
        composite = self._composite(model, low, high)
        with (
            composite.context(copy.deepcopy(model)) as canonised,
            Coverage(canonised, composite) as coverage,
        ):
            logits = logits_of(canonised, x)
        return logits, coverage.uncovered

    def _conservation_error(self, model: nn.Module, x: Tensor, target: Target, low: Tensor, high: Tensor) -> float:
        bare = copy.deepcopy(model)
        for name, value in [*bare.named_parameters(), *bare.named_buffers()]:
            if name.rpartition(".")[2] in ("bias", "running_mean"):
                value.detach().zero_()
        # Without biases f(s x) = s f(x): a large s makes the rules' stabilisers, which take relevance, small.
        logits, relevance = self._propagate(bare, x * _SCALE, target, low * _SCALE, high * _SCALE)
        wanted = target.select(logits.cpu().double())
        scale = wanted.abs().clamp(min=float(wanted.abs().median()))
        total = relevance.flatten(1).cpu().double().sum(dim=1)
        return float(((total - wanted).abs() / scale).max())


def _initial_relevance(logits: Tensor, target: Target) -> Tensor:
    """z_y at y, -z_r at r, 0 elsewhere: (N, K)."""
    classes = torch.stack([target.label, target.contrast], dim=1).to(logits.device)
    signs = logits.new_tensor([1.0, -1.0])
    return torch.zeros_like(logits).scatter(1, classes, logits.gather(1, classes) * signs)


def _canonizer_for(model: nn.Module) -> str:
    for module in model.modules():
        if isinstance(module, (BasicBlock, Bottleneck)):
            return "resnet"
        if isinstance(module, VGG):
            return "vgg"
    return "sequential"
