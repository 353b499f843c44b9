"""How many directions of a layer the teacher needs: its accuracy with the layer projected on the first k of a basis.

Asked of one run, for its subtask, or of several runs, on average over their subtasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from xaibench.errors import ConfigError, RunFolderError, unknown_name
from xaibench.figures.dimension import dimension_figure
from xaibench.models.predict import as_device, predict_logits
from xaibench.progress import progress
from xaibench.questions.question import Question, choose_layers, command
from xaibench.run.answers import facts
from xaibench.run.folder import Run, open_run
from xaibench.run.inputs import Assets
from xaibench.run.pipeline import reopen
from xaibench.run.training import shared_moments
from xaibench.similarity.intervals import mean_interval, seed_interval
from xaibench.similarity.projection import projected_logits
from xaibench.subspace.bases import BASES, make_basis
from xaibench.validation import checked

__all__ = ["dimension_run", "dimension_runs", "over_subtasks"]

_BASES = ("prcaposdef", "pca", "random")
_IMAGES = 500


@checked
def dimension_run(
    run: Run,
    *,
    bases: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    images: int | None = None,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Measure the teacher with one layer's activations a replaced by mu + U_k U_k'(a - mu); write
    dimension.{csv,pdf,png} into the run's folder and return the table. Other options than the defaults stand in the
    names. An answer that still stands is read back (`Question`).

    bases   names in `subspace.bases.BASES`; None: prcaposdef, pca and random
    layers  pairs to look at, by the teacher's or the student's name or as "teacher:student"; None: all
    images  how many test images, evenly over the classes; None: 500, or all where there are fewer
    device  where the teacher works, None: the CPU; no part of the question

    A row a layer, basis and k (powers of 2, the student's width, and all d): accuracy with its 95% interval [low, high]
    over n images; agreement, the share of images with the prediction of the teacher as it is; width, the student's
    channels; chance, the share of the most frequent class. The rows of basis "none" hold the teacher as it is.

    Raises UnknownNameError for bases and layers that there are not, ConfigError for images out of range.

    Source: SubDistill, arXiv 2601.05913.
    """
    chosen = list(dict.fromkeys(bases or _BASES))
    for name in chosen:
        if name not in BASES:
            raise unknown_name("basis", name, BASES)
    pairs = choose_layers(run, layers)
    most = run.manifest["images"]["test"]
    if images is not None and not 1 <= images <= most:
        raise ConfigError(f"{images} images were asked for, but there are {most} test images: choose 1 to {most}")
    some_bases = chosen if bases is not None and tuple(chosen) != _BASES else []
    some_layers = list(map(str, pairs)) if len(pairs) < len(run.manifest["layers"]) else []
    question = Question(
        run.folder,
        "dimension",
        {"bases": chosen, "layers": list(map(str, pairs)), "images": images},
        facts(run, {"config": ["data.seed", "student.architecture"], "hashes": run.manifest["hashes"]}),
        (" ".join(some_bases), " ".join(some_layers), images and f"{images}images"),
        command("dimension", "RUN", basis=some_bases, layer=some_layers, images=images),
    )
    answer = question.answer()
    if answer is None:
        table = _table(run, reopen(run)[1], chosen, list(map(str, pairs)), images, as_device(device))
        answer = question.keep({question.stem: table}, {question.stem: dimension_figure(table)})
    return answer[question.stem]


@checked
def dimension_runs(
    runs: Sequence[Run | Path | str],
    folder: Path | str,
    *,
    bases: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    images: int | None = None,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Ask several runs, each for its own subtask, write the mean over subtasks to dimension.{csv,pdf,png} in `folder`.

    runs    two or more runs, or their folders, of different classes; all of one teacher and one student architecture
    folder  a new one, or that of an earlier answer to the same kind of question

    Other arguments and errors as in `dimension_run`; the answer of each run is kept in its own folder. Returns what
    `over_subtasks` does. Raises ConfigError for runs that have other layers or widths, or the same classes,
    RunFolderError for a folder with other contents.
    """
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    if len(opened) < 2:
        raise ConfigError("a mean over subtasks needs at least two runs: give more, or ask one alone")
    seen: dict[frozenset[str], Run] = {}
    for run in opened:
        if (other := seen.setdefault(frozenset(run.classes), run)) is not run:
            raise ConfigError(f"{other.folder} and {run.folder} have the same classes: leave one of them out")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(not p.name.startswith("dimension") for p in folder.iterdir())):
        raise RunFolderError(f"{folder} holds something else than an answer over subtasks: choose another folder")
    tables = {
        str(run.folder): dimension_run(run, bases=bases, layers=layers, images=images, device=device) for run in opened
    }
    table = over_subtasks(tables)
    chosen, words = [str(name) for name in table["basis"].unique() if name != "none"], list(tables)
    question = Question(
        folder,
        "dimension",
        {"runs": words, "bases": chosen, "layers": list(table["layer"].unique()), "images": images},
        {},
        (),
        command("dimension", *words, basis=bases and chosen, layer=layers and list(layers), images=images, out=folder),
    )
    return question.keep({"dimension": table}, {"dimension": dimension_figure(table)})["dimension"]


def over_subtasks(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The mean over subtasks of what `dimension_run` returned for each, with its 95% t interval.

    tables  name of a subtask -> its table; all have the same layers, bases and k, or ConfigError names the one that
            has not

    Columns as in `dimension_run`; n is the number of subtasks, which the interval speaks for, chance and agreement are
    means, too.
    """
    kinds = ["layer", "basis", "k", "width"]
    (first, model), *others = tables.items()
    for name, table in others:
        if not table[kinds].equals(model[kinds]):
            raise ConfigError(
                f"{first} and {name} have other layers or widths: give runs of one teacher and one student architecture"
            )
    joined = pd.concat(tables.values(), ignore_index=True)
    rows = []
    for names, part in joined.groupby(kinds, sort=False):
        score = seed_interval(part["accuracy"]).within(0, 1)
        row = {"accuracy": score.mean, "low": score.low, "high": score.high, "n": score.n}
        rows.append(dict(zip(kinds, names)) | row | part[["agreement", "chance"]].mean().to_dict())
    return pd.DataFrame(rows)[[*model.columns]].assign(unit="subtasks")


def _table(
    run: Run, assets: Assets, bases: list[str], layers: list[str], images: int | None, device: torch.device | None
) -> pd.DataFrame:
    pair, seed = assets.pair, run.config.data.seed
    test = assets.task.test.sample(min(images or _IMAGES, len(assets.task.test)), seed)
    moments = shared_moments(run, assets)
    _, height, width = test.shape
    shapes = {str(p): shape for p, shape in pair.layer_shapes((height, width)).items()}
    whole = predict_logits(pair.teacher, test, pair.preprocessing, device=device).argmax(1)
    chance = test.labels.bincount().max().item() / len(test)
    own = mean_interval((whole == test.labels).double().numpy()[None], seed=seed).within(0, 1)
    rows: list[dict[str, Any]] = []
    counts = {layer: _counts(shapes[layer][0][0], shapes[layer][1][0]) for layer in layers}
    passes = sum(map(len, counts.values())) * len(bases) * len(test)
    with progress("projected layers", passes) as advance:
        for layer in layers:
            name, (teacher_shape, student_shape) = layer.partition(":")[0], shapes[layer]
            d, about = teacher_shape[0], {"layer": layer, "width": student_shape[0], "chance": chance, "n": len(test)}
            rows.append(
                about
                | {"basis": "none", "k": d, "accuracy": own.mean, "low": own.low, "high": own.high, "agreement": 1.0}
            )
            for kind in bases:
                basis = make_basis(moments[name], kind, d, seed=seed)
                logits = projected_logits(
                    pair.teacher, test, pair.preprocessing, name, basis, counts[layer], device=device, on_batch=advance
                )
                for k, answers in zip(counts[layer], logits.argmax(2)):
                    score = mean_interval((answers == test.labels).double().numpy()[None], seed=seed).within(0, 1)
                    row = {"basis": kind, "k": k, "accuracy": score.mean, "low": score.low, "high": score.high}
                    rows.append(about | row | {"agreement": (answers == whole).double().mean().item()})
    first = ["layer", "basis", "k", "accuracy", "low", "high", "agreement", "n", "width", "chance"]
    return pd.DataFrame(rows)[first]


def _counts(d: int, width: int) -> list[int]:
    """Powers of 2 below d, the student's width, and d.

    >>> _counts(24, 10)
    [1, 2, 4, 8, 10, 16, 24]
    """
    powers = [2**i for i in range(d.bit_length()) if 2**i < d]
    return sorted({*powers, min(width, d), d})
