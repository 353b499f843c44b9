"""Does a student rely on a spurious mark more than its teacher? Distilled on data in which some images carry the mark.

A study lies in a run folder (see `run`), beside whatever a run of the same configuration has left there:

students/                   trained without the mark: those of the run itself
contamination-C/students/   trained with the mark on the share C of its class's training and validation images
attributions/               among others, relevance of marked test images under the teacher and every student
cues.json                   what the answer was made from: the mark, its class, contaminations, explainers, weights
cues-scores.csv  cues.csv  cues.{pdf,png}  cues-gallery.{pdf,png}
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from xaibench.attribution.explain import explain_model
from xaibench.data.cue_kinds import Cue, parse_cue
from xaibench.data.cues import contaminate, mark, marked_class
from xaibench.distillation.distill import make_fabric
from xaibench.errors import ConfigError, ExplanationError, RunFolderError
from xaibench.figures.cues import cues_figure
from xaibench.figures.gallery import gallery
from xaibench.figures.names import explainer_label
from xaibench.options import format_options
from xaibench.progress import progress
from xaibench.questions.cue_scores import CueExam, summarise_cues
from xaibench.questions.question import Question, choose, command
from xaibench.run.answers import facts, read_record
from xaibench.run.config import RunConfig
from xaibench.run.folder import TEACHER, Run
from xaibench.run.inputs import Assets
from xaibench.run.pipeline import create_run, leave_to_one_process
from xaibench.run.training import distill_students
from xaibench.similarity.localisation import relevance_mass
from xaibench.validation import checked

__all__ = ["CONTAMINATIONS", "cue_study"]

_log = logging.getLogger(__name__)

CONTAMINATIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
_EXTENSIBLE = ("contaminations", "explainers")
_COLUMNS = ["contamination", "method", "seed", "explainer", "quantity", "image", "value", "chance"]
_GALLERY_ROWS, _GALLERY_COLUMNS = 3, 6


@checked
def cue_study(
    config: RunConfig | str | Path,
    folder: Path | str,
    *,
    cue: str = "plus",
    cue_class: str | None = None,
    contaminations: Sequence[float] = CONTAMINATIONS,
    explainers: Sequence[str] | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    extend: bool = False,
) -> pd.DataFrame:
    """Distil the configuration's students at every contamination and measure how much they rely on the mark.

    config          a RunConfig, a TOML file or the name of a preset. Its teacher is used as it is: give a checkpoint
                    trained on marked images (`data.cues.contaminate`) to ask what students inherit from such a teacher
    folder          a run folder of this configuration, or a new one; a killed study resumes
    cue             mark and options as text, "plus:size=5,corner=random" (`data.cue_kinds.CUES`)
    cue_class       the class that carries the mark; None: the first of the task. A digit takes none: it stands on
                    images of all classes and tells each its own
    contaminations  shares of its training and validation images with the mark, each in 0..1
    explainers      some of the configuration's explainers; None: its first
    extend          the folder may hold a study of other contaminations and explainers, or a run that differs in what
                    `run_config` lets differ: its students are kept, and its contaminations and explainers are measured
                    with those given

    Returns the table that cues.csv holds, `summarise_cues` of what is measured on test images (cues-scores.csv):

    accuracy         on clean images
    marked_accuracy  with the mark on every image, of whatever class; a digit tells the image's own
    wrong_accuracy   on images whose mark tells another class than their own: marked images of the other classes, or all
                     images with another digit
    attack_success   share of these images that are taken for the class that the mark tells; chance: the same model's
                     share where no mark stands
    mass, net_mass, absolute_mass, pointing, topk, auc
                     scores of `similarity.localisation`: how much of the relevance lies in the mark's box, in marked
                     images of all classes alike (digits tell another class there). What is explained is the class that
                     the mark tells rather than the one that the teacher holds likeliest of the others. Chance: that of
                     the same maps, their pixels in random order

    A mark that stands out gets relevance also from models that do not need it, for the class or against it: read `mass`
    beside `net_mass`, and both beside `attack_success`, which is what the mark does.

    Raises RunFolderError for a folder with other contents, a run of another configuration or a study of another mark.
    """
    config = config if isinstance(config, RunConfig) else RunConfig.load(config)
    drawn, levels, seed, folder = parse_cue(cue), _levels(contaminations), config.data.seed, Path(folder)
    explainers = choose(
        "explainer of this configuration", explainers or config.explain.explainers[:1], config.explain.explainers
    )
    fabric = make_fabric(config.train, accelerator, devices, launch=False)
    held = read_record(folder / "cues.json").get("options", {})
    if extend:
        levels = tuple(sorted({*held.get("contaminations", ()), *levels}))
        explainers = list(dict.fromkeys([*held.get("explainers", ()), *explainers]))

    def fitting(assets: Assets) -> dict[str, Any]:
        test = assets.task.test
        carrier = marked_class(test, drawn, cue_class)
        options: dict[str, Any] = {"cue": format_options(drawn, full=True)}
        options |= {"class": None if carrier is None else test.classes[carrier]}
        options |= {"contaminations": list(levels), "explainers": explainers}
        _require_same(folder, held, options, extend)
        mark(test.take([0]), drawn)
        return options

    run, assets = create_run(config, folder, extend=extend, check=fitting)
    options = fitting(assets)
    label = options["class"]
    parts = {level: run if level == 0 else Run(run.folder / f"contamination-{level}", config) for level in levels}
    for level, part in parts.items():
        marked = _contaminated(assets, drawn, label, level, seed)
        _require_own(part, marked)
        distill_students(part, marked, fabric)
    leave_to_one_process(fabric)
    students = [part.student_folder(name).folder for part in parts.values() for name in part.students]
    about = {
        "config": ["data.seed", "explain.images", "methods", "seeds"],
        "hashes": run.manifest["hashes"],
        "students": [student.relative_to(run.folder).as_posix() for student in students],
    }
    asked = command(
        "cues",
        "CONFIG",
        out="RUN",
        cue=options["cue"],
        class_=label,
        contamination=levels,
        explainer=explainers,
    )
    question = Question(run.folder, "cues", options, facts(run, about), (), asked)
    answer = question.answer()
    if answer is None:
        exam = CueExam.create(
            assets.task.test,
            assets.pair.teacher,
            assets.pair.preprocessing,
            drawn,
            label,
            images=config.explain.images,
            seed=seed,
            device=fabric.device,
        )
        scores, maps = _examine(run, parts, exam, explainers, assets.pair.teacher)
        table = summarise_cues(scores)
        figures = {"cues": cues_figure(table), "cues-gallery": _gallery(run, exam, explainers[0], max(levels), maps)}
        answer = question.keep({"cues-scores": scores, "cues": table}, figures)
    return answer["cues"]


def _levels(contaminations: Sequence[float]) -> tuple[float, ...]:
    levels = tuple(sorted(float(level) for level in contaminations))
    if not levels or len(set(levels)) != len(levels):
        raise ConfigError(f"contaminations must be at least one number, each once, got {list(contaminations)}")
    for level in levels:
        if not 0 <= level <= 1:
            raise ConfigError(f"contamination must lie in 0..1, got {level}: it is the share of images marked")
    return levels


def _require_same(folder: Path, held: dict[str, Any], options: dict[str, Any], extend: bool) -> None:
    for key, value in options.items():
        if held and held.get(key) != value and not (extend and key in _EXTENSIBLE):
            remedy = ", or add --extend to keep its students" if key in _EXTENSIBLE else ""
            raise RunFolderError(
                f"{folder} holds a cue study of another setting ({key} was {held.get(key)!r}, now {value!r}): "
                f"choose another folder{remedy}"
            )


def _contaminated(assets: Assets, cue: Cue, cue_class: str | None, level: float, seed: int) -> Assets:
    if level == 0:
        return assets
    task = assets.task
    train, validation = (contaminate(s, cue, cue_class, level, seed=seed).images for s in (task.train, task.validation))
    return dataclasses.replace(assets, task=dataclasses.replace(task, train=train, validation=validation))


def _require_own(part: Run, assets: Assets) -> None:
    """Students that were trained on other images than those of `assets` are never taken for what they are not."""
    images = assets.task.train.content_hash()
    for name in part.students:
        folder = part.student_folder(name)
        if not folder.trouble and folder.about().get("hashes", {}).get("train") != images:
            raise RunFolderError(
                f"{folder.folder} was trained on other images, as of another mark: choose another folder"
            )


def _examine(
    run: Run, parts: Mapping[float, Run], exam: CueExam, explainers: Sequence[str], teacher: nn.Module
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """The scores of all models, and what the gallery shows: maps by the first explainer, of the teacher and of the
    first seed's students at the highest contamination.
    """
    measured = _measure(run, exam, explainers, teacher, TEACHER)
    tables = [measured.scores.assign(contamination=math.nan, method=TEACHER, seed=0)]
    shown = {TEACHER: measured.maps[explainers[0]]}
    for level, part in parts.items():
        for key in part.keys:
            measured = _measure(run, exam, explainers, part.student(str(key)), f"{key} ({level:g} marked)")
            tables.append(measured.scores.assign(contamination=level, method=key.method_name, seed=key.seed))
            if level == max(parts) and key.seed == run.config.seeds[0]:
                shown[key.method_name] = measured.maps[explainers[0]]
    return pd.concat(tables, ignore_index=True)[_COLUMNS], shown


class _Measured(NamedTuple):
    scores: pd.DataFrame
    maps: dict[str, Tensor]  # by explainer; all NaN where the explanation was refused


def _measure(run: Run, exam: CueExam, explainers: Sequence[str], model: nn.Module, who: str) -> _Measured:
    x = exam.preprocessing(exam.shown.images.images)
    maps = {}
    for explainer in explainers:
        with progress(f"{explainer} of {who}", len(x)) as advance:
            try:
                found = explain_model(
                    model,
                    x,
                    exam.target,
                    explainer,
                    exam.preprocessing,
                    device=exam.device,
                    on_batch=advance,
                    store=run.store,
                )
            except ExplanationError as error:
                if who == TEACHER:
                    raise
                _log.warning("%s has no valid explanation, its scores are undefined: %s", who, error)
                maps[explainer] = torch.full((len(x), *x.shape[2:]), math.nan)
            else:
                maps[explainer] = found.scored_heatmaps
    scores = [exam.predictions(model), *(exam.localisations(one, explainer) for explainer, one in maps.items())]
    return _Measured(pd.concat(scores, ignore_index=True), maps)


def _share_text(share: float) -> str:
    return "undefined" if math.isnan(share) else f"net {share:+.0%} on the mark"


def _gallery(run: Run, exam: CueExam, explainer: str, level: float, maps: dict[str, Tensor]) -> Figure:
    """A marked image of three classes, that of the mark first, under the teacher and the most contaminated students."""
    classes, labels, told = exam.clean.classes, exam.shown.images.labels, exam.target.label
    order = sorted(set(labels.tolist()), key=lambda label: (bool((told != label).any()), label))[:_GALLERY_ROWS]
    rows = [int((labels == label).nonzero()[0]) for label in order]
    valid = [title for title, part in maps.items() if not part.isnan().all()][: _GALLERY_COLUMNS + 1]
    shown = {title: maps[title][rows] for title in valid}
    masks = exam.shown.masks[rows]
    shares = {title: relevance_mass(part, masks, "net") for title, part in shown.items()}
    return gallery(
        exam.shown.images.images[rows].float() / 255,
        shown.pop(TEACHER),
        shown,
        heading=f"{explainer_label(explainer)}, students of seed {run.config.seeds[0]}, {level:.0%} marked",
        titles=[
            f"{classes[label]}, marked\nwhat speaks for {classes[said]}"
            for label, said in zip(order, told[rows].tolist())
        ],
        scores={title: list(map(_share_text, values)) for title, values in shares.items()},
    )
