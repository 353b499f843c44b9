"""Onto which directions of the teacher does a narrow student's layer converge while it is trained?

A student of k channels that matches all d > k channels of a teacher's layer through a map from k to d can reach k of
the teacher's directions at most. Do the mapped features end up in the k directions of most variance (PCA)? The
experiment of SubDistill (arXiv 2601.05913), after its public code: with h the mapped, centred features and U an
orthonormal basis of k directions, rho_U = <||U'h||^2> / <||h||^2> over images and locations, epoch by epoch. Here on
the images and the teacher that come with xaibench.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from xaibench.data.tasks import Task, load_task
from xaibench.distillation.criterion import Setting
from xaibench.distillation.distill import distill, measure_moments
from xaibench.distillation.events import EpochState
from xaibench.distillation.losses.subdistill import CENTRINGS, SubspaceLoss
from xaibench.distillation.methods import KD, Method, SubDistill
from xaibench.distillation.methods.base import check_positive
from xaibench.errors import ConfigError, ModelError, unknown_name
from xaibench.experiments.base import Experiment, share_text
from xaibench.figures.bases import basis_label
from xaibench.figures.convergence import convergence_figure
from xaibench.figures.names import method_label
from xaibench.models.layer_outputs import evaluating, forward_with_layers
from xaibench.models.layer_pairs import LayerPair
from xaibench.models.maps import pool_to
from xaibench.models.pair import ModelPair
from xaibench.similarity.subspaces import locations
from xaibench.subspace.bases import Basis, make_basis
from xaibench.subspace.moments import LayerMoments

__all__ = ["Convergence", "energy_share", "nearest_map"]

_BASES = ("pca", "pca_reversed", "random")
_TEACHER, _DATASET = "embedded:fashion-mnist/teacher.safetensors", "fashion-mnist"
_IMAGES = 400  # on which rho is measured


def energy_share(mapping: Tensor, covariance: Tensor, directions: Tensor) -> float:
    """rho_U = <||U'A s||^2> / <||A s||^2> of centred features s with covariance <s s'>.

    mapping     A, (d, k)
    covariance  (k, k)
    directions  U, (d, m), orthonormal columns
    """
    mapped = mapping @ covariance @ mapping.T
    return float(torch.einsum("dm,de,em->", directions, mapped, directions) / mapped.trace())


def nearest_map(student: Tensor, teacher: Tensor) -> Tensor:
    """The A with orthonormal columns that brings centred features s nearest the teacher's: it maximises tr(A' <t s'>).

    student (M, k), teacher (M, d), rows in the same order, k <= d: (d, k). Orthogonal Procrustes.
    """
    left, _, right = torch.linalg.svd(teacher.T @ student, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest


@dataclass(frozen=True)
class Convergence(Experiment):
    """rho of student features onto PCA, reversed PCA and random directions of the teacher, epoch by epoch.

    Methods: SubDistill in all d directions with an orthogonal and with a linear map, and KD. `map` in the table:
    "learned" by the method, or "fitted" to the measured images afterwards with orthonormal columns (`nearest_map`),
    which KD has, too. Such a fit prefers directions of much variance whatever the student: compare it with epoch 0, an
    untrained student. Layers with as many channels as the student's are left out, as rho is 1 there.

    subtask   of Fashion-MNIST
    fraction  share of its training images
    student   architecture
    epochs, lr, batch_size  of the training
    centring  of SubDistill, a name in `losses.subdistill.CENTRINGS`
    """

    name: ClassVar[str] = "convergence"
    keys: ClassVar[tuple[str, ...]] = ("layer", "method", "map", "basis", "epoch", "chance")

    subtask: str = "tops"
    fraction: float = 0.25
    student: str = "resnet18-cifar:8-8-8-8@8"
    epochs: int = 20
    lr: float = 2e-3
    batch_size: int = 32
    centring: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, fraction=self.fraction)
        if self.centring not in CENTRINGS:
            raise unknown_name("centring", self.centring, CENTRINGS)
        if self.fraction > 1:
            raise ConfigError(f"fraction must be at most 1, got {self.fraction}")

    @property
    def trainings(self) -> int:
        return len(self._methods())

    def _methods(self) -> dict[str, Method]:
        common: dict[str, Any] = {"basis": "identity", "dimension": "full", "centring": self.centring}
        return {
            "subdistill:mapping=rotation": SubDistill(mapping="rotation", **common),
            "subdistill:mapping=linear": SubDistill(mapping="linear", **common),
            "kd": KD(),
        }

    def measure(self, seed: int, advance: Callable[[], object]) -> pd.DataFrame:
        task = load_task(_DATASET, self.subtask, fraction=self.fraction)
        pair = ModelPair.load(_TEACHER, self.student, task, seed=seed)
        moments = measure_moments(pair, task.train)
        probe = _Probe.create(pair, task, moments, seed)
        parts = []
        for name, method in self._methods().items():
            rows = self._while_training(method, pair, task, moments, probe, seed)
            parts.append(pd.DataFrame(rows).assign(method=name))
            advance()
        return pd.concat(parts, ignore_index=True)[[*self.keys, "value"]]

    def _while_training(
        self,
        method: Method,
        pair: ModelPair,
        task: Task,
        moments: Mapping[str, LayerMoments],
        probe: _Probe,
        seed: int,
    ) -> list[dict[str, object]]:
        setting = Setting(pair, probe.inputs[:2], lambda: moments, task.train.labels, seed=seed)
        rows = probe.rows(0, pair.student, method.build(setting))  # as `distill` begins

        def look(state: EpochState) -> None:
            rows.extend(probe.rows(state.epoch + 1, state.student(), state.learned()))

        distill(
            pair,
            task,
            method,
            seed=seed,
            measure=lambda: moments,
            device="cpu",
            on_epoch=look,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            schedule="cosine",
            augment="none",
            precision="32-true",
        )
        return rows

    def figure(self, table: pd.DataFrame) -> Figure:
        return convergence_figure(table)

    def sentences(self, scores: pd.DataFrame) -> list[str]:
        over_layers = scores.groupby(["method", "map", "basis", "epoch", "seed"])["value"].mean()
        end, seeds, layers = scores["epoch"].max(), scores["seed"].nunique(), scores["layer"].nunique()
        found = [f"Share of the features' energy over {layers} layers, {seeds} seed(s), before and after {end} epochs:"]
        for method in scores["method"].unique():
            own = over_layers.loc[method]
            which = "learned" if "learned" in own.index.unique("map") else "fitted"
            shares = (
                f"{basis_label(basis)} {own.loc[which, basis, 0].mean():.3f}, {share_text(own.loc[which, basis, end])}"
                for basis in own.index.unique("basis")
            )
            found.append(f"{method_label(method)} ({which} map): {'; '.join(shares)}")
        return found


@dataclass(frozen=True, eq=False)
class _Probe:
    """What rho is measured with: some validation images, and of each layer the teacher's features and directions.

    features    pair -> centred features at every location, (M, d) float64
    directions  pair -> basis -> U, (d, k)
    sizes       pair -> (H, W) to which the larger maps are averaged
    """

    inputs: Tensor
    features: Mapping[LayerPair, Tensor]
    directions: Mapping[LayerPair, Mapping[str, Tensor]]
    sizes: Mapping[LayerPair, tuple[int, int]]

    @classmethod
    @torch.no_grad()
    def create(cls, pair: ModelPair, task: Task, moments: Mapping[str, LayerMoments], seed: int) -> _Probe:
        shapes = pair.layer_shapes(task.validation.shape[1:])
        wide = {layer: (t, s) for layer, (t, s) in shapes.items() if t[0] > s[0]}
        if not wide:
            raise ModelError("no layer of the student has fewer channels than the teacher's: choose a narrower student")
        inputs = pair.preprocessing(task.validation.sample(_IMAGES).images)
        found = forward_with_layers(pair.teacher, inputs, tuple(layer.teacher for layer in wide)).layers
        features, directions, sizes = {}, {}, {}
        for layer, (teacher, student) in wide.items():
            sizes[layer] = (min(teacher[1], student[1]), min(teacher[2], student[2]))
            features[layer] = _centred(pool_to(found[layer.teacher], sizes[layer]))
            bases: dict[str, Basis] = {
                kind: make_basis(moments[layer.teacher], kind, student[0], seed=seed) for kind in _BASES
            }
            directions[layer] = {kind: basis.vectors for kind, basis in bases.items()}
        return cls(inputs, features, directions, sizes)

    @torch.no_grad()
    def rows(self, epoch: int, student: nn.Module, criterion: nn.Module) -> list[dict[str, object]]:
        """rho of each layer, map and basis; `criterion` is the method's, with the maps it has learned."""
        with evaluating(student):
            found = forward_with_layers(student, self.inputs, tuple(layer.student for layer in self.features)).layers
        rows: list[dict[str, object]] = []
        for layer, teacher in self.features.items():
            maps = pool_to(found[layer.student], self.sizes[layer])
            own = _centred(maps)
            cases = {"fitted": (nearest_map(own, teacher), own)}
            if (loss := _loss_of(criterion, layer)) is not None:
                loss.train()  # centred over these images, as over a batch in training
                cases["learned"] = (loss.basis.vectors @ loss.rotation.weight.double(), locations(loss.centring(maps)))
            for which, (mapping, features) in cases.items():
                features = features.double()
                covariance = features.T @ features / len(features)
                for kind, directions in self.directions[layer].items():
                    row = {"layer": str(layer), "map": which, "basis": kind, "epoch": epoch}
                    share, chance = energy_share(mapping, covariance, directions), directions.shape[1] / len(directions)
                    rows.append(row | {"chance": chance, "value": share})
        return rows


def _loss_of(criterion: nn.Module, layer: LayerPair) -> SubspaceLoss | None:
    """The layer's loss in a criterion of SubDistill."""
    pairs, losses = getattr(criterion, "pairs", ()), getattr(criterion, "losses", ())
    return next((loss for own, loss in zip(pairs, losses) if own == layer), None)


def _centred(maps: Tensor) -> Tensor:
    rows = locations(maps).double()
    return rows - rows.mean(0)
