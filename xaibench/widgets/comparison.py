"""Teacher and students on the same images: everything that an explorer looks up, or asks anew."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xaibench.attribution.targets import Target
from xaibench.data.images import ImageSet
from xaibench.errors import ConfigError, DataError, ExplanationError, unknown_name
from xaibench.figures.gallery import pixels
from xaibench.similarity.maps import pool, with_sign
from xaibench.similarity.metrics.table import METRICS
from xaibench.widgets.answers import Prediction, Score, mean_defined, mean_map
from xaibench.widgets.live import TEACHER, Live, Map, Question, Version, maps_of
from xaibench.widgets.worker import Turn

__all__ = ["Comparison"]

Array = npt.NDArray[np.float64]

_MEAN = "mean"


@dataclass(eq=False)
class Comparison:
    """Images, predictions, maps and scores of a teacher and its students.

    images       may grow by images of one's own, see `add_image`
    students     names, in order; "METHOD/seedN" form groups with "METHOD/mean" as their mean
    explainers   those to offer first; any other may be asked where there are models
    metrics      those to offer first
    grid, sign   the pooled maps that scores are made of
    stored       (model, explainer) -> the attribution of the first images, loaded when first needed
    predicted    model -> its predictions of the first images, where they are known
    scores       (explainer, metric, null or "matched") -> images x students, where they are known
    live         models that answer further questions; None: only what is stored can be shown
    """

    images: ImageSet
    students: tuple[str, ...]
    explainers: tuple[str, ...]
    metrics: tuple[str, ...]
    grid: int
    sign: str = "signed"
    stored: Mapping[tuple[str, str], Callable[[], Any]] = field(default_factory=dict)
    predicted: dict[str, list[Prediction]] = field(default_factory=dict)
    scores: Mapping[tuple[str, str, str], Mapping[str, Array]] = field(default_factory=dict)
    live: Live | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pixels = pixels(self.images.images.numpy() / 255)
        self.labelled = len(self.images)  # the others' labels are the teacher's predictions
        self._first = len(self.images)
        self.added: set[str] = set()
        self._loaded: dict[tuple[str, str], list[Map]] = {}
        self._targets: dict[str, Target] = {}
        self._likeness: dict[tuple[Version, Question, str, str], Array] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the images."""
        return self.images.keys

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Method -> its students; one that is of no method stands alone."""
        found: dict[str, list[str]] = {}
        for name in self.students:
            of_method = re.fullmatch(r"(.+)/seed\d+", name)
            found.setdefault(of_method[1] if of_method else name, []).append(name)
        return {method: tuple(names) for method, names in found.items()}

    @property
    def choices(self) -> tuple[str, ...]:
        """The students and, of methods with several, the mean."""
        means = [f"{method}/{_MEAN}" for method, names in self.groups.items() if len(names) > 1]
        return (*self.students, *means)

    @property
    def has_predictions(self) -> bool:
        """Whether it is known, or can be asked, what the models predict."""
        return self.live is not None or bool(self.predicted)

    def members(self, name: str) -> tuple[str, ...]:
        """The students that a name stands for: itself, or all of a method's."""
        method, _, seed = name.rpartition("/")
        return self.groups[method] if seed == _MEAN and method in self.groups else (name,)

    def place(self, key: str) -> int:
        """Index of an image."""
        if key not in self.keys:
            raise unknown_name("image", key, self.keys)
        return self.keys.index(key)

    def add_student(self, name: str, model: torch.nn.Module) -> None:
        """Compare another student, too."""
        if self.live is None:
            raise ConfigError("these maps came without their models: a student can only be added beside a teacher")
        if name == TEACHER or name.rpartition("/")[2] == _MEAN:
            raise ConfigError(
                f"a student cannot be named {name!r}, which stands for something else: choose another name"
            )
        self.live.add(name, model)
        self.added.add(name)
        if name not in self.students:
            self.students = (*self.students, name)
        self.predicted.pop(name, None)
        self.stored = {known: load for known, load in self.stored.items() if known[0] != name}
        self._loaded = {known: maps for known, maps in self._loaded.items() if known[0] != name}
        self.scores = {
            of: {student: values for student, values in table.items() if student != name}
            for of, table in self.scores.items()
        }

    def version(self, model: str) -> Version:
        """The model of that name as it is now, see `Live.version`."""
        return self.live.version(model) if self.live is not None else (model, 0)

    def takes(self, image: torch.Tensor) -> Live:
        """The models that explain another image; DataError unless it is (C, H, W) uint8 of the size of the others."""
        if self.live is None:
            raise ConfigError("these maps came without their models: images of one's own cannot be explained")
        given = (image.dtype, tuple(image.shape)) if isinstance(image, torch.Tensor) else type(image).__name__
        if given != (torch.uint8, self.images.shape):
            raise DataError(f"an image must be a uint8 tensor of shape {self.images.shape} as the others, got {given}")
        return self.live

    def add_image(self, image: torch.Tensor, key: str, label: int) -> None:
        """Look at another image, whose label is what the teacher predicts, see `Live.predicted_label`."""
        old, labels = self.images, torch.cat([self.images.labels, torch.tensor([label])])
        images, keys = torch.cat([old.images, image[None]]), (*old.keys, key)
        self.images = self._live().images = ImageSet(images, labels, old.classes, keys, old.source)
        self.pixels = pixels(self.images.images.numpy() / 255)
        self._likeness.clear()

    def prediction(self, model: str, place: int, turn: Turn | None) -> Prediction:
        """What one model says about one image."""
        known = self.predicted.get(model, [])
        if place < len(known):
            return known[place]
        confidence, predicted = self._live().logits(model, [place], turn).double().softmax(dim=1).max(dim=1)
        return Prediction(int(predicted), float(confidence))

    def predictions(self, model: str, turn: Turn | None) -> list[Prediction]:
        """What one model says about every image."""
        known = self.predicted.get(model, [])
        rest = range(len(known), len(self.images))
        if not rest:
            return known
        confidence, predicted = self._live().logits(model, rest, turn).double().softmax(dim=1).max(dim=1)
        return [*known, *map(Prediction, predicted.tolist(), confidence.tolist())]

    def asked(self, question: Question, place: int, turn: Turn | None) -> tuple[str, str]:
        """(class explained, class it is held against) for one image."""
        if question.contrast:
            return question.label or self.classes[int(self.images.labels[place])], question.contrast
        target = self._target(question, [place], turn)
        return self.classes[int(target.label)], self.classes[int(target.contrast)]

    def map(self, model: str, question: Question, place: int, turn: Turn | None) -> Map:
        """The map of one image under the teacher, a student, or the mean of a method's students."""
        return self.maps(model, question, [place], turn)[0]

    def maps(self, model: str, question: Question, places: Sequence[int], turn: Turn | None) -> list[Map]:
        """The maps of the images at `places`. That of several students is the mean of R / sum|R|."""
        members = self.members(model)
        if len(members) > 1:
            each = [self.maps(member, question, places, turn) for member in members]
            return [mean_map(one) for one in zip(*each)]
        if self._is_stored(model, question) and max(places, default=0) < self._first:
            maps = self._load(model, question.explainer)
            return [maps[place] for place in places]
        target = self._target(question, places, turn) if not question.contrast else None
        return self._live().maps(model, question, places, turn, target)

    def score(self, model: str, question: Question, metric: str, sign: str, place: int, turn: Turn | None) -> Score:
        """How alike a student's map of one image is to the teacher's. That of several students is the mean score."""
        chance = METRICS[metric].chance(self.grid, sign)
        members = self.members(model)
        every = [self.likeness(member, question, metric, sign, turn) for member in members]
        known = [values for values in every if values is not None]
        if len(known) == len(every):
            mean = mean_defined(known)
            rank = math.nan if math.isnan(mean[place]) else float((mean < mean[place]).sum()) + 1
            return Score(float(mean[place]), chance, rank, self._nulls(members, question, metric, sign, place))
        teacher = self.map(TEACHER, question, place, turn).values[None]
        values = [
            self._scored(metric, sign, teacher, self.map(member, question, place, turn).values[None])
            for member in members
        ]
        return Score(float(mean_defined(values)[0]), chance)

    def likeness(self, model: str, question: Question, metric: str, sign: str, turn: Turn | None) -> Array | None:
        """(N,) scores of one student on all images; None where its maps, or the teacher's, are not all there.

        Images of one's own are explained where the others' scores are stored.
        """
        known = (self.version(model), question, metric, sign)
        if known not in self._likeness:
            stored = self.scores.get((question.explainer, metric, "matched"), {})
            if self._is_own(question) and sign == self.sign and model in stored:
                own = range(self._first, len(self.images))
                pairs = zip(*(self.maps(name, question, own, turn) for name in (TEACHER, model)))
                values = [self._scored(metric, sign, *(one.values[None] for one in pair)) for pair in pairs]
                return np.concatenate([stored[model], *values])
            if all(self._has_all(name, question) for name in (TEACHER, model)):
                every = range(len(self.images))
                a, b = (np.stack([m.values for m in self.maps(n, question, every, None)]) for n in (TEACHER, model))
                self._likeness[known] = self._scored(metric, sign, a, b)
            else:
                return None
        return self._likeness[known]

    def are_stored(self, models: Sequence[str], question: Question) -> bool:
        """Whether all the maps that answer a question came with the images."""
        every = {TEACHER, *(member for name in models for member in self.members(name))}
        return all(self._is_stored(name, question) for name in every)

    def explain_all(self, models: Sequence[str], question: Question, turn: Turn) -> None:
        """Explain every image under some models, so that they can be sorted by likeness."""
        every = range(len(self.images))
        asked = dict.fromkeys([TEACHER, *(member for name in models for member in self.members(name))])
        if self.live is not None:
            self.live.keep(len(asked))
        for model in asked:
            self.maps(model, question, every, turn)

    def _nulls(
        self, members: Sequence[str], question: Question, metric: str, sign: str, place: int
    ) -> dict[str, float]:
        if not self._is_own(question) or sign != self.sign or place >= self._first:
            return {}
        found = {}
        for (explainer, of, pairing), values in self.scores.items():
            if (explainer, of) == (question.explainer, metric) and pairing != "matched":
                rows = [values[member][place] for member in members if member in values]
                if rows and not np.isnan(rows).all():
                    found[pairing] = float(np.nanmean(rows))
        return found

    def _scored(self, metric: str, sign: str, teacher: npt.ArrayLike, student: npt.ArrayLike) -> Array:
        return METRICS[metric](*(with_sign(pool(maps, self.grid), sign) for maps in (teacher, student)))

    def _is_own(self, question: Question) -> bool:
        """Whether it is the question that the stored maps answer."""
        stored = any(explainer == question.explainer for _, explainer in self.stored)
        return stored and not question.label and not question.contrast

    def _is_stored(self, model: str, question: Question) -> bool:
        return self._is_own(question) and (model, question.explainer) in self.stored

    def _has_all(self, model: str, question: Question) -> bool:
        if self._is_stored(model, question) and len(self.images) == self._first:
            return True
        return self.live is not None and self.live.all_known(model, question)

    def _load(self, model: str, explainer: str) -> list[Map]:
        """The stored maps of the first images; undefined ones of a model whose explanation was refused."""
        if (model, explainer) not in self._loaded:
            try:
                self._loaded[model, explainer] = maps_of(self._attribution(model, explainer))
            except ExplanationError as error:
                nothing = np.full(self.images.shape[1:], np.nan, np.float32)
                self._loaded[model, explainer] = [Map(nothing, trouble=str(error))] * self._first
        return self._loaded[model, explainer]

    def _attribution(self, model: str, explainer: str) -> Any:
        attribution = self.stored[model, explainer]()
        if model == TEACHER:
            self._targets[explainer] = attribution.target
        return attribution

    def _target(self, question: Question, places: Sequence[int], turn: Turn | None) -> Target:
        if self._is_own(question) and max(places, default=0) < self._first:
            self._load(TEACHER, question.explainer)
            return self._targets[question.explainer].take(list(places))
        return self._live().target(question, places, turn)

    def _live(self) -> Live:
        if self.live is None:
            raise ConfigError("these maps came without their models: only what they hold can be shown")
        return self.live
