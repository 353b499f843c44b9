"""The pictures and the page of a run."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import to_hex

from xaibench.figures.style import heatmap_colours, save_figure
from xaibench.files import write_text
from xaibench.report.html import Html, Picture, Section, code, colour_key, paragraph, picture, write_report
from xaibench.report.seen import gallery_seen, means_seen, scores_seen, similarity_seen, training_seen
from xaibench.report.sentences import headline
from xaibench.run.answers import command_of, records, up_to_date
from xaibench.run.drawing import (
    PANELS,
    drawn_metrics,
    first_students,
    gallery_of,
    histories_of,
    history_of,
    league_of,
    scores_of,
    similarity_of,
    spread_images,
    spread_methods,
)
from xaibench.run.folder import Run, file_name
from xaibench.run.results import results
from xaibench.run.sections import after_figures, matched_scores, methods_section

__all__ = ["further_section", "present"]

_FURTHER = {
    "flipping-*": (
        "flip RUN",
        "patches vanish in each model's own order of relevance, in the teacher's and at random; the nearer a student's "
        "curve in the teacher's order lies to that in its own, the more it needs what its teacher needs.",
    ),
    "inside*": (
        "inside RUN",
        "above, the share of the teacher's relevance in the first directions of its subspace; below, how alike the "
        "students are to it there: a filled marker tells something where it lies clear of its hollow controls.",
    ),
    "directions*": (
        "inside RUN",
        "what single directions of a layer look at, in teacher and student: like maps mean like use.",
    ),
    "pooling-*": (
        "pooling RUN",
        "the same heatmaps on coarser and finer grids: likeness that hangs on one grid is no likeness.",
    ),
    "dimension*": (
        "dimension RUN",
        "the teacher's accuracy with a layer projected on few directions: where it lies below that with all, the "
        "student's width cannot hold what the teacher uses there.",
    ),
    "cues": (
        "cues CONFIG --out RUN",
        "reliance on a spurious mark against the share of its class's training images that carried it: a student above "
        "the teacher's level relies on the mark more than its teacher.",
    ),
    "cues-gallery": (
        "cues CONFIG --out RUN",
        "marked images, and what speaks for the class of the mark: look for relevance on the mark.",
    ),
}
"""Pictures of further questions -> what asks them without options, and how to read them."""


def present(run: Run) -> None:
    """Draw the run's figures and write its report from what `score_models` left."""
    figures, heatmaps = _figures(run), _heatmaps(run)
    write_text(run.folder / "table.tex", results(run).render("latex"))
    write_report(
        run.folder / "report.html",
        title=f"Do the students decide like their teacher? {run.config.data.label}: {', '.join(run.classes)}",
        headline=_headline(run, run.summary()),
        sections=[
            methods_section(run),
            Section("Figures", [picture(one) for one in figures]),
            Section("Heatmaps", _with_key(run, [picture(one) for one in heatmaps])),
            further_section(run),
            *after_figures(run),
        ],
    )
    run.ledger.record("report.html", source=run.source("report"))


def _figures(run: Run) -> list[Picture]:
    """Methods, similarity, all scores and training, drawn and saved."""
    summary, first = run.summary(), first_students(run)
    shown = spread_methods(summary, run.explainers[0], tuple(first), metric=run.metric)
    chosen = summary[summary["method"].isin(shown)]
    drawn = {
        "league": league_of(run),
        "similarity": similarity_of(run, shown),
        "scores": scores_of(run, shown),
        "history": history_of(run, shown),
    }
    for stem, figure in drawn.items():
        save_figure(figure, run.folder / stem)
    some = _some(shown, first)
    captions = {
        "league": "Methods side by side: means with 95% intervals, ordered by their likeness to the teacher",
        "similarity": f"Similarity to the teacher's heatmaps, with chance and nulls{some}{_part(run)}",
        "scores": f"Every score in one table{some}",
        "history": f"Training{some}",
    }
    seen = {
        "league": means_seen(run.table()),
        "similarity": similarity_seen(chosen[chosen["metric"] == run.metric]),
        "scores": scores_seen(chosen),
        "history": training_seen(histories_of(run, shown)),
    }
    return [Picture(drawn[stem], captions[stem], seen[stem]) for stem in drawn]


def _heatmaps(run: Run) -> list[Picture]:
    """The gallery of each explainer, drawn and saved."""
    summary, first = run.summary(), first_students(run)
    pictures = []
    for explainer in run.explainers:
        valid = run.explained(explainer)
        explained = {m: s for m, s in first.items() if s in valid}
        names = {m: explained[m] for m in spread_methods(summary, explainer, tuple(explained), metric=run.metric)}
        images = spread_images(run, explainer)
        if not names or not images:
            continue  # nothing that could be compared by eye; the tables say why
        figure = gallery_of(run, explainer, names, images)
        stem = "gallery" if explainer == run.explainers[0] else f"gallery-{file_name(explainer)}"
        save_figure(figure, run.folder / stem)
        caption = f"Heatmaps ({explainer}) of teacher and students, images from the most to the least alike"
        scores = matched_scores(run, explainer)
        scores = scores[scores["method"].isin(names) & (scores["seed"] == run.config.seeds[0])]
        seen = gallery_seen(explainer, scores[scores["image"].isin(images)])
        pictures.append(Picture(figure, caption + _some(list(names), explained), seen))
    return pictures


def _with_key(run: Run, pictures: list[Html]) -> list[Html]:
    """Below the first gallery what its colours stand for, and on what grid heatmaps are compared."""
    if not pictures:
        return []
    colours, (height, width) = heatmap_colours(), run.images.images.shape[2:]
    grid = int(run.summary()["grid"].iloc[0])
    y, x = height / grid, width / grid
    return [
        pictures[0],
        colour_key(
            {
                "speaks for the class named under the image, rather than for the other one": to_hex(colours(0.9)),
                "speaks against it": to_hex(colours(0.1)),
                "says nothing": to_hex(colours(0.5)),
            }
        ),
        paragraph(
            "Each map is divided by its own sum of |relevance|, and all panels of a picture share one colour scale. "
            "The score under a panel compares it with the teacher's after both were averaged over a grid of "
            f"{grid} by {grid} cells, each {y:.3g} by {x:.3g} pixels: detail finer than a cell does not count.",
            "note",
        ),
        *pictures[1:],
    ]


def _headline(run: Run, summary: pd.DataFrame) -> str:
    defined = summary[(summary["metric"] == run.metric) & summary["mean"].notna()]
    if defined.empty:
        return "No image has a score that is defined for all methods: validity.csv says what the explanations lack."
    return headline(summary, metric=run.metric)


def _some(shown: list[str], all_: dict[str, str]) -> str:
    return f" ({len(shown)} of {len(all_)} methods, evenly from most to least alike)" if len(shown) < len(all_) else ""


def _part(run: Run) -> str:
    metrics = drawn_metrics(run)
    explainers, scores = len(run.explainers), len(run.config.similarity.metrics)
    if explainers <= PANELS and scores == len(metrics):
        return ""
    return f": {min(explainers, PANELS)} of {explainers} explainers, {len(metrics)} of {scores} metrics; all are below"


def further_section(run: Run) -> Section:
    """Pictures of further questions that lie in the folder, and what makes those again that are out of date."""
    made = records(run)
    shown: list[Html] = []
    outdated: dict[str, list[str]] = {}
    for pattern, (plain, caption) in _FURTHER.items():
        for path in sorted(run.folder.glob(f"{pattern}.png"), key=lambda path: path.stem):
            record = made.get(path.name, {})
            if record and up_to_date(run, record):
                seen = f"Plot {path.stem}; its numbers are in {path.stem}.csv beside this page"
                shown.append(picture(Picture(path, f"{path.stem}: {caption}", seen)))
            else:
                outdated.setdefault(command_of(run, record, plain.split()), []).append(path.stem)
    return Section("Further questions", [*shown, *(_remade(*one) for one in outdated.items())])


def _remade(command: str, names: list[str]) -> Html:
    are = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
    return code(command, f"{are} not shown: made from results that have changed since, or damaged. To make again:")
