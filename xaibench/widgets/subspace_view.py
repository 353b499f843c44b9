"""What a panel of subspaces shows, computed when it is asked for and then remembered."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.attribution.layers import LayerRelevance, direction_heatmaps, layer_relevance, lrp_or_gradient
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target, make_target
from xaibench.data.images import ImageSet
from xaibench.distillation.measure import measure_moments
from xaibench.errors import ConfigError, DataError, ExplanationError
from xaibench.models.layer_outputs import evaluating, forward_with_layers
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.similarity.intervals import Interval
from xaibench.similarity.projection import projected_accuracy
from xaibench.similarity.subspaces import Frame, relevance_by_direction, relevance_shares
from xaibench.subspace.bases import Basis, make_basis
from xaibench.subspace.moments import LayerMoments
from xaibench.widgets.worker import Turn

__all__ = ["Curve", "Look", "Relevance", "Scene", "SubspaceView"]

Array = npt.NDArray[np.float64]

_BATCH = 64
_SHOWN = 4


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracy of the teacher with a layer projected on k directions, for each of `counts`."""

    counts: tuple[int, ...]
    accuracy: Array


@dataclass(frozen=True, eq=False)
class Relevance:
    """What share of the layer's relevance directions carry; see `relevance_shares`.

    single  of each of the d directions alone, (d,)
    first   of the first k, for each k of `counts`
    rule    "LRP" or "gradient x activation"
    """

    single: Array
    counts: tuple[int, ...]
    first: list[Interval]
    rule: str


@dataclass(frozen=True, eq=False)
class Look:
    """The images that a direction responds to, the strongest first, then the weakest.

    rows      indices into the test images; strength: mean over locations of u'(h - mu) in units of its deviation
    heatmaps  (n, H, W) relevance of this direction, None where there is no valid one (`problem` says why)
    """

    rows: tuple[int, ...]
    strength: Array
    heatmaps: Array | None
    problem: str


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything on show for a layer, a basis and one of its directions."""

    spectra: dict[str, Array]
    basis: Basis
    variance: Array
    relevance: Relevance | str
    curves: dict[str, Curve]
    look: Look


class SubspaceView:
    """The teacher's layers of a pair in the directions of their bases.

    images     from which the moments are measured
    test       with which accuracies and directions are looked at
    explained  how many of them relevance is measured on
    channels   teacher layer -> d; widths: teacher layer -> channels of the student's paired layer
    ended      set where nobody wants the moments any more: their pass outlasts other requests, which need them, too
    """

    def __init__(self, pair: ModelPair, images: ImageSet, test: ImageSet, explained: int, most: int | None) -> None:
        if not pair.layers:
            raise ConfigError("the pair has no layer pairs: give layers = ['layer1:layer1', ...]")
        for role, given in (("images", images), ("test images", test)):
            if given.classes != pair.classes:
                raise DataError(f"the {role} have classes {list(given.classes)}, the pair {list(pair.classes)}")
        self.pair, self.images, self.test = pair, images, test
        self.explained = test.sample(explained)
        shapes = {p.teacher: (t[0], s[0]) for p, (t, s) in pair.layer_shapes(test.shape[1:]).items()}
        self.channels = {layer: d for layer, (d, _) in shapes.items()}
        self.widths = {layer: k for layer, (_, k) in shapes.items()}
        self._most = most
        self.ended = threading.Event()
        self._moments: dict[str, LayerMoments] = {}
        self._curves: dict[tuple[str, str], Curve] = {}
        self._bases: dict[tuple[str, str], Basis] = {}
        self._relevance: dict[tuple[str, str], Relevance | str] = {}
        self._layer: tuple[str, LayerRelevance] | None = None
        self._looks: dict[tuple[str, str, int], Look] = {}
        self._means: dict[str, Tensor] = {}

    @property
    def known(self) -> dict[tuple[str, str], Curve]:
        """(layer, basis) -> its curve, where it was computed."""
        return dict(self._curves)

    def most(self, layer: str) -> int:
        """The largest k that is shown."""
        return min(self.channels[layer], self._most or self.channels[layer])

    def counts(self, layer: str) -> tuple[int, ...]:
        """The numbers of directions that curves are measured at: powers of two, the student's width, the largest."""
        most = self.most(layer)
        powers = {2**i for i in range(most.bit_length())} | {self.widths[layer], most}
        return tuple(sorted(k for k in powers if k <= most))

    def scene(self, layer: str, kind: str, kinds: Sequence[str], direction: int, turn: Turn) -> Scene:
        """Compute what is missing. direction: from 0."""
        moments = self._measured(turn)
        basis = self._basis(layer, kind)
        carried = torch.einsum("dk,de,ek->k", basis.vectors, moments[layer].activation, basis.vectors)
        return Scene(
            {name: values.spectrum.numpy() for name, values in moments.items()},
            basis,
            (carried / moments[layer].activation.trace()).numpy(),
            self._carried(layer, kind, turn),
            {name: self._curve(layer, name, turn) for name in dict.fromkeys((kind, *kinds))},
            self._look(layer, kind, direction, turn),
        )

    def _measured(self, turn: Turn) -> dict[str, LayerMoments]:
        if not self._moments:
            done = 0

            def on_batch(count: int) -> None:
                nonlocal done
                done += count
                if not turn.cancelled or self.ended.is_set():
                    turn.report(done / len(self.images), "moments")

            found = measure_moments(self.pair, self.images, batch_size=_BATCH, on_batch=on_batch)
            self._moments = {layer: _on_cpu(values) for layer, values in found.items()}
        return self._moments

    def _basis(self, layer: str, kind: str) -> Basis:
        if (layer, kind) not in self._bases:
            self._bases[layer, kind] = make_basis(self._moments[layer], kind, self.channels[layer])
        return self._bases[layer, kind]

    def _curve(self, layer: str, kind: str, turn: Turn) -> Curve:
        if (layer, kind) not in self._curves:
            counts, done = self.counts(layer), 0

            def on_batch(count: int) -> None:
                nonlocal done
                done += count
                turn.report(done / len(counts) / len(self.test), f"accuracy, {kind}")

            basis = self._basis(layer, kind)
            given = self.pair.teacher, self.test, self.pair.preprocessing, layer, basis, counts
            self._curves[layer, kind] = Curve(counts, projected_accuracy(*given, on_batch=on_batch))
        return self._curves[layer, kind]

    def _carried(self, layer: str, kind: str, turn: Turn) -> Relevance | str:
        if (layer, kind) not in self._relevance:
            try:
                self._relevance[layer, kind] = self._relevance_of(layer, kind, turn)
            except ExplanationError as error:
                self._relevance[layer, kind] = str(error)
        return self._relevance[layer, kind]

    def _relevance_of(self, layer: str, kind: str, turn: Turn) -> Relevance:
        turn.report(0.0, f"relevance, {layer}")
        x, target = self._question(self.explained)
        if self._layer is None or self._layer[0] != layer:
            rule, preprocessing = self._explainer, self.pair.preprocessing
            found = layer_relevance(self.pair.teacher, x, target, rule, preprocessing, [layer])
            self._layer = layer, found[layer]
        seen, counts = self._layer[1], self.counts(layer)
        parts = relevance_by_direction(Frame.of_basis(self._basis(layer, kind)).project(seen.activation, seen.context))
        whole = parts.sum(axis=1)
        single = (np.sign(whole)[:, None] * parts).sum(axis=0) / max(np.abs(whole).sum(), 1e-300)
        rule_name = "gradient x activation" if self._explainer is None else "LRP"
        return Relevance(single, counts, relevance_shares(parts, counts), rule_name)

    def _look(self, layer: str, kind: str, direction: int, turn: Turn) -> Look:
        if (layer, kind, direction) not in self._looks:
            u = self._basis(layer, kind).vectors[:, direction]
            mean, moments = self._mean_activations(turn)[layer], self._moments[layer]
            spread = float((u @ moments.activation @ u).clamp(min=1e-300).sqrt())
            strength = ((mean - moments.mean) @ u / spread).numpy()
            order = np.argsort(-strength, kind="stable")
            shown = min(_SHOWN, len(order) // 2) or 1
            rows = tuple(dict.fromkeys([*order[:shown].tolist(), *order[::-1][:shown].tolist()]))
            turn.report(0.0, f"direction {direction + 1}")
            heatmaps, problem = None, ""
            try:
                x, target = self._question(self.test.take(rows))
                rule, preprocessing = self._explainer, self.pair.preprocessing
                found = direction_heatmaps(self.pair.teacher, x, target, rule, preprocessing, layer, u[:, None].float())
                heatmaps = found[:, 0].double().numpy()
            except ExplanationError as error:
                problem = str(error)
            self._looks[layer, kind, direction] = Look(rows, strength[list(rows)], heatmaps, problem)
        return self._looks[layer, kind, direction]

    def _mean_activations(self, turn: Turn) -> dict[str, Tensor]:
        """Of every layer, the mean over locations for each test image, (N, d) float64."""
        if not self._means:
            parts: dict[str, list[Tensor]] = {layer: [] for layer in self.channels}
            home = next(self.pair.teacher.parameters()).device
            chunks = self.test.images.split(_BATCH)
            for number, chunk in enumerate(chunks):
                turn.report(number / len(chunks), "activations")
                with torch.no_grad(), evaluating(self.pair.teacher):
                    x = self.pair.preprocessing(chunk.to(home))
                    found = forward_with_layers(self.pair.teacher, x, tuple(parts)).layers
                for layer, maps in found.items():
                    parts[layer].append(maps.double().mean(dim=(2, 3)).cpu())
            self._means = {layer: torch.cat(pieces) for layer, pieces in parts.items()}
        return self._means

    def _question(self, images: ImageSet) -> tuple[Tensor, Target]:
        logits = predict_logits(self.pair.teacher, images, self.pair.preprocessing)
        return self.pair.preprocessing(images.images), make_target(logits, images.labels)

    @cached_property
    def _explainer(self) -> LRP | None:
        x, target = self._question(self.explained)
        return lrp_or_gradient(self.pair.teacher, x, target, self.pair.preprocessing)


def _on_cpu(moments: LayerMoments) -> LayerMoments:
    names = ("mean", "activation", "gradient", "cross")
    return replace(moments, **{name: getattr(moments, name).cpu() for name in names})
