"""Layer-wise relevance propagation, and the checks that tell whether a network allows it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.attribution.base import Maps, logits_of, reason
from xaibench.attribution.checks import Check, at_most
from xaibench.attribution.differentiation import alone_check, never_alone
from xaibench.attribution.lrp.composites import CANONIZERS, COMPOSITES, Options
from xaibench.attribution.lrp.missing_rules import Coverage, Trail
from xaibench.attribution.lrp.mode import RelevanceMode, shared_copy
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, unknown_name
from xaibench.options import check_types

__all__ = ["CANONIZERS", "COMPOSITES", "LRP"]

OUTPUT_TOLERANCE = 1e-3
CONSERVATION_TOLERANCE = 1e-3
_TINY = 1e-30

# What torch, zennit or a network may raise where the rules do not fit it.
_MISFIT = (RuntimeError, AttributeError, KeyError, TypeError, ValueError, IndexError, NotImplementedError)


@dataclass(frozen=True)
class LRP:
    """Relevance R with sum R = z_y - z_r, less what biases take, propagated backwards layer by layer.

    Relevance starts as z_y at y and -z_r at r and runs back through the rules of `composite`:

    epsilon-gamma-box  box rule in the first convolution (bounds from the preprocessing), gamma rule in the others,
                       epsilon rule in linear layers
    epsilon-plus       z+ rule in convolutions, epsilon rule in linear layers
    epsilon-plus-flat  as epsilon-plus, with the flat rule in the first layer
    alpha2-beta1       alpha-beta rule (2, 1) in convolutions, epsilon rule in linear layers

    The z+ and alpha-beta rules conserve relevance only where an output has contributions of each sign that they use;
    depthwise convolutions have outputs without, and `validate` tells.

    gamma      how much positive weights are favoured, >= 0; of epsilon-gamma-box alone
    epsilon    stabiliser of the linear layers, > 0
    canonizer  "auto": batch normalisation is folded into the layer before it, and operations are given their rules
               wherever they are called from (see `RelevanceMode`): residual sums, gates, layer normalisation,
               attention. A name of CANONIZERS: zennit alone, with its canonizer and its rules for modules

    Source: Bach et al. 2015; Montavon et al. 2019 (gamma, composites); Ali et al. 2022 (attention weights and 1/sigma
    held constant); defaults as in arXiv 2601.05913.
    """

    name: ClassVar[str] = "lrp"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "zennit")
    kept: ClassVar[int] = 0

    composite: str = "epsilon-gamma-box"
    gamma: float = 1.0
    epsilon: float = 1e-6
    canonizer: str = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        if self.composite not in COMPOSITES:
            raise unknown_name("LRP composite", self.composite, COMPOSITES)
        if self.canonizer != "auto" and self.canonizer not in CANONIZERS:
            raise unknown_name("canonizer", self.canonizer, ["auto", *CANONIZERS])
        if not 0 <= self.gamma < float("inf"):
            raise ConfigError(f"gamma must be a finite number >= 0, got {self.gamma}")
        if not 0 < self.epsilon < float("inf"):
            raise ConfigError(f"epsilon must be a finite number > 0, got {self.epsilon}")
        if self.gamma != type(self).gamma and not COMPOSITES[self.composite].gamma:
            users = " or ".join(name for name, composite in COMPOSITES.items() if composite.gamma)
            raise ConfigError(
                f"composite '{self.composite}' has no gamma rule, got gamma={self.gamma}: "
                f"leave gamma out, or use {users}"
            )

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Refuse inputs that the preprocessing cannot produce where the box rule is used."""
        if not COMPOSITES[self.composite].box:
            return
        low, high = _bounds(preprocessing, x)
        outside = self._options(low, high).outside(x)
        if bool(outside.any()):
            image, channel, row, column = outside.nonzero()[0].tolist()
            raise ExplanationError(
                f"input {image} has the value {float(x[image, channel, row, column]):.4g} "
                f"in channel {channel}, "
                f"but pixels 0..255 give {float(low[0, channel]):.4g} to {float(high[0, channel]):.4g}: "
                "make it with the model's own preprocessing"
            )

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, points: int) -> Maps:
        """Relevance (N, C, H, W) of one batch; references of the box rule: its bounds `low`, `high` (1, C, 1, 1)."""
        low, high = _bounds(preprocessing, x)
        _, relevance = self._propagate(model, x, target, low, high)
        return Maps(relevance, {"low": low, "high": high} if COMPOSITES[self.composite].box else {})

    @contextmanager
    def modified(
        self, model: nn.Module, preprocessing: Preprocessing, device: torch.device | str | None = None
    ) -> Iterator[nn.Module]:
        """Within the block, a copy of `model` in which autograd gives relevance in place of gradients.

        With logits = copy(x), x (N, C, H, W) requiring gradients, the gradient of the logits with grad_outputs = R
        (N, K) with respect to x, or to the output of any layer (`layer_outputs.tapped`), is the relevance of R there.
        Layers keep their names; a batch normalisation that was folded gives what the layer before it gives.

        device  where the copy lies; None: where `model` does
        """
        work = _quiet(copy.deepcopy(model)).to(device)
        like = next(work.parameters(), torch.empty(0, device=device))
        with self._context(work, *_bounds(preprocessing, like)) as canonised:
            yield canonised

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """Every operation has a rule, the canonised model computes the same, relevance is conserved.

        operations without a rule   how many computations there are for which the composite has no rule and which
                                    would hand on the plain gradient, or that add what gradients do not reach
                                    (torch.no_grad, detach) although it depends on the image
        output difference           max |z_canonised - z_plain| / max |z_plain|
        conservation error          with all biases and other added constants zeroed, the largest
                                    |sum R - f| / max(|f|, median |f|) over the images, f = z_y - z_r of that
                                    network; the median keeps nearly equal logits from dividing by nearly 0
        change in a batch           |R alone - R in a batch| / |R| of the first image
        """
        low, high = _bounds(preprocessing, x)
        plain = logits_of(model, x)
        try:
            canonised, uncovered = self._covered(model, x, low, high)
            difference = float(
                (canonised - plain).abs().max() / plain.abs().max().clamp(min=torch.finfo(plain.dtype).tiny)
            )
            note = "the canonised copy computes something else"
        except ExplanationError:
            raise
        except _MISFIT as error:
            uncovered, difference, note = (
                Counter(),
                float("nan"),
                f"LRP cannot take this network: {reason(error)}",
            )
        listed = ", ".join(f"{name} in {where}" for (name, where), _ in uncovered.most_common(4))
        checks = [
            at_most(
                "operations without an LRP rule",
                sum(uncovered.values()),
                0,
                f"{listed}: {self._remedy}" if uncovered else "",
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
            error_value, note = float("nan"), f"LRP cannot take this network: {reason(error)}"
        checks.append(at_most("LRP conservation error", error_value, CONSERVATION_TOLERANCE, note))
        if all(check.passed for check in checks):
            checks.append(self._alone(model, x, target, low, high))
        return tuple(checks)

    def judge(self, measured: Mapping[str, Tensor]) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """Nothing beyond what `validate` measured: biases take up relevance, so maps have no exact sum."""
        return (), ()

    def in_words(self, measured: Mapping[str, Tensor]) -> str:
        """Nothing is measured."""
        return ""

    @property
    def _remedy(self) -> str:
        if self.canonizer == "auto":
            return "explain this network with another method"
        return "zennit's rules are for nn.Module layers, use canonizer=auto"

    def _options(self, low: Tensor, high: Tensor, bare: bool = False) -> Options:
        # Stabilisers take relevance, biases do: without them it is conserved.
        return Options(_TINY, self.gamma, low, high, _TINY) if bare else Options(self.epsilon, self.gamma, low, high)

    def _copy(self, model: nn.Module) -> nn.Module:
        # zennit works on the values in place, our rules do not.
        return _quiet(shared_copy(model) if self.canonizer == "auto" else copy.deepcopy(model))

    def _context(
        self, work: nn.Module, low: Tensor, high: Tensor, bare: bool = False
    ) -> AbstractContextManager[nn.Module]:
        """`work`, a copy of our own, within the block made to propagate relevance."""
        composite, options = COMPOSITES[self.composite], self._options(low, high, bare)
        if self.canonizer == "auto":
            return RelevanceMode(composite.rules(options), bare).installed(work)
        if bare:
            for name, value in [*work.named_parameters(), *work.named_buffers()]:
                if name.rpartition(".")[2] in ("bias", "running_mean"):
                    value.detach().zero_()
        context: AbstractContextManager[nn.Module] = composite.zennit(options, CANONIZERS[self.canonizer]()).context(
            work
        )
        return context

    def _propagate(
        self, model: nn.Module, x: Tensor, target: Target, low: Tensor, high: Tensor, bare: bool = False
    ) -> tuple[Tensor, Tensor]:
        x = x.detach().clone().requires_grad_()
        with self._context(self._copy(model), low, high, bare) as canonised, torch.enable_grad():
            logits = never_alone(canonised, x)
            (relevance,) = torch.autograd.grad(logits, x, grad_outputs=_initial_relevance(logits.detach(), target))
        return logits.detach(), relevance.detach()

    def _covered(
        self, model: nn.Module, x: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Counter[tuple[str, str]]]:
        work, composite, options = self._copy(model), COMPOSITES[self.composite], self._options(low, high)
        mode = RelevanceMode(composite.rules(options))
        if self.canonizer == "auto":
            with mode.installed(work), torch.enable_grad():
                trail = mode.trail = Trail(work)
                logits = never_alone(work, x.detach().clone().requires_grad_())
                missing = trail.missing_rules(logits)
                constants, trail.constants = trail.constants, []
                never_alone(work, _noise(x, low, high).requires_grad_())
            return logits.detach(), missing + trail.changed_since(constants)
        if composite.box:
            with mode.installed(self._copy(model)) as read, torch.enable_grad():
                read(x.detach().clone().requires_grad_())  # refuses what is no first convolution for the box rule
        zennit = composite.zennit(options, CANONIZERS[self.canonizer]())
        with zennit.context(work) as canonised, Coverage(canonised, zennit) as coverage:
            logits = logits_of(canonised, x)
        return logits, coverage.uncovered

    def _alone(self, model: nn.Module, x: Tensor, target: Target, low: Tensor, high: Tensor) -> Check:
        if len(x) == 1:
            x, target = torch.cat([x, x.flip(3)]), target.take([0, 0])
        beside = self._propagate(model, x, target, low, high)[1][:1]
        alone = self._propagate(model, x[:1], target.take([0]), low, high)[1]
        return alone_check("relevance", alone, beside)

    def _conservation_error(self, model: nn.Module, x: Tensor, target: Target, low: Tensor, high: Tensor) -> float:
        logits, relevance = self._propagate(model, x, target, low, high, bare=True)
        wanted = target.select(logits.cpu().double())
        scale = wanted.abs().clamp(min=float(wanted.abs().median()))
        total = relevance.flatten(1).cpu().double().sum(dim=1)
        return float(((total - wanted).abs() / scale).max())


def _quiet(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode, without gradients to its parameters, its activations not in place."""
    for module in model.eval().requires_grad_(False).modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return model


def _bounds(preprocessing: Preprocessing, like: Tensor) -> tuple[Tensor, Tensor]:
    low, high = preprocessing.bounds()
    return low.to(like), high.to(like)


def _noise(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Other images than x: uniform noise between the bounds, always the same."""
    uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    return low.to(x) + uniform * (high - low).to(x)


def _initial_relevance(logits: Tensor, target: Target) -> Tensor:
    """z_y at y, -z_r at r, 0 elsewhere: (N, K)."""
    classes = torch.stack([target.label, target.contrast], dim=1).to(logits.device)
    signs = logits.new_tensor([1.0, -1.0])
    return torch.zeros_like(logits).scatter(1, classes, logits.gather(1, classes) * signs)
