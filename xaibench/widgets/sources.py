"""Whatever one has at hand -> what an explorer shows: a run, a pair, two models, or finished maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from xaibench.attribution.store.store import AttributionStore, default_store
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.errors import ConfigError, DataError, RunFolderError
from xaibench.similarity.maps import default_grid
from xaibench.similarity.metrics.table import DEFAULT_METRICS
from xaibench.widgets.answers import Prediction
from xaibench.widgets.comparison import Comparison
from xaibench.widgets.live import TEACHER, Live

if TYPE_CHECKING:
    from xaibench.attribution.explain import PairAttribution
    from xaibench.models.pair import ModelPair
    from xaibench.run.folder import Run

__all__ = ["RunLike", "comparison_of"]

_EXPLAINERS = ("lrp", "ig", "input-x-gradient", "smoothgrad", "gradcam", "occlusion", "shapley")
_MOST = 200  # images of a data set that are shown where none were chosen


class RunLike(Protocol):
    """What an explorer asks of a run: an opened run folder, or anything that looks like one."""

    @property
    def images(self) -> ImageSet: ...
    @property
    def explainers(self) -> tuple[str, ...]: ...
    @property
    def models(self) -> tuple[str, ...]: ...
    def attribution(self, model: str, explainer: str) -> Any: ...
    def scores(self) -> pd.DataFrame: ...
    def predictions(self) -> pd.DataFrame: ...


def comparison_of(
    what: Any,
    second: Any = None,
    images: Any = None,
    *,
    preprocessing: Preprocessing | None = None,
    store: AttributionStore | None = None,
) -> Comparison:
    """What is to be compared, from the forms that `explore` takes; see there."""
    from xaibench.models.pair import ModelPair

    store = default_store() if store is None else store
    if isinstance(what, (str, Path)):
        from xaibench.run.folder import open_run

        what = open_run(what)
    if isinstance(what, Comparison):
        return what
    if callable(getattr(what, "scores", None)) and hasattr(what, "explainers"):
        return of_run(what, store)
    if isinstance(what, ModelPair):
        return of_pair(what, _images(second if images is None else images, what.classes, what.preprocessing), store)
    if isinstance(what, nn.Module):
        return of_models(what, second, images, preprocessing, store)
    if hasattr(what, "teacher") and hasattr(what, "student"):
        return of_maps(what, second if images is None else images)
    raise ConfigError(
        f"cannot explore {what!r:.60}: give a run or its folder, a pair and images, two models, images and their "
        "preprocessing, or what explain(pair, images) returned and the images"
    )


def of_run(run: RunLike, store: AttributionStore) -> Comparison:
    """A run's explained images. Files are read when they are needed; further questions are asked of its models."""
    images = run.images
    scores = run.scores()
    of_models = _by_model(scores, images.keys)
    scored = {model for frame in of_models.values() for model in frame}
    students = tuple(model for model in run.models if model in scored)
    if not students:
        raise RunFolderError("the run holds no scored student yet: distil, explain and score one first")
    explainers = tuple(name for name in run.explainers if any(name == explainer for explainer, _, _ in of_models))
    stored = {
        (model, explainer): (lambda model=model, explainer=explainer: run.attribution(model, explainer))
        for explainer in explainers
        for model in (TEACHER, *students)
    }
    config = getattr(run, "config", None)
    metrics = tuple(dict.fromkeys(metric for _, metric, _ in of_models))
    comparison = Comparison(
        images,
        students,
        explainers,
        metrics,
        grid=default_grid(*images.shape[1:]),
        stored=stored,
        predicted=_predictions(run.predictions(), (TEACHER, *students), images),
        scores=of_models,
    )
    if config is not None:
        comparison.grid = config.similarity.grid or comparison.grid
        comparison.sign = config.similarity.sign
        comparison.live = _live_of_run(run, students, images, store)  # type: ignore[arg-type]
        comparison.about = {"run": str(run.folder), "moments": str(run.folder / "subspace.safetensors")}  # type: ignore[attr-defined]
    return comparison


def of_pair(pair: ModelPair, images: ImageSet, store: AttributionStore) -> Comparison:
    """A pair on some images; everything is computed when it is looked at."""
    return _of_live(Live({TEACHER: pair.teacher, "student": pair.student}, images, pair.preprocessing, store))


def of_models(
    teacher: nn.Module, student: Any, images: Any, preprocessing: Preprocessing | None, store: AttributionStore
) -> Comparison:
    """Two models that are no pair yet: their logits must be the images' classes, in that order."""
    from xaibench.models.pair import ModelPair

    if not isinstance(student, nn.Module):
        raise ConfigError(f"a teacher needs a student to be compared with, got {student!r:.60}: give two models")
    if preprocessing is None:
        raise ConfigError(
            "the mean and std that the models were trained with are not known: give preprocessing, as in "
            "Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
        )
    chosen = _images(images, None, preprocessing)
    pair = ModelPair.create(
        teacher,
        student,
        classes=chosen.classes,
        preprocessing=preprocessing,
        layers=(),
        input_size=chosen.shape[1:],
    )
    return of_pair(pair, chosen, store)


def of_maps(maps: PairAttribution, images: Any) -> Comparison:
    """Finished maps and the images that they explain: shown and scored, but no further question can be asked."""
    if not isinstance(images, ImageSet) or len(images) != len(maps.teacher):
        raise DataError(f"{len(maps.teacher)} images were explained, got {images!r:.60}: give those images beside them")
    explainer = _text(maps.teacher)
    stored = {(TEACHER, explainer): lambda: maps.teacher, ("student", explainer): lambda: maps.student}
    grid = default_grid(*images.shape[1:])
    return Comparison(images, ("student",), (explainer,), DEFAULT_METRICS, grid, stored=stored)


def _of_live(live: Live) -> Comparison:
    students = tuple(name for name in live.models if name != TEACHER)
    grid = default_grid(*live.images.shape[1:])
    return Comparison(live.images, students, _EXPLAINERS, DEFAULT_METRICS, grid, live=live)


def _live_of_run(run: Run, students: tuple[str, ...], images: ImageSet, store: AttributionStore) -> Live:
    def teacher() -> nn.Module:
        from xaibench.models.class_slice import sliced
        from xaibench.run.inputs import load_teacher

        network, card = load_teacher(run.config.teacher, run.config.data.dataset)
        return sliced(network.eval(), card.classes, run.classes)

    models: Mapping[str, Any] = {TEACHER: teacher} | {name: (lambda name=name: run.student(name)) for name in students}
    return Live(models, images, run.preprocessing, store)


def _images(given: Any, classes: tuple[str, ...] | None, preprocessing: Preprocessing) -> ImageSet:
    """An ImageSet as it is; of a task or a data set by name, some of its test images."""
    if isinstance(given, ImageSet):
        return given
    if isinstance(given, str):
        from xaibench.data.tasks import load_task

        given = load_task(given, "all" if classes is None else list(classes), size=preprocessing.size)
    test = getattr(given, "test", None)
    if not isinstance(test, ImageSet):
        raise DataError(f"no images to look at, got {given!r:.60}: give an ImageSet, a task or 'imagefolder:FOLDER'")
    return test.sample(_MOST) if len(test) > _MOST else test


def _text(attribution: Any) -> str:
    from xaibench.options import format_options

    return format_options(attribution.explainer)


def _predictions(table: pd.DataFrame, models: tuple[str, ...], images: ImageSet) -> dict[str, list[Prediction]]:
    number = {name: place for place, name in enumerate(images.classes)}
    wanted = table[table["model"].isin(models)].astype({"image": str})
    found = {}
    for model, rows in wanted.groupby("model"):
        rows = rows.set_index("image").reindex(list(images.keys))
        if rows["predicted"].isna().any():
            raise RunFolderError(f"the predictions of {model} lack some of the explained images: explain the run again")
        found[str(model)] = [
            Prediction(number[predicted], float(confidence))
            for predicted, confidence in zip(rows["predicted"], rows["confidence"])
        ]
    return found


def _by_model(
    scores: pd.DataFrame, keys: tuple[str, ...]
) -> dict[tuple[str, str, str], dict[str, npt.NDArray[np.float64]]]:
    """(explainer, metric, pairing) -> model -> values, one an image."""
    place = {key: i for i, key in enumerate(keys)}
    rows = scores["image"].astype(str).map(place)
    if rows.isna().any():
        raise RunFolderError("the scores are of other images than those explained: score the run again")
    table = scores.assign(place=rows.astype(int), model=scores["method"] + "/seed" + scores["seed"].astype(str))
    found: dict[tuple[str, str, str], dict[str, npt.NDArray[np.float64]]] = {}
    for (*question, model), part in table.groupby(["explainer", "metric", "pairing", "model"], sort=False):
        values = np.full(len(keys), np.nan)
        values[part["place"].to_numpy()] = part["value"].to_numpy()
        explainer, metric, pairing = map(str, question)
        found.setdefault((explainer, metric, pairing), {})[str(model)] = values
    return found
