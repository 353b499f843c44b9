"""What a cue study asks of each model, and the table that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from xaibench.attribution.targets import Target, make_target
from xaibench.data.cue_kinds import Cue
from xaibench.data.cues import Marked, mark, marked_class, other_labels
from xaibench.data.images import ImageSet, Preprocessing
from xaibench.models.predict import predict_logits
from xaibench.similarity.intervals import common_images, curve_interval
from xaibench.similarity.localisation import LOCALISATIONS

__all__ = ["CueExam", "summarise_cues"]

_RESAMPLES = 10_000


@dataclass(frozen=True, eq=False)
class CueExam:
    """The questions: all test images without and with the mark, and some marked ones to explain.

    A mark tells a class: that of one class, wherever it stands, or the digit that is drawn.

    clean   the test images
    marked  the same with the mark on every one; a digit tells the image's own class
    wrong   the same with a mark that tells another class than the image's own, where `told` does
    told    (N,) the label that the mark tells in `wrong`
    shown   marked images that are explained, spread over the classes; a digit tells another class than their own
    target  their explained output: the class that the mark tells rather than the teacher's likeliest other class
    device  where models are run, in copies; None: where they are
    """

    clean: ImageSet
    marked: ImageSet
    wrong: ImageSet
    told: Tensor
    shown: Marked
    target: Target
    preprocessing: Preprocessing
    device: torch.device | None = None

    @classmethod
    def create(
        cls,
        test: ImageSet,
        teacher: nn.Module,
        preprocessing: Preprocessing,
        cue: Cue,
        cue_class: str | None = None,
        *,
        images: int = 100,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> CueExam:
        """Mark the test images. Raises what `data.cues.mark` and `marked_class` do."""
        carrier = marked_class(test, cue, cue_class)
        marked = mark(test, cue, seed=seed).images
        sample = test.sample(images, seed)
        if carrier is None:
            told, told_shown = (other_labels(part, seed) for part in (test, sample))
            wrong = mark(test, cue, values=told, seed=seed).images
            shown = mark(sample, cue, values=told_shown, seed=seed)
        else:
            told, told_shown = (torch.full((len(part),), carrier) for part in (test, sample))
            wrong, shown = marked, mark(sample, cue, seed=seed)
        logits = predict_logits(teacher, shown.images, preprocessing, device=device)
        return cls(test, marked, wrong, told, shown, make_target(logits, told_shown), preprocessing, device)

    def predictions(self, model: nn.Module) -> pd.DataFrame:
        """Rows explainer ("-"), quantity, image, value, chance: accuracy, marked_accuracy, attack_success,
        wrong_accuracy.
        """
        labels, keys = self.clean.labels, np.array(self.clean.keys)
        clean, marked = (self._answers(model, images) for images in (self.clean, self.marked))
        wrong = marked if self.wrong is self.marked else self._answers(model, self.wrong)
        others = (labels != self.told).numpy()
        turned, mistaken, right = (
            part.numpy()[others] for part in (wrong == self.told, clean == self.told, wrong == labels)
        )
        return pd.concat(
            [
                _rows("-", "accuracy", keys, (clean == labels).numpy()),
                _rows("-", "marked_accuracy", keys, (marked == labels).numpy()),
                _rows("-", "attack_success", keys[others], turned, mistaken),
                _rows("-", "wrong_accuracy", keys[others], right),
            ],
            ignore_index=True,
        )

    def _answers(self, model: nn.Module, images: ImageSet) -> Tensor:
        return predict_logits(model, images, self.preprocessing, device=self.device).argmax(1)

    def localisations(self, heatmaps: Any, explainer: str) -> pd.DataFrame:
        """The same columns for every localisation score of heatmaps (N, H, W) of the shown images on the mark."""
        keys, masks = self.shown.images.keys, self.shown.masks
        return pd.concat(
            [
                _rows(explainer, s.name, keys, s(heatmaps, masks), s.chance(heatmaps, masks))
                for s in LOCALISATIONS.values()
            ],
            ignore_index=True,
        )


def summarise_cues(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a contamination, method, explainer and quantity: mean over seeds and images with its 95% interval.

    scores  columns contamination, method, seed, explainer, quantity, image, value, chance; the rows of method "teacher"
            have contamination NaN

    All are compared on the same `images`, those on which all have a defined score of this explainer and quantity
    (`common_images`). `n` counts the scores that a mean rests on, `nan` the undefined ones. `chance` is the mean of
    that column. `difference` is the mean of student minus teacher, with its interval; NaN in the teacher's rows.
    """
    kind = ["explainer", "quantity"]
    of_teacher = scores["method"] == "teacher"
    goals = {which: part.set_index("image")["value"] for which, part in scores[of_teacher].groupby(kind)}
    common = {which: _common(part) for which, part in scores.groupby(kind)}
    rows = []
    for (level, method, *which), part in scores.groupby(["contamination", "method", *kind], sort=False, dropna=False):
        images = common[tuple(which)]
        values, chance = (part.pivot(index="seed", columns="image", values=name) for name in ("value", "chance"))
        both = [values] if method == "teacher" else [values, values - goals[tuple(which)]]
        mean, low, high, n = curve_interval(
            np.stack([one[images].to_numpy() for one in both], axis=-1), resamples=_RESAMPLES
        )
        row = {"contamination": level, "method": method, **dict(zip(kind, which)), "seeds": len(values)}
        row |= {"images": len(images), "mean": mean[0], "low": low[0], "high": high[0], "n": n}
        row |= {"nan": int(values.isna().sum().sum()), "chance": pd.Series(chance[images].to_numpy().ravel()).mean()}
        for end, ends in (("", mean), ("_low", low), ("_high", high)):
            row[f"difference{end}"] = np.nan if method == "teacher" else ends[1]
        rows.append(row)
    return pd.DataFrame(rows)


def _common(scores: pd.DataFrame) -> list[str]:
    index = ["contamination", "method", "seed"]
    table = scores.fillna({"contamination": -1}).pivot(index=index, columns="image", values="value")
    return table.columns[common_images(table)].tolist()


def _rows(
    explainer: str, quantity: str, keys: Sequence[str] | npt.NDArray[np.str_], value: Any, chance: Any = np.nan
) -> pd.DataFrame:
    table = pd.DataFrame({"explainer": explainer, "quantity": quantity, "image": list(keys)})
    return table.assign(value=np.asarray(value, dtype=np.float64), chance=np.asarray(chance, dtype=np.float64))
