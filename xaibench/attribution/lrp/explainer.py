"""Layer-wise relevance propagation, and the checks that tell whether a network allows it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaibench.attribution.base import Maps, logits_of, reason
from xaibench.attribution.batch_size import Room
from xaibench.attribution.checks import Check, at_most
from xaibench.attribution.completeness import judge_images
from xaibench.attribution.differentiation import alone_check
from xaibench.attribution.lrp.attention import ATTENDS, Called
from xaibench.attribution.lrp.books import LOSSES, Loss, in_words, share_of
from xaibench.attribution.lrp.canonised import IMBALANCE_TOLERANCE, Canonised, quiet
from xaibench.attribution.lrp.composites import ATTENTION, CANONIZERS, COMPOSITES, Options
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, unknown_name
from xaibench.options import check_types

__all__ = ["CANONIZERS", "COMPOSITES", "LRP"]

OUTPUT_TOLERANCE = 1e-3
CONSERVATION_TOLERANCE = 1e-3
LOST_TOLERANCE = 0.02
# What has a rule where attention weights are held constant, whatever its arguments.
_HELD_CONSTANT = frozenset({"softmax", "scaled_dot_product_attention"})

# What torch, zennit or a network may raise where the rules do not fit it.
_MISFIT = (RuntimeError, AttributeError, LookupError, TypeError, ValueError)


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
    attention  "attnlrp": relevance passes attention through the values and through softmax, by a Taylor expansion, to
               queries and keys; a product of two signals gives half to each (AttnLRP). "constant": its weights are held
               constant (CP-LRP)
    linear_gamma  gamma rule, with this gamma, in linear layers that read several places (tokens, not the head's);
               0: epsilon rule
    canonizer  "auto": batch normalisation is folded into the layer before it, and operations are given their rules
               wherever they are called from (see `RelevanceMode`): residual sums, gates, layer normalisation,
               attention. A name of CANONIZERS: zennit alone, with its canonizer and its rules for modules

    Source: Bach et al. 2015; Montavon et al. 2019 (gamma, composites); Ali et al. 2022 (attention weights and 1/sigma
    held constant); Achtibat et al. 2024, arXiv 2402.05602 (AttnLRP); defaults as in arXiv 2601.05913.
    """

    name: ClassVar[str] = "lrp"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "zennit")
    kept: ClassVar[int] = 0

    composite: str = "epsilon-gamma-box"
    gamma: float = 1.0
    epsilon: float = 1e-6
    canonizer: str = "auto"
    attention: str = "attnlrp"
    linear_gamma: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        if self.composite not in COMPOSITES:
            raise unknown_name("LRP composite", self.composite, COMPOSITES)
        if self.canonizer != "auto" and self.canonizer not in CANONIZERS:
            raise unknown_name("canonizer", self.canonizer, ["auto", *CANONIZERS])
        if self.attention not in ATTENTION:
            raise unknown_name("attention", self.attention, ATTENTION)
        for name in ("gamma", "linear_gamma"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be a finite number >= 0, got {getattr(self, name)}")
        if not 0 < self.epsilon < float("inf"):
            raise ConfigError(f"epsilon must be a finite number > 0, got {self.epsilon}")
        if self.gamma != type(self).gamma and not COMPOSITES[self.composite].gamma:
            users = " or ".join(name for name, composite in COMPOSITES.items() if composite.gamma)
            raise ConfigError(
                f"composite '{self.composite}' has no gamma rule, got gamma={self.gamma}: "
                f"leave gamma out, or use {users}"
            )
        for name in ("attention", "linear_gamma"):
            if self.canonizer != "auto" and getattr(self, name) != getattr(type(self), name):
                raise ConfigError(
                    f"{name}={getattr(self, name)} needs canonizer=auto, got canonizer={self.canonizer}: "
                    f"leave out {name} or canonizer"
                )

    def check_input(self, x: Tensor, preprocessing: Preprocessing) -> None:
        """Refuse inputs that the preprocessing cannot produce where the box rule is used."""
        if not COMPOSITES[self.composite].box:
            return
        options = self._options(preprocessing, x)
        outside = options.outside(x)
        if bool(outside.any()):
            image, channel, row, column = outside.nonzero()[0].tolist()
            low, high = (float(bound[0, channel]) for bound in (options.low, options.high))
            raise ExplanationError(
                f"input {image} has the value {float(x[image, channel, row, column]):.4g} "
                f"in channel {channel}, "
                f"but pixels 0..255 give {low:.4g} to {high:.4g}: "
                "make it with the model's own preprocessing"
            )

    def attribute(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing, room: Room) -> Maps:
        """Relevance (N, C, H, W) of one batch; references of the box rule: its bounds `low`, `high` (1, C, 1, 1).

        Measured for each image: `explained`, f = z_y - z_r of the canonised network, and with canonizer=auto

        absorbed_...  what each of `books.KINDS` absorbs: sum R + all absorbed = f
        imbalance     |sum R + all absorbed - f| / (|z_y| + |z_r| + sum |R| + sum |absorbed|): nothing but rounding
        """
        network = self._canonised(model, preprocessing, x)
        bounds = {"low": network.options.low, "high": network.options.high}
        relevance, measured = network.balanced(x, target)
        return Maps(relevance, bounds if COMPOSITES[self.composite].box else {}, measured)

    def written(self, model: nn.Module, x: Tensor, preprocessing: Preprocessing, plain: int) -> int:
        """Held constant, attention is one operation, as it is in the model; else it is written out."""
        if self.attention == "constant" or self.canonizer != "auto":
            return plain
        try:
            with Called() as called, torch.enable_grad():
                model(x.clone().requires_grad_())
            if not called.names & ATTENDS:
                return plain
            return self._canonised(model, preprocessing, x).written(x)
        except (ExplanationError, *_MISFIT):
            return plain  # `validate` tells what is wrong

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
        work = quiet(copy.deepcopy(model)).to(device)
        like = next(work.parameters(), torch.empty(0, device=device))
        with self._canonised(work, preprocessing, like).context(work) as canonised:
            yield canonised

    def validate(self, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> tuple[Check, ...]:
        """Every operation has a rule, the canonised model computes the same, no relevance is made or lost.

        operations without a rule   how many computations there are for which the composite has no rule and which
                                    would hand on the plain gradient, or that add what gradients do not reach
                                    (torch.no_grad, detach) although it depends on the image
        output difference           max |z_canonised - z_plain| / max |z_plain|
        conservation error          the largest imbalance, see `attribute`; with zennit's canonizers that of the
                                    network with all biases zeroed, see `Canonised.error_without_biases`
        relevance without a taker   the largest |absorbed_missing_sign| / (|f| + sum |absorbed|): where outputs have no
                                    contributions of a sign that the rule uses; only where there is some
        relevance left to stabilisers   likewise of absorbed_stabiliser, where `epsilon` is left as it is
        change in a batch           |R alone - R in a batch| / |R| of the first image
        """
        network = self._canonised(model, preprocessing, x)
        plain = logits_of(model, x)
        try:
            canonised, uncovered = network.covered(x)
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
        remedy = self._remedy({name for name, _ in uncovered})
        checks = [
            at_most(
                "operations without an LRP rule",
                sum(uncovered.values()),
                0,
                f"{listed}: {remedy}" if uncovered else "",
            ),
            at_most(
                "relative output difference",
                difference,
                OUTPUT_TOLERANCE,
                note if not difference <= OUTPUT_TOLERANCE else "",
            ),
        ]
        try:
            relevance, measured = network.balanced(x, target)
            checks += self._conservation(network, x, target, measured)
        except _MISFIT as error:
            note = f"LRP cannot take this network: {reason(error)}"
            checks.append(at_most("LRP conservation error", float("nan"), CONSERVATION_TOLERANCE, note))
        if all(check.passed for check in checks):
            checks.append(_alone(network, x, target, relevance[:1]))
        return tuple(checks)

    def judge(self, measured: Mapping[str, Tensor]) -> tuple[tuple[Check, ...], tuple[int, ...]]:
        """The relevance of every map and what was absorbed on its way sum to the explained output, but for rounding.

        An image is flagged where more than 2% of its relevance has no taker or is left to stabilisers, as `validate`
        tells of the first ones. Nothing with zennit's canonizers, which do not tell what is absorbed.
        """
        if "imbalance" not in measured:
            return (), ()
        worst = float(measured["imbalance"].max())
        note = "largest |sum of relevance and of what is absorbed - explained output| of an image, relative"
        checks = [at_most("imbalance of LRP's books", worst, IMBALANCE_TOLERANCE, f"{note}; {in_words(measured)}")]
        flagged: set[int] = set()
        for loss, lost in self._lost(measured):
            if bool((lost > LOST_TOLERANCE).any()):
                what = f"maps lose over {LOST_TOLERANCE:.0%} of their relevance, as {loss.reason}"
                shares, images = judge_images(lost > LOST_TOLERANCE, what, loss.remedy)
                checks += shares
                flagged |= set(images)
        return tuple(checks), tuple(sorted(flagged))

    def in_words(self, measured: Mapping[str, Tensor]) -> str:
        """How much of z_y - z_r the map accounts for, and how much biases, constants and stabilisers absorb."""
        return in_words(measured) if "imbalance" in measured else ""

    def _conservation(
        self, network: Canonised, x: Tensor, target: Target, measured: Mapping[str, Tensor]
    ) -> Iterator[Check]:
        if network.by_zennit:
            error = network.error_without_biases(x, target)
            note = "sum of relevance against the explained output, biases zeroed"
            yield at_most("LRP conservation error", error, CONSERVATION_TOLERANCE, note)
            return
        note = "sum of relevance and of what is absorbed against the explained output"
        yield at_most("LRP conservation error", float(measured["imbalance"].max()), IMBALANCE_TOLERANCE, note)
        for loss, lost in self._lost(measured):
            if bool(lost.any()):
                note = f"{loss.reason}: {loss.remedy}"
                yield at_most(f"share of relevance {loss.name}", float(lost.max()), LOST_TOLERANCE, note)

    def _lost(self, measured: Mapping[str, Tensor]) -> Iterator[tuple[Loss, Tensor]]:
        """What gets lost, and the share (N,) of each image's relevance; an epsilon of one's own is asked for."""
        for kind, loss in LOSSES.items():
            if kind != "stabiliser" or self.epsilon == type(self).epsilon:
                yield loss, share_of(kind, measured)

    def _remedy(self, missing: Set[str]) -> str:
        """What helps where these operations have no rule."""
        if self.canonizer != "auto":
            return "zennit's rules are for nn.Module layers, use canonizer=auto"
        if self.attention != "constant" and missing & _HELD_CONSTANT:
            return "use attention=constant, or explain this network with another method"
        return "explain this network with another method"

    def _options(self, preprocessing: Preprocessing, like: Tensor) -> Options:
        low, high = (bound.to(like) for bound in preprocessing.bounds())
        return Options(self.epsilon, self.gamma, low, high, linear_gamma=self.linear_gamma, attention=self.attention)

    def _canonised(self, model: nn.Module, preprocessing: Preprocessing, like: Tensor) -> Canonised:
        return Canonised(model, self.composite, self.canonizer, self._options(preprocessing, like))


def _alone(network: Canonised, x: Tensor, target: Target, first: Tensor) -> Check:
    """`first`: relevance of the first image among x, which is the only one or has others beside it."""
    if len(x) > 1:
        return alone_check("relevance", network.relevance(x[:1], target.take([0]))[1], first)
    beside = network.relevance(torch.cat([x, x.flip(3)]), target.take([0, 0]))[1][:1]
    return alone_check("relevance", first, beside)
