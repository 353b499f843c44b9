"""KD-AIF: any method, with training images weighted by their influence on the validation loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from xaibench.data.images import batches as batches_of
from xaibench.distillation.criterion import Batch, Criterion, Setting, TrainingState
from xaibench.distillation.influence_functions import (
    TRANSFORMS,
    Problem,
    influence_scores,
    influence_weights,
    mean_gradient,
    solve,
)
from xaibench.distillation.losses.kd import cross_entropy
from xaibench.distillation.losses.subdistill import Centring
from xaibench.distillation.methods.base import check_not_negative, check_positive, check_share
from xaibench.distillation.methods.wrapped import Wrapped
from xaibench.errors import ConfigError, unknown_name
from xaibench.models.layer_outputs import Outputs, evaluating, forward_with_layers
from xaibench.progress import progress

__all__ = ["InfluenceWeighted"]

TARGETS = ("student", "teacher", "both")
_CHUNK = 64
_HIDDEN, _CURVATURE = 1, 2


@dataclass(frozen=True)
class InfluenceWeighted(Wrapped):
    """sum_i w_i L_i, L_i the loss of `method`, w_i from the influence of image i (`distillation.influence_functions`).

    target     whose influence: "student" (gradients of the wrapped loss), "teacher" (of the teacher's cross-entropy; it
               is frozen, so once), "both": the mean of the two weights
    transform  a name in `distillation.influence_functions.TRANSFORMS`
    kappa      how sharply weights follow influence; 0 gives equal weights
    refresh    the student's influence is measured anew before every `refresh`-th epoch, first before epoch `refresh`
               (counted from 0). It uses the labels of the validation images, which no other method trains on
    curvature  at most that many training images, drawn by seed, make up the Gauss-Newton matrix
    iterations of the conjugate-gradient solve, at most; damping: see `distillation.influence_functions.solve`
    pseudo     share of the training images, drawn by seed, whose labels are taken to be unknown: there the teacher's
               prediction stands in, weighted like the rest
    Source: arXiv 2501.02705; the formulas of its body could not be read, see `distillation.influence_functions`.
    """

    name: ClassVar[str] = "influence"
    target: str = "student"
    transform: str = "sigmoid"
    kappa: float = 1.0
    refresh: int = 5
    curvature: int = 512
    iterations: int = 20
    damping: float = 0.01
    pseudo: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in TARGETS:
            raise unknown_name("target of influence", self.target, TARGETS)
        if self.transform not in TRANSFORMS:
            raise unknown_name("transform of influence", self.transform, TRANSFORMS)
        check_not_negative(kappa=self.kappa)
        check_positive(refresh=self.refresh, curvature=self.curvature, iterations=self.iterations, damping=self.damping)
        check_share(pseudo=self.pseudo)

    def build(self, setting: Setting) -> Criterion:
        inner = self.method.build(setting)
        if inner.coupling:
            raise ConfigError(
                f"{self.method.name} cannot be weighted by influence: {inner.coupling}. Wrap a method that gives one "
                "loss a sample, such as kd or subdistill"
            )
        if self.target != "teacher" and self.refresh >= setting.epochs:
            raise ConfigError(
                f"influence with refresh={self.refresh} is never measured in {setting.epochs} epochs: set "
                "refresh below that, as in influence[kd]:refresh=1"
            )
        return _Weighted(self, inner, setting)


class _Weighted(Criterion):
    sample_weights: Tensor
    influence: Tensor
    teacher_weights: Tensor
    hidden: Tensor

    def __init__(self, method: InfluenceWeighted, inner: Criterion, setting: Setting) -> None:
        super().__init__(inner.weights)
        self.method, self.inner, self.seed = method, inner, setting.seed
        self._teacher = (setting.pair.teacher,)  # in a tuple, it is no submodule
        self.teacher_layers, self.student_layers = inner.teacher_layers, inner.student_layers
        self.needs_teacher = inner.needs_teacher or method.pseudo > 0
        n = len(setting.labels)
        self.register_buffer("sample_weights", torch.ones(n))
        self.register_buffer("influence", torch.full((n,), torch.nan))
        self.register_buffer("teacher_weights", torch.ones(n))
        hidden = torch.zeros(n, dtype=torch.bool)
        hidden[self._draw(n, _HIDDEN)[: round(method.pseudo * n)]] = True
        self.register_buffer("hidden", hidden)

    def summarise(self, teacher: Outputs) -> dict[str, Tensor]:
        return self.inner.summarise(teacher)

    def observe(self, student: Outputs) -> Outputs:
        return self.inner.observe(student)

    def forward(
        self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        total, terms = self._losses(student, teacher, batch)
        return total * self.sample_weights[batch.indices.to(total.device)], terms

    def image_weights(self) -> dict[str, Tensor]:
        columns = {"weight": self.sample_weights, "influence": self.influence}
        if self.method.target == "both":
            columns["teacher_weight"] = self.teacher_weights
        return columns | ({"pseudo_label": self.hidden} if self.method.pseudo > 0 else {})

    def start_epoch(self, epoch: int, state: TrainingState) -> None:
        self.inner.start_epoch(epoch, state)
        m = self.method
        parts = []
        if m.target != "student":
            if epoch == 0:
                scores = self._measure(_Network(self._teacher[0]), state, epoch, labels_only=True)
                self.influence.copy_(scores)
                self.teacher_weights.copy_(influence_weights(scores, transform=m.transform, kappa=m.kappa))
                self.sample_weights.copy_(self.teacher_weights)
            parts.append(self.teacher_weights)
        if m.target != "teacher" and epoch and epoch % m.refresh == 0:
            with evaluating(state.student, self.inner), _scaled_as_trained(self.inner):
                scores = self._measure(_Network(state.student, self.inner), state, epoch)
            self.influence.copy_(scores)
            parts.append(influence_weights(scores, transform=m.transform, kappa=m.kappa))
            self.sample_weights.copy_(torch.stack(parts).mean(0))

    def _losses(
        self, student: Outputs, teacher: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.method.pseudo > 0:
            unknown = self.hidden[batch.indices.to(self.hidden.device)]
            labels = torch.where(unknown, teacher["logits"].argmax(1), batch.labels)
            batch = batch._replace(labels=labels)
        result: tuple[Tensor, dict[str, Tensor]] = self.inner(student, teacher, batch)
        return result

    def _measure(self, network: _Network, state: TrainingState, epoch: int, *, labels_only: bool = False) -> Tensor:
        n = len(state.labels)
        device = self.sample_weights.device

        def outputs(params: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(network, params, (x,))

        def own_losses(out: Any, extra: Any) -> Tensor:
            summary, indices, labels = extra
            if labels_only:
                known = torch.where(self.hidden[indices], out["logits"].detach().argmax(1), labels)
                return cross_entropy(out["logits"], known)
            batch = Batch(indices, labels, epoch)
            return self._losses(Outputs(out["logits"], out["layers"]), summary, batch)[0]

        def validation_losses(out: Any, labels: Tensor) -> Tensor:
            return cross_entropy(out["logits"], labels)

        def batches(indices: Tensor) -> Any:
            for chunk in batches_of(indices, _CHUNK):
                x = state.inputs(chunk, state.view)
                summary = {} if labels_only else dict(state.teacher(x, chunk, state.view))
                yield x, (summary, chunk.to(device), state.labels[chunk].to(device))

        own, validation = Problem(outputs, own_losses), Problem(outputs, validation_losses)
        params = {name: p.detach() for name, p in network.named_parameters() if name.startswith("network.")}
        some = self._draw(n, _CURVATURE)[: self.method.curvature]
        with progress("influence", self.method.iterations) as advance:
            gradient = mean_gradient(validation, params, state.validation)
            curvature = list(batches(some))
            solution = solve(
                own,
                params,
                lambda: curvature,
                gradient,
                damping=self.method.damping,
                iterations=self.method.iterations,
                advance=advance,
            )
            return influence_scores(own, params, lambda: batches(torch.arange(n)), solution.vector)

    def _draw(self, n: int, stream: int) -> Tensor:
        return torch.randperm(n, generator=torch.Generator().manual_seed((self.seed << 2) + stream))


@contextmanager
def _scaled_as_trained(criterion: Criterion) -> Iterator[None]:
    """Within the block `peer_bn` z-scores in evaluation too: the loss as it is trained, with running statistics."""
    centrings = [m for m in criterion.modules() if isinstance(m, Centring) and m.kind == "peer_bn"]
    try:
        for centring in centrings:
            centring.kind = "zscore"
        yield
    finally:
        for centring in centrings:
            centring.kind = "peer_bn"


class _Network(nn.Module):
    """A model whose forward pass gives all that a criterion reads of it."""

    def __init__(self, network: nn.Module, criterion: Criterion | None = None) -> None:
        super().__init__()
        self.network = network
        self._criterion = (criterion,)  # not a submodule: its parameters are not the network's

    def forward(self, x: Tensor) -> dict[str, Any]:
        criterion = self._criterion[0]
        outputs = forward_with_layers(self.network, x, criterion.student_layers if criterion else ())
        if criterion is not None:
            outputs = criterion.observe(outputs)
        return {"logits": outputs.logits, "layers": outputs.layers}
