"""Explanations that are asked for while one looks: computed once, for single images, under any question."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from xaibench.attribution.store.store import AttributionStore
from xaibench.attribution.targets import Target
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.errors import ConfigError, ExplanationError
from xaibench.figures.names import explainer_label, method_label

if TYPE_CHECKING:
    from xaibench.attribution.result import Attribution
    from xaibench.widgets.worker import Turn

__all__ = ["TEACHER", "Live", "Map", "NotKnownError", "Question", "Version", "maps_of"]

Array = npt.NDArray[np.float32]

TEACHER = "teacher"

_BATCH = 8  # images between two looks at whether somebody still waits
_BYTES = 2**29  # of maps that are kept


class NotKnownError(Exception):
    """Raised where an answer needs a model, or a file, and there is no time for it now."""


@dataclass(frozen=True)
class Question:
    """What is asked about an image: z_label - z_contrast, by an explainer ("lrp", "ig:baseline=blur").

    label     class that is explained; "" the image's own
    contrast  class it is held against; "" the one that the teacher ranks highest besides `label`
    """

    explainer: str
    label: str = ""
    contrast: str = ""


@dataclass(frozen=True, eq=False)
class Map:
    """The answer for one image under one model.

    values   (H, W) signed relevance, in logits; NaN throughout where undefined
    told     what the explainer tells about this map ("estimated error 1.3% of the map, ...")
    trouble  why it is undefined; ""
    """

    values: Array
    told: str = ""
    trouble: str = ""


Version = tuple[str, int]
"""A model's name, and how often another one has taken its place."""


def maps_of(attribution: Attribution) -> list[Map]:
    """The maps of an explanation, one an image."""
    flagged = set(attribution.validity.flagged)
    maps = []
    for row, values in enumerate(attribution.scored_heatmaps.numpy()):
        measured = {name: value[row : row + 1] for name, value in attribution.measured.items()}
        told = attribution.explainer.in_words(measured) if measured else ""
        maps.append(Map(values, told, "undefined: this map does not meet its tolerance" if row in flagged else ""))
    return maps


class Live:
    """Models by name that can be asked about images. What was computed is kept, in memory and in `store`.

    models  "teacher" and the students; each a module or a function that loads it
    images  more can be appended (`Live.images = ...`) while the first ones stay where they are

    All methods take a `turn`, the piece of work they are part of; without one they raise NotKnownError where a model
    would have to be called.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module | Callable[[], nn.Module]],
        images: ImageSet,
        preprocessing: Preprocessing,
        store: AttributionStore | None,
    ) -> None:
        self.images, self.preprocessing, self.store = images, preprocessing, store
        self._loaders = dict(models)
        self._versions: dict[str, int] = {}
        self._modules: dict[Version, nn.Module] = {}
        self._logits: dict[tuple[Version, int], Tensor] = {}
        self._maps: OrderedDict[tuple[Version, Question, int], Map] = OrderedDict()
        self._lock = threading.Lock()  # a panel looks up while its worker computes

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(self._loaders)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the models that were needed so far."""
        return tuple(name for name, _ in self._modules)

    def version(self, name: str) -> Version:
        """The model of that name as it is now: what is known of it is known of this version alone."""
        return name, self._versions.get(name, 0)

    def add(self, name: str, model: nn.Module) -> None:
        """Another student, in place of one of that name, which a worker may be asking now."""
        with self._lock:
            old = self.version(name)
            self._loaders[name] = model
            self._versions[name] = old[1] + 1
            self._modules.pop(old, None)
            for known in [key for key in self._maps if key[0] == old]:
                del self._maps[known]
            for row in [key for key in self._logits if key[0] == old]:
                del self._logits[row]

    def module(self, name: str, turn: Turn | None) -> nn.Module:
        """The model of that name, loaded."""
        with self._lock:
            version, given = self.version(name), self._loaders[name]
        if version not in self._modules:
            if not isinstance(given, nn.Module):
                _needs(turn)
                given = given()
            self._modules[version] = given
        return self._modules[version]

    def inputs(self, places: Sequence[int]) -> Tensor:
        """Normalised images (n, C, H, W)."""
        return self.preprocessing(self.images.images[list(places)])

    def logits(self, name: str, places: Iterable[int], turn: Turn | None) -> Tensor:
        """A model's logits (n, K) for the images at `places`."""
        from xaibench.models.predict import predict_logits

        places, version = list(places), self.version(name)
        known = {place: row for place in places if (row := self._logits.get((version, place))) is not None}
        missing = [place for place in places if place not in known]
        if missing:
            found = predict_logits(self.module(name, _needs(turn)), self.images.take(missing), self.preprocessing)
            known |= dict(zip(missing, found))
            with self._lock:
                self._logits |= {(version, place): known[place] for place in missing}
        return torch.stack([known[place] for place in places])

    def predicted_label(self, image: Tensor, turn: Turn) -> int:
        """The class that the teacher predicts for an image (C, H, W) uint8 that is not among these."""
        from xaibench.models.predict import predict_logits

        turn.report(0.0, method_label(TEACHER))
        one = ImageSet(image[None], torch.zeros(1, dtype=torch.int64), self.images.classes, ("own",))
        return int(predict_logits(self.module(TEACHER, turn), one, self.preprocessing).argmax())

    def target(self, question: Question, places: Sequence[int], turn: Turn | None) -> Target:
        """What a question asks about the images at `places`."""
        label = self._label(question.label, places)
        if question.contrast:
            contrast = torch.full_like(label, self._index(question.contrast))
        else:
            others = self.logits(TEACHER, places, turn).double()
            contrast = others.scatter(1, label[:, None], -torch.inf).argmax(dim=1)
        if bool((label == contrast).any()):
            one = self.images.classes[int(label[label == contrast][0])]
            raise ConfigError(f"'{one}' cannot be held against itself: choose another class, or the runner-up")
        return Target(label, contrast)

    def maps(
        self, name: str, question: Question, places: Sequence[int], turn: Turn | None, target: Target | None = None
    ) -> list[Map]:
        """The maps of the images at `places` under one model. One that a check refuses says why, and so does one of an
        image whose own class is the contrast.

        target  what is asked, where it does not follow from the question
        """
        version = self.version(name)
        with self._lock:
            known = {p: self._maps[version, question, p] for p in places if (version, question, p) in self._maps}
        missing = [place for place in places if place not in known]
        if question.contrast and not question.label:
            why = f"undefined: '{question.contrast}' cannot be held against itself"
            own = [p for p in missing if int(self.images.labels[p]) == self._index(question.contrast)]
            known |= {place: self._nothing(why) for place in own}
            missing = [place for place in missing if place not in own]
        for start in range(0, len(missing), _BATCH):
            part = missing[start : start + _BATCH]
            note = f"{explainer_label(question.explainer)} of {method_label(name)}"
            _needs(turn).report(start / len(missing), note)
            chosen = None if target is None else target.take([list(places).index(place) for place in part])
            made = dict(zip(part, self._explained(name, question, part, turn, chosen)))
            known |= made
            self._keep(version, question, made)
        self._keep(version, question, known)
        return [known[place] for place in places]

    def _keep(self, version: Version, question: Question, maps: Mapping[int, Map]) -> None:
        """Remember maps as the latest."""
        with self._lock:
            for place, one in maps.items():
                self._maps[version, question, place] = one
                self._maps.move_to_end((version, question, place))
            while len(self._maps) > self.most:
                self._maps.popitem(last=False)

    def all_known(self, name: str, question: Question) -> bool:
        """Whether the maps of all images are there."""
        version = self.version(name)
        return all((version, question, place) in self._maps for place in range(len(self.images)))

    @cached_property
    def most(self) -> int:
        """How many maps are kept at most; `Live.keep` raises it."""
        _, height, width = self.images.shape
        return max(64, _BYTES // (4 * height * width))

    def keep(self, models: int) -> None:
        """Keep the maps of all images under so many models, however much memory these take."""
        self.most = max(self.most, models * len(self.images))

    def _explained(
        self, name: str, question: Question, places: list[int], turn: Turn | None, target: Target | None
    ) -> list[Map]:
        from xaibench.attribution.explain import explain_model

        target = self.target(question, places, turn) if target is None else target
        x = self.inputs(places)
        try:
            attribution = explain_model(
                self.module(name, turn), x, target, question.explainer, self.preprocessing, store=self.store
            )
        except ExplanationError as error:
            return [self._nothing(str(error))] * len(places)
        return maps_of(attribution)

    def _nothing(self, why: str) -> Map:
        return Map(np.full(self.images.shape[1:], np.nan, np.float32), trouble=why)

    def _label(self, name: str, places: Sequence[int]) -> Tensor:
        own = self.images.labels[list(places)]
        return torch.full_like(own, self._index(name)) if name else own

    def _index(self, name: str) -> int:
        return self.images.classes.index(name)


def _needs(turn: Turn | None) -> Turn:
    if turn is None:
        raise NotKnownError
    return turn
