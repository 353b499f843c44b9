"""Which directions of a teacher carry one of its subtasks? Three pairwise XOR problems on eight blobs in space.

The toy of SubDistill (arXiv 2601.05913): Gaussian blobs around the corners of a cube, a teacher of one hidden layer
that decides for each pair of coordinates whether their signs differ. A subtask is one of these pairs. The layer is
projected on k directions of several bases, and students whose features have k channels are distilled within them.
Students and their training are our own choice, as the paper's were not available.

Points are held as images of 1 x 1 pixels with three channels, a byte a coordinate in [-4, 4], so that all the rest of
the library applies to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Literal, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.subtasks import Subtask
from xaibench.data.tasks import Task
from xaibench.distillation.distill import distill, measure_moments
from xaibench.distillation.methods import KD, Method, StudentOnly, SubDistill
from xaibench.distillation.methods.base import check_positive, seeded
from xaibench.errors import ConfigError, unknown_name
from xaibench.experiments.base import Experiment, share_text
from xaibench.figures.bases import basis_label
from xaibench.figures.xor import xor_figure
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits
from xaibench.similarity.projection import projected_logits
from xaibench.subspace.bases import BASES, make_basis

__all__ = ["Xor", "XorNet", "best_accuracy", "blobs"]

PAIRS = ("xy", "xz", "yz")
_CLASSES = tuple(f"{sign} signs of {a} and {b}" for a, b in map(tuple, PAIRS) for sign in ("equal", "different"))
_HIDDEN, _INNER = 128, 32  # units of the teacher's layer, of the student's first layer
_TEACHER_POINTS, _TEACHER_EPOCHS, _VALIDATION, _TEST = 4000, 20, 400, 10_000
_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)
_PREPROCESSING = Preprocessing((0.5,) * 3, (0.125,) * 3, (1, 1))


class Blobs(NamedTuple):
    """Points as images, (N, 3, 1, 1) uint8, and whether the signs of each pair of their blob's coordinates differ."""

    images: Tensor
    differ: Tensor  # (N, 3) bool, the pairs in the order of PAIRS


def blobs(count: int, spread: float, seed: int) -> Blobs:
    """`count` points from eight Gaussians of standard deviation `spread` around the corners (+-1, +-1, +-1)."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 2, (count, 3), generator=generator) * 2 - 1
    points = corners + spread * torch.randn(count, 3, generator=generator)
    pixels = ((points / 8 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    differ = [corners[:, a] != corners[:, b] for a, b in combinations(range(3), 2)]
    return Blobs(pixels[:, :, None, None], torch.stack(differ, 1))


def best_accuracy(spread: float) -> float:
    """What no classifier of one pair exceeds: 1 - 2p(1 - p), p = P(z > 1 / spread): a coordinate of the wrong sign.

    >>> round(best_accuracy(0.5), 4)
    0.9555
    """
    wrong = 0.5 * math.erfc(1 / spread / math.sqrt(2))
    return 1 - 2 * wrong * (1 - wrong)


class XorNet(nn.Module):
    """(N, 3, 1, 1) -> logits (N, K) through a layer `features` of (N, width, 1, 1).

    The teacher (tasks=3): a hidden layer, and one number z for each pair, given as the two logits -z/2 and z/2.
    A student (tasks=1): a hidden layer of 32 units before `features`, which are linear in it, and the logits in them.
    """

    def __init__(self, width: int, *, tasks: int) -> None:
        super().__init__()
        if tasks > 1:
            self.features: nn.Module = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU())
            self.head = nn.Conv2d(width, tasks, 1)
        else:
            self.features = nn.Sequential(nn.Conv2d(3, _INNER, 1), nn.ReLU(), nn.Conv2d(_INNER, width, 1))
            self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(self.features(x)).flatten(1)
        return z if self.head.out_channels == 2 else torch.stack([-z / 2, z / 2], 2).flatten(1)


@dataclass(frozen=True)
class Xor(Experiment):
    """Accuracy of the teacher with its layer projected on k directions, and of students with k features.

    pair          the subtask: whether the signs of these two coordinates differ
    points        training points of the students; the teacher has 4000
    spread        standard deviation of a blob
    bases         names in `subspace.BASES`
    widths        channels of the students' features
    epochs        of the students' training
    lr            its learning rate
    centring      of SubDistill, a name in `losses.subdistill.CENTRINGS`
    layer_weight  of SubDistill
    """

    name: ClassVar[str] = "xor"
    keys: ClassVar[tuple[str, ...]] = ("measure", "method", "k")

    pair: Literal["xy", "xz", "yz"] = "xy"
    points: int = 400
    spread: float = 0.5
    bases: tuple[str, ...] = ("prcaposdef", "pca", "random")
    widths: tuple[int, ...] = (1, 2, 4)
    epochs: int = 100
    lr: float = 5e-3
    centring: str = "mean"
    layer_weight: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(points=self.points, spread=self.spread, epochs=self.epochs, lr=self.lr)
        if self.points < 16:
            raise ConfigError(f"points must be at least 16, got {self.points}: both classes are needed")
        if self.spread > 1:
            raise ConfigError(f"spread must be at most 1, got {self.spread}: points are held within -4..4")
        for name in self.bases:
            if name not in BASES:
                raise unknown_name("basis", name, BASES)
        for width in self.widths:
            if not 1 <= width <= _INNER:
                raise ConfigError(f"widths must lie in 1..{_INNER}, got {width}: a student's inner layer has {_INNER}")
        for field in ("bases", "widths"):
            if not getattr(self, field) or len(set(getattr(self, field))) < len(getattr(self, field)):
                raise ConfigError(f"{field} must be one or more, each once, got {getattr(self, field)}")
        self._methods()  # checks centring and layer weight

    @property
    def trainings(self) -> int:
        return 1 + len(self.widths) * len(self._methods())

    def _methods(self) -> dict[str, Method]:
        common: dict[str, Any] = {"centring": self.centring, "layer_weight": self.layer_weight}
        methods: dict[str, Method] = {basis: SubDistill(basis=basis, **common) for basis in self.bases}
        methods["full"] = SubDistill(basis="identity", dimension="full", **common)
        return methods | {"kd": KD(), "student-only": StudentOnly()}

    def measure(self, seed: int, advance: Callable[[], object]) -> pd.DataFrame:
        own = PAIRS.index(self.pair)
        sets = [blobs(n, self.spread, 4 * seed + i) for i, n in enumerate((self.points, _VALIDATION, _TEST))]
        train, validation, test = map(self._images, sets)
        task = Task(train, validation, test, Subtask(self.pair, self._classes), "xor")
        teacher = _teacher(blobs(_TEACHER_POINTS, self.spread, 4 * seed + 3), seed)
        advance()
        pair = self._pair(teacher, 1, seed)
        moments = measure_moments(pair, task.train)
        rows = [_row("teacher", "none", _HIDDEN, _accuracy(pair.teacher, task.test))]
        for name in self.bases:
            basis = make_basis(moments["features"], name, _HIDDEN, seed=seed)
            logits = projected_logits(teacher, task.test, _PREPROCESSING, "features", basis, _COUNTS)
            right = ((logits[..., 1::2] > logits[..., ::2]) == sets[2].differ).double().mean(1)  # (counts, pairs)
            others = (right.sum(1) - right[:, own]) / (len(PAIRS) - 1)
            for k, share, rest in zip(_COUNTS, right[:, own].tolist(), others.tolist()):
                rows += [_row("projected", name, k, share), _row("other subtasks", name, k, rest)]
        for width in self.widths:
            for name, method in self._methods().items():
                run = distill(
                    self._pair(teacher, width, seed),
                    task,
                    method,
                    seed=seed,
                    device="cpu",
                    measure=lambda: moments,
                    epochs=self.epochs,
                    lr=self.lr,
                    schedule="cosine",
                    augment="none",
                    precision="32-true",
                )
                advance()
                rows.append(_row("student", name, width, _accuracy(run.student, task.test)))
        return pd.DataFrame(rows)

    @property
    def _classes(self) -> tuple[str, str]:
        first = 2 * PAIRS.index(self.pair)
        return _CLASSES[first], _CLASSES[first + 1]

    def _images(self, points: Blobs) -> ImageSet:
        labels = points.differ[:, PAIRS.index(self.pair)].long()
        return ImageSet(points.images, labels, self._classes, tuple(map(str, range(len(labels)))), "xor")

    def _pair(self, teacher: nn.Module, width: int, seed: int) -> ModelPair:
        with seeded(seed):
            student = XorNet(width, tasks=1)
        return ModelPair.create(
            teacher,
            student,
            classes=self._classes,
            teacher_classes=_CLASSES,
            preprocessing=_PREPROCESSING,
            layers=[("features", "features")],
        )

    def figure(self, table: pd.DataFrame) -> Figure:
        return xor_figure(table, best=best_accuracy(self.spread))

    def sentences(self, scores: pd.DataFrame) -> list[str]:
        named = scores.groupby(["measure", "method", "k"])["value"]
        seeds, best = scores["seed"].nunique(), best_accuracy(self.spread)
        found = [
            f"Accuracy over {seeds} seed(s), with 95% t intervals; at best {best:.3f}, "
            f"of the teacher {share_text(named.get_group(('teacher', 'none', _HIDDEN)))}."
        ]
        k = self.widths[0]
        asked = {
            "projected": ("The teacher projected on 1 direction", 1),
            "student": (f"Students of {k} channel(s)", k),
        }
        for measure, (who, count) in asked.items():
            shares = (
                f"{basis_label(basis)} {share_text(named.get_group((measure, basis, count)))}" for basis in self.bases
            )
            found.append(f"{who}: {', '.join(shares)}.")
        return found


def _row(measure: str, method: str, k: int, value: float) -> Mapping[str, object]:
    return {"measure": measure, "method": method, "k": k, "value": value}


def _accuracy(model: nn.Module, images: ImageSet) -> float:
    right = predict_logits(model, images, _PREPROCESSING).argmax(1) == images.labels
    return right.double().mean().item()


def _teacher(points: Blobs, seed: int) -> nn.Module:
    """A network that decides all three pairs, trained with a logistic loss for each."""
    x, y = _PREPROCESSING(points.images), points.differ.float()
    with seeded(seed), torch.enable_grad():
        model = XorNet(_HIDDEN, tasks=len(PAIRS))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
        for _ in range(_TEACHER_EPOCHS):
            for rows in torch.randperm(len(x)).split(64):
                logits = model(x[rows])
                loss = F.binary_cross_entropy_with_logits(logits[:, 1::2] - logits[:, ::2], y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()
