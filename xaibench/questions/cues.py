"""Does a student rely on a spurious mark more than its teacher? Distilled on data in which one class carries the mark.

A study lies in a run folder (see `run`), beside whatever a run of the same configuration has left there:

students/                   trained without the mark: those of the run itself
contamination-C/students/   trained with the mark on the share C of one class's training and validation images
cues/EXPLAINER/             relevance of marked test images under the teacher and every student
cues-scores.csv  cues.csv  cues.{pdf,png}  cues-gallery.{pdf,png}
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from xaibench.attribution.explain import explain_model, parse_explainer
from xaibench.attribution.result import Attribution
from xaibench.data.cues import Cue, class_index, contaminate, mark, parse_cue
from xaibench.distillation.distill import make_fabric
from xaibench.errors import ConfigError, ExplanationError, RunFolderError, XaibenchError, unknown_name
from xaibench.figures.cues import cues_figure
from xaibench.figures.gallery import gallery
from xaibench.figures.style import explainer_label, save_figure
from xaibench.files import write_json, write_text
from xaibench.models.checkpoints import state_hash
from xaibench.options import format_options
from xaibench.progress import progress
from xaibench.questions.cue_scores import CueExam, summarise_cues
from xaibench.run.config import RunConfig
from xaibench.run.folder import Run, file_name
from xaibench.run.inputs import Assets
from xaibench.run.pipeline import create_run
from xaibench.run.training import distill_students
from xaibench.similarity.localisation import relevance_mass

__all__ = ["CONTAMINATIONS", "cue_study"]

_log = logging.getLogger(__name__)

CONTAMINATIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
_TEACHER = "teacher"
_EXTENSIBLE = ("contaminations", "explainers")
_GALLERY_ROWS, _GALLERY_COLUMNS = 3, 6


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
    cue             mark and options as text, "plus:size=5,corner=random" (`data.cues.CUES`)
    cue_class       the class that carries the mark; None: the first of the task
    contaminations  shares of its training and validation images with the mark, each in 0..1
    explainers      some of the configuration's explainers; None: its first
    extend          the folder may hold a study of other contaminations and explainers, or a run that differs in what
                    `run_config` lets differ: its students are kept, and its contaminations and explainers are measured
                    with those given

    Returns the table that cues.csv holds, `summarise_cues` of what is measured on test images (cues-scores.csv):

    accuracy         on clean images
    marked_accuracy  with the mark on every image, of whatever class
    attack_success   share of marked images of the other classes that are taken for `cue_class`; chance: the same
                     model's share where no mark stands
    mass, net_mass, absolute_mass, pointing, topk, auc
                     scores of `similarity.localisation`: how much of the relevance lies in the mark's box, in marked
                     images of all classes alike. What is explained is `cue_class` rather than the class that the
                     teacher holds likeliest of the others. Chance: that of the same maps, their pixels in random order

    A mark that stands out gets relevance also from models that do not need it, for the class or against it: read `mass`
    beside `net_mass`, and both beside `attack_success`, which is what the mark does.

    Raises RunFolderError for a folder with other contents, a run of another configuration or a study of another mark.
    """
    config = config if isinstance(config, RunConfig) else RunConfig.load(config)
    drawn, levels, seed = parse_cue(cue), _levels(contaminations), config.data.seed
    explainers = tuple(explainers or config.explain.explainers[:1])
    for name in explainers:
        if name not in config.explain.explainers:
            raise unknown_name("explainer of this configuration", name, config.explain.explainers)
    fabric = make_fabric(config.train, accelerator, devices, launch=False)
    held = _held(Path(folder))
    if extend:
        levels = tuple(sorted({*held.get("contaminations", ()), *levels}))
        explainers = tuple(dict.fromkeys([*held.get("explainers", ()), *explainers]))

    def fitting(assets: Assets) -> dict[str, Any]:
        test = assets.task.test
        options: dict[str, Any] = {"cue": format_options(drawn, full=True), "class": cue_class or test.classes[0]}
        options |= {"contaminations": list(levels), "explainers": list(explainers)}
        _require_same(Path(folder), held, options, extend)
        class_index(test, options["class"])
        mark(test.take([0]), drawn)
        return options

    run, assets = create_run(config, folder, extend=extend, check=fitting)
    options = fitting(assets)
    if held != options:
        write_json(run.folder / "cues.json", options)
    pair, cue_class = assets.pair, options["class"]
    exam = CueExam.create(
        assets.task.test, pair.teacher, pair.preprocessing, drawn, cue_class, images=config.explain.images, seed=seed
    )
    parts = {level: run if level == 0 else Run(run.folder / f"contamination-{level}", config) for level in levels}
    for level, part in parts.items():
        distill_students(part, _contaminated(assets, drawn, cue_class, level, seed), fabric)
    measured = [_measure(run, exam, explainers, pair.teacher)]
    for level, part in parts.items():
        measured += [_measure(run, exam, explainers, part.student(name), name, level) for name in part.students]
    scores = pd.concat(measured, ignore_index=True)
    table = summarise_cues(scores)
    write_text(run.folder / "cues-scores.csv", scores.to_csv(index=False))
    write_text(run.folder / "cues.csv", table.to_csv(index=False))
    save_figure(cues_figure(table), run.folder / "cues")
    save_figure(_gallery(run, exam, explainers[0], max(levels)), run.folder / "cues-gallery")
    return table


def _levels(contaminations: Sequence[float]) -> tuple[float, ...]:
    levels = tuple(sorted(float(level) for level in contaminations))
    if not levels or len(set(levels)) != len(levels):
        raise ConfigError(f"contaminations must be at least one number, each once, got {list(contaminations)}")
    for level in levels:
        if not 0 <= level <= 1:
            raise ConfigError(f"contamination must lie in 0..1, got {level}: it is the share of images marked")
    return levels


def _held(folder: Path) -> dict[str, Any]:
    """The study that stands in the folder's manifest, if there is one."""
    path = folder / "cues.json"
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return held


def _require_same(folder: Path, held: dict[str, Any], options: dict[str, Any], extend: bool) -> None:
    for key, value in held.items():
        if value != options[key] and not (extend and key in _EXTENSIBLE):
            remedy = ", or add --extend to keep its students" if key in _EXTENSIBLE else ""
            raise RunFolderError(
                f"{folder} holds a cue study of another setting ({key} was {value!r}, now {options[key]!r}): "
                f"choose another folder{remedy}"
            )


def _contaminated(assets: Assets, cue: Cue, cue_class: str, level: float, seed: int) -> Assets:
    if level == 0:
        return assets
    task = assets.task
    train, validation = (contaminate(s, cue, cue_class, level, seed=seed).images for s in (task.train, task.validation))
    return dataclasses.replace(assets, task=dataclasses.replace(task, train=train, validation=validation))


def _measure(
    run: Run,
    exam: CueExam,
    explainers: Sequence[str],
    model: nn.Module,
    student: str = _TEACHER,
    level: float = float("nan"),
) -> pd.DataFrame:
    parts = [exam.predictions(model)]
    who = student if student == _TEACHER else f"{student} ({level:g} marked)"
    for explainer in explainers:
        path = _attribution_path(run, explainer, student, level)
        try:
            maps = _explained(path, exam, model, explainer, who).scored_heatmaps
        except ExplanationError as error:
            if student == _TEACHER:
                raise
            _log.warning("%s has no valid explanation and gets no score: %s", who, error)
        else:
            parts.append(exam.localisations(maps, explainer))
    method, _, seed = student.rpartition("/seed") if student != _TEACHER else (student, "", "0")
    about = pd.DataFrame({"contamination": [level], "method": [method], "seed": [int(seed)]})
    return about.merge(pd.concat(parts, ignore_index=True), how="cross")


def _explained(path: Path, exam: CueExam, model: nn.Module, name: str, who: str) -> Attribution:
    explainer = parse_explainer(name)
    with suppress(XaibenchError):  # not there, damaged or of another version: it is made again
        held = Attribution.load(path)
        if (held.model_hash, held.explainer) == (state_hash(model), explainer) and held.target.same_as(exam.target):
            return held
    x = exam.preprocessing(exam.shown.images.images)
    with progress(f"{name} of {who}", len(x)) as advance:
        made = explain_model(model, x, exam.target, explainer, exam.preprocessing, on_batch=advance)
    made.save(path)
    return made


def _share_text(share: float) -> str:
    return "undefined" if math.isnan(share) else f"net {share:+.0%} on the mark"


def _attribution_path(run: Run, explainer: str, student: str, level: float) -> Path:
    name = student if student == _TEACHER else f"contamination-{level}/{file_name(student).replace('/', '-')}"
    return run.folder / "cues" / file_name(explainer) / f"{name}.safetensors"


def _gallery(run: Run, exam: CueExam, explainer: str, level: float) -> Figure:
    """A marked image of the cue's class and of two others, under the teacher and the most contaminated students."""
    classes, labels = exam.clean.classes, exam.shown.images.labels
    order = sorted(set(labels.tolist()), key=lambda label: (label != exam.label, label))[:_GALLERY_ROWS]
    rows = [int((labels == label).nonzero()[0]) for label in order]
    names = {_TEACHER: _TEACHER, **{m: f"{m}/seed{run.config.seeds[0]}" for m in run.config.methods}}
    paths = {title: _attribution_path(run, explainer, name, level) for title, name in names.items()}
    kept = [title for title, path in paths.items() if path.is_file()][: _GALLERY_COLUMNS + 1]
    shown = {title: Attribution.load(paths[title]).take(rows) for title in kept}
    maps = {title: attribution.scored_heatmaps for title, attribution in shown.items()}
    masks = exam.shown.masks[rows]
    shares = {title: relevance_mass(part, masks, "net") for title, part in maps.items()}
    return gallery(
        exam.shown.images.images[rows].float() / 255,
        maps.pop(_TEACHER),
        maps,
        heading=f"{explainer_label(explainer)}, students of seed {run.config.seeds[0]}, {level:.0%} marked",
        titles=[f"{classes[label]}, marked\nwhat speaks for {classes[exam.label]}" for label in order],
        scores={title: list(map(_share_text, values)) for title, values in shares.items()},
    )
