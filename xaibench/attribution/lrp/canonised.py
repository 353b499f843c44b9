"""Relevance passes of a network: by our rules, or by zennit alone."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xaibench.attribution.base import logits_of
from xaibench.attribution.batch_size import observed_forward
from xaibench.attribution.differentiation import never_alone
from xaibench.attribution.lrp.books import Books
from xaibench.attribution.lrp.composites import COMPOSITES, Options, rules_of
from xaibench.attribution.lrp.missing_rules import Coverage, Trail
from xaibench.attribution.lrp.mode import RelevanceMode, fold_norms, shared_copy
from xaibench.attribution.targets import Target

if TYPE_CHECKING:
    from zennit.core import Composite

__all__ = ["IMBALANCE_TOLERANCE", "Canonised", "quiet"]

IMBALANCE_TOLERANCE = 1e-5  # float32 rounding: at most 2e-6 was seen, on the 23 networks of the tests
_TINY = 1e-30


@dataclass(frozen=True)
class Canonised:
    """A network with a composite and a canonizer, "auto" or one of zennit's; `model` itself is never changed."""

    model: nn.Module
    composite: str
    canonizer: str
    options: Options
    _folded: list[nn.Module] = field(default_factory=list, init=False, repr=False, compare=False)  # at most one

    @property
    def by_zennit(self) -> bool:
        """Whether zennit propagates, alone."""
        return self.canonizer != "auto"

    def _zennit(self) -> Composite:
        from xaibench.attribution.lrp.by_zennit import zennit_composite

        return zennit_composite(self.composite, self.canonizer, self.options)

    def context(self, work: nn.Module) -> AbstractContextManager[nn.Module]:
        """`work`, a copy, within the block made to propagate relevance."""
        if not self.by_zennit:
            return self._mode().installed(work)
        context: AbstractContextManager[nn.Module] = self._zennit().context(work)
        return context

    def _mode(self, books: Books | None = None) -> RelevanceMode:
        return RelevanceMode(rules_of(self.composite, self.options), books)

    @contextmanager
    def _copy(self, mode: RelevanceMode, x: Tensor) -> Iterator[nn.Module]:
        """A copy that propagates relevance; all share the model's values, and those of what is folded once."""
        if not self._folded:
            folded = quiet(shared_copy(self.model))
            fold_norms(folded, shared_copy(folded), x)
            self._folded.append(folded)
        with mode.installed(shared_copy(self._folded[0]), fold_first=False) as work, torch.enable_grad():
            yield work

    def _apart(self) -> nn.Module:
        """A copy with values of its own: zennit changes them in place."""
        return quiet(copy.deepcopy(self.model))

    @contextmanager
    def _zennit_copy(self) -> Iterator[nn.Module]:
        """A copy that propagates relevance by zennit."""
        with self._zennit().context(self._apart()) as work, torch.enable_grad():
            yield work

    def relevance(self, x: Tensor, target: Target, books: Books | None = None) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and relevance (N, C, H, W) of images x."""
        x = x.detach().clone().requires_grad_()
        with self._zennit_copy() if self.by_zennit else self._copy(self._mode(books), x) as canonised:
            logits = never_alone(canonised, x)
            (relevance,) = torch.autograd.grad(logits, x, grad_outputs=_initial_relevance(logits.detach(), target))
        return logits.detach(), relevance.detach()

    def written(self, x: Tensor) -> int:
        """The bytes that a forward pass which propagates relevance writes for one image, of images x (N, C, H, W)."""
        with self._copy(self._mode(), x) as work:
            return observed_forward(work, x[:1])[1]

    def balanced(self, x: Tensor, target: Target) -> tuple[Tensor, dict[str, Tensor]]:
        """Relevance (N, C, H, W) of images x, and what `LRP.attribute` measures of each."""
        relevance, measured = self._balanced(x, target)
        if len(x) > 1 and "imbalance" in measured and not bool((measured["imbalance"] <= IMBALANCE_TOLERANCE).all()):
            # Activations may have the images in another dimension than the first: then one at a time.
            alone = [self._balanced(x[i : i + 1], target.take([i]))[1] for i in range(len(x))]
            measured = {name: torch.cat([part[name] for part in alone]) for name in measured}
        return relevance, measured

    def _balanced(self, x: Tensor, target: Target) -> tuple[Tensor, dict[str, Tensor]]:
        books = Books(len(x))
        logits, relevance = self.relevance(x, target, None if self.by_zennit else books)
        if self.by_zennit:
            return relevance, {"explained": target.select(logits.cpu().double())}
        return relevance, books.balance(relevance, logits, target)

    def covered(self, x: Tensor) -> tuple[Tensor, Counter[tuple[str, str]]]:
        """Logits (N, K), and how often (operation, kind of module around it) has no rule."""
        mode = self._mode()
        if not self.by_zennit:
            with self._copy(mode, x) as work:
                trail = mode.trail = Trail(work)
                logits = never_alone(work, x.detach().clone().requires_grad_())
                missing = trail.missing_rules(logits)
                constants, trail.constants = trail.constants, []
                never_alone(work, self.options.noise(x).requires_grad_())
            return logits.detach(), missing + trail.changed_since(constants)
        if COMPOSITES[self.composite].box:
            with self._copy(mode, x) as read:
                read(x.detach().clone().requires_grad_())  # refuses what is no first convolution for the box rule
        zennit = self._zennit()
        with zennit.context(self._apart()) as canonised, Coverage(canonised, zennit) as coverage:
            logits = logits_of(canonised, x)
        return logits, coverage.uncovered

    def error_without_biases(self, x: Tensor, target: Target) -> float:
        """The largest |sum R - f| / max(|f|, median |f|) of an image in the network with all biases zeroed.

        f = z_y - z_r; the median keeps nearly equal logits from dividing by nearly 0.
        """
        bare = replace(self, model=self._apart(), options=replace(self.options, epsilon=_TINY, stabilizer=_TINY))
        for name, value in [*bare.model.named_parameters(), *bare.model.named_buffers()]:
            if name.rpartition(".")[2] in ("bias", "running_mean"):
                value.detach().zero_()
        logits, relevance = bare.relevance(x, target)
        wanted = target.select(logits.cpu().double())
        scale = wanted.abs().clamp(min=float(wanted.abs().median()))
        total = relevance.flatten(1).cpu().double().sum(dim=1)
        return float(((total - wanted).abs() / scale).max())


def quiet(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode, without gradients to its parameters, its activations not in place."""
    for module in model.eval().requires_grad_(False).modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    return model


def _initial_relevance(logits: Tensor, target: Target) -> Tensor:
    """z_y at y, -z_r at r, 0 elsewhere: (N, K)."""
    classes = torch.stack([target.label, target.contrast], dim=1).to(logits.device)
    signs = logits.new_tensor([1.0, -1.0])
    return torch.zeros_like(logits).scatter(1, classes, logits.gather(1, classes) * signs)
