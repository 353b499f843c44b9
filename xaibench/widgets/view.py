"""A run's images, heatmaps, scores and predictions, indexed so that one image is looked up at once."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from xaibench.data.images import ImageSet
from xaibench.errors import ConfigError, RunFolderError
from xaibench.figures.gallery import pixels

__all__ = ["SORTS", "RunLike", "RunView"]

SORTS = {"given": "as given", "least alike": "least alike first", "most alike": "most alike first"}
"""Orders of the images -> how a selector words them."""


class RunLike(Protocol):
    """What a panel asks of a run: an opened run folder, or anything that looks like one."""

    @property
    def images(self) -> ImageSet: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def explainers(self) -> tuple[str, ...]: ...
    @property
    def models(self) -> tuple[str, ...]: ...
    def attribution(self, model: str, explainer: str) -> Any: ...
    def scores(self) -> pd.DataFrame: ...
    def summary(self) -> pd.DataFrame: ...
    def predictions(self) -> pd.DataFrame: ...


class RunView:
    """Read-only look-ups on a run. Heatmaps are read from disk when first asked for and then kept.

    keys      of the images, in the run's order
    pixels    (N, H, W, 3) in [0, 1]
    students  names of the models with scores ("method/seedN"), in the run's order; `explainers` and `metrics`
              are those with scores, too
    """

    def __init__(self, run: RunLike) -> None:
        if not callable(getattr(run, "summary", None)):
            raise ConfigError(f"an explorer shows a run, got {run!r:.60}: give open_run(FOLDER)")
        self._run = run
        self.keys = tuple(run.images.keys)
        self.pixels = pixels(run.images.images.numpy() / 255)
        summary = run.summary()
        self._scores = _by_model(run.scores(), self.keys)
        scored = {model for frame in self._scores.values() for model in frame.columns}
        self.students = tuple(model for model in run.models if model in scored)
        self.metrics = tuple(dict.fromkeys(metric for _, metric in self._scores))
        self.explainers = tuple(name for name in run.explainers if any(name == e for e, _ in self._scores))
        if not self.students:
            raise RunFolderError("the run holds no scored student yet: distil, explain and score one first")
        self._place = {key: place for place, key in enumerate(self.keys)}
        self._chance = summary.set_index(["explainer", "metric", "method"])["chance"].to_dict()
        self._ranks = {question: frame.rank(method="min") for question, frame in self._scores.items()}
        predictions = run.predictions().astype({"image": str})
        predictions = predictions[predictions["image"].isin(self.keys)]
        self._predicted = predictions.pivot(index="image", columns="model", values="predicted").loc[list(self.keys)]
        self._predictions = predictions.set_index(["model", "image"]).to_dict("index")
        self._maps: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
        self._told: dict[tuple[str, str], tuple[Any, dict[str, Any]]] = {}
        self._questions: dict[str, list[tuple[str, str]]] = {}

    def place(self, key: str) -> int:
        """Index of an image."""
        return self._place[key]

    def heatmaps(self, model: str, explainer: str) -> npt.NDArray[np.float64]:
        """(N, H, W) signed relevance of one model; NaN where it has no valid explanation (of this image)."""
        known = (model, explainer)
        if known not in self._maps:
            if model == "teacher" or self.explained(model, explainer):
                attribution = self._run.attribution(model, explainer)
                self._maps[known] = np.asarray(attribution.scored_heatmaps)
                self._told[known] = attribution.explainer, attribution.measured
            else:
                self._maps[known] = np.full_like(self.heatmaps("teacher", explainer), np.nan)
        return self._maps[known]

    def in_words(self, model: str, explainer: str, key: str) -> str:
        """What the explainer tells about its map of one image; "" where it tells nothing."""
        self.heatmaps(model, explainer)
        if (model, explainer) not in self._told:
            return ""
        method, measured = self._told[model, explainer]
        row = slice(self._place[key], self._place[key] + 1)
        return method.in_words({name: value[row] for name, value in measured.items()}) if measured else ""

    def explained(self, model: str, explainer: str) -> bool:
        """Whether a student has scores, and so a valid explanation, with this explainer."""
        return any(model in frame for (name, _), frame in self._scores.items() if name == explainer)

    def question(self, explainer: str, key: str) -> tuple[str, str]:
        """(class explained, class it is contrasted with) of one image."""
        if explainer not in self._questions:
            target, classes = self._run.attribution("teacher", explainer).target, self._run.classes
            pairs = zip(target.label.tolist(), target.contrast.tolist())
            self._questions[explainer] = [(classes[label], classes[contrast]) for label, contrast in pairs]
        return self._questions[explainer][self._place[key]]

    def prediction(self, model: str, key: str) -> dict[str, Any]:
        """label, predicted, confidence and correct of one model on one image."""
        return {str(name): value for name, value in self._predictions[model, key].items()}

    def score(self, model: str, explainer: str, metric: str, key: str) -> tuple[float, float, float]:
        """(score, its chance level, rank among the images: 1 is the least alike); NaN where undefined."""
        question, place = (explainer, metric), self._place[key]
        if model not in self._scores[question]:
            return math.nan, math.nan, math.nan
        chance = self._chance[explainer, metric, model.rpartition("/")[0]]
        score, rank = (float(table[question][model].iloc[place]) for table in (self._scores, self._ranks))
        return score, float(chance), rank

    def order(
        self, students: tuple[str, ...], explainer: str, metric: str, sort: str, differing: bool
    ) -> tuple[str, ...]:
        """Keys of the images to show.

        sort       one of SORTS, by the mean score over `students`; images without a score come last
        differing  keep only those for which one of `students` predicts another class than the teacher
        """
        names, frame = list(students), self._scores[explainer, metric]
        places = np.arange(len(self.keys))
        if differing:
            other = self._predicted[names].ne(self._predicted["teacher"], axis=0).any(axis=1)
            places = places[other.to_numpy()]
        if sort != "given" and names:
            mean = frame.reindex(columns=names).mean(axis=1).to_numpy()[places]
            places = places[np.argsort(mean if sort == "least alike" else -mean, kind="stable")]
        return tuple(self.keys[place] for place in places)


def _by_model(scores: pd.DataFrame, keys: tuple[str, ...]) -> dict[tuple[str, str], pd.DataFrame]:
    """(explainer, metric) -> values of the matched pairing, images down, "method/seedN" across."""
    matched = scores[scores["pairing"] == "matched"]
    matched = matched.astype({"image": str}).assign(model=matched["method"] + "/seed" + matched["seed"].astype(str))
    return {
        (str(explainer), str(metric)): rows.pivot(index="image", columns="model", values="value").reindex(list(keys))
        for (explainer, metric), rows in matched.groupby(["explainer", "metric"], sort=False)
    }
