"""The sections of a run's page that are made of tables and text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pandas as pd
import torch

from xaibench.distillation.methods import parse_method
from xaibench.distillation.methods.sources import sources_of
from xaibench.errors import RunFolderError
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.report.html import Html, Section, code, file_list, folded, paragraph, preformatted, reading, sheet
from xaibench.report.result_table import ResultTable
from xaibench.report.sentences import faithfulness_lines, rests_on, whom
from xaibench.run.breakdown import class_accuracy, class_scores, departures, method_pairs
from xaibench.run.costs import costs_of
from xaibench.run.folder import TEACHER, Run
from xaibench.run.job import StudentKey
from xaibench.run.results import labels_of, results
from xaibench.run.tables import gap_table

__all__ = ["after_figures", "matched_scores", "methods_section"]

_LONG = 20  # rows of a table that is shown on demand only
_PAIRS = 20  # of classes, the most frequent ones
_LEVEL = 0.05
_PAIR_COLUMNS = {
    "a": "method",
    "b": "minus",
    "difference": "difference",
    "low": "difference low",
    "high": "difference high",
    "n": "images",
    "effect": "effect",
    "p": "p",
    "p_holm": "p (Holm)",
    "p_by": "p (Benjamini-Yekutieli)",
}

_FILES = {
    "table.csv": "the table of methods",
    "table.tex": "the same for LaTeX",
    "summary.csv": "all means with intervals, chance and nulls",
    "scores.csv": "a row a score of an image",
    "predictions.csv": "answers of all models for the test set",
    "faithfulness.csv": "areas of pixel flipping",
    "validity.csv": "checks of the explanations",
    "cost.csv": "parameters, multiply-accumulates, latency",
}


def methods_section(run: Run) -> Section:
    """The table of methods, what it rests on, and what each method is."""
    summary = run.summary()
    named = {name: source.plain for text in run.config.methods for name, source in sources_of(parse_method(text))}
    about = pd.DataFrame(
        [
            {"method": method_label(name), "name": name, "loss": source.loss, "source": source.citation or "–"}
            for name, source in named.items()
        ]
    )
    blocks = [
        sheet(results(run)),
        paragraph(rests_on(summary)),
        *(paragraph(line, "note") for line in faithfulness_lines(gap_table(run.faithfulness()))),
        sheet(about, "What the methods are: the loss that a student is trained with. CE is cross-entropy."),
    ]
    return Section("Methods", blocks)


def after_figures(run: Run) -> Iterator[Section]:
    """Classes, answers, differences, costs; how numbers are read; all scores, checks, files."""
    yield _classes(run)
    yield _departures(run)
    yield _pairs(run)
    yield _costs(run)
    yield Section("How to read the numbers", [reading()])
    yield _all_scores(run)
    yield Section("What the maps account for", list(_accounts(run)))
    yield _validity(run)
    yield Section("Files", [paragraph("Beside this page, in the run's folder:"), file_list(_files(run))])
    yield _reproduction(run)


def matched_scores(run: Run, explainer: str) -> pd.DataFrame:
    """The scores by the run's metric of students against their teacher on the same image."""
    scores = run.scores()
    kind = (scores["pairing"] == "matched") & (scores["metric"] == run.metric)
    return scores[kind & (scores["explainer"] == explainer)]


def _classes(run: Run) -> Section:
    predictions, metric = run.predictions(), metric_label(run.metric)
    blocks = [
        _sheet(
            run,
            class_accuracy(predictions),
            "Accuracy by class: share of the class's test images. ±: half of the 95% interval. "
            + whom(len(run.config.seeds)),
        )
    ]
    for explainer in run.explainers:
        scores = matched_scores(run, explainer)
        if scores["value"].notna().any():
            caption = f"Likeness to the teacher by class: {metric} of heatmaps by {explainer_label(explainer)}."
            blocks.append(_sheet(run, class_scores(scores, predictions), caption))
    return Section("Classes", blocks)


def _departures(run: Run) -> Section:
    title, table = "Where students answer otherwise", departures(run.predictions())
    if table.empty:
        return Section(title, [paragraph("Every student gives its teacher's answer throughout.")])
    shares = table.select_dtypes("number").columns
    part = f" The {_PAIRS} most frequent of {len(table)} pairs." if len(table) > _PAIRS else ""
    caption = f"Answers other than the teacher's: % of all test images, mean over seeds.{part}"
    return Section(title, [_sheet(run, table.assign(**100 * table[shares]).head(_PAIRS), caption, digits=2)])


def _pairs(run: Run) -> Section:
    if len(run.config.methods) < 2:
        return Section("Differences between methods", [])
    seeds = len(run.config.seeds)
    speaks = (
        "There is one student of each method: intervals and tests speak for these students on other images, not for "
        "the methods."
        if seeds == 1
        else f"Intervals are over the {seeds} seeds and the images. The test takes each image's mean over the seeds: "
        "it speaks for these students on other images."
    )
    blocks = [
        paragraph(
            f"Each pair of methods on the same images: mean difference of the {metric_label(run.metric)} with its 95% "
            "interval, and Wilcoxon's signed-rank test with images as the unit: its rank-biserial correlation (effect, "
            "from -1 to 1) and its p, corrected for all pairs of an explainer after Holm and after "
            f"Benjamini-Yekutieli. {speaks}"
        )
    ]
    for explainer in run.explainers:
        scores = matched_scores(run, explainer)
        if scores["method"].nunique() < 2:
            continue
        table = method_pairs(scores)
        told = int((table["p_holm"] < _LEVEL).sum())
        caption = f"Differences by {explainer_label(explainer)}: {told} of {len(table)} pairs have a p (Holm) "
        shown = table[list(_PAIR_COLUMNS)].rename(columns=_PAIR_COLUMNS)
        blocks.append(_sheet(run, shown, f"{caption}below {_LEVEL}."))
    return Section("Differences between methods", blocks)


def _costs(run: Run) -> Section:
    title = "Size and cost"
    try:
        costs = costs_of(run)
    except RunFolderError:
        before = "Not measured in this run. To add it, run this and then the report again:"
        return Section(title, [code(f"xaibench explain {shlex.quote(str(run.folder))}", before)])
    shares = costs.set_index("model")[["parameters", "macs", "latency_ms"]].astype(float)
    ratio = shares.loc[TEACHER] / shares.loc["student"]
    caption = (
        f"Of one image. The teacher has {ratio['parameters']:.1f} times the students' parameters, needs "
        f"{ratio['macs']:.1f} times their multiply-accumulates (macs) and took {ratio['latency_ms']:.1f} times as "
        f"long. Latency: median on {costs['device'].iloc[0]}."
    )
    return Section(title, [_sheet(run, costs.drop(columns="device"), caption)])


def _all_scores(run: Run) -> Section:
    summary = run.summary()
    constant = ("grid", "sign", "explained")
    same = [name for name in constant if summary[name].nunique() == 1]
    caption = f"{len(summary)} means with their intervals, chance levels and nulls"
    caption += f" ({', '.join(f'{name} {summary[name].iloc[0]}' for name in same)})." if same else "."
    return Section(
        "All scores",
        [folded("Show the table", sheet(ResultTable(summary.drop(columns=same), caption, labels=labels_of(run))))],
    )


def _accounts(run: Run) -> Iterator[Html]:
    """What each explainer tells about its maps of the teacher and of each method's students, in words."""
    rows = []
    for explainer in run.explainers:
        models = {TEACHER: [TEACHER]}
        for name in run.explained(explainer):
            if name in run.students:
                models.setdefault(StudentKey.parse(name).method_name, []).append(name)
        for model, names in models.items():
            maps = [run.attribution(name, explainer) for name in names]
            measured = {key: torch.cat([one.measured[key] for one in maps]) for key in maps[0].measured}
            if measured:
                rows.append({"model": model, "explainer": explainer, "maps": maps[0].explainer.in_words(measured)})
    if rows:
        yield _sheet(run, pd.DataFrame(rows), "What the maps account for, by model and explainer.")


def _validity(run: Run) -> Section:
    validity, summary = run.validity(), run.summary()
    failed = int((~validity["passed"].astype(bool)).sum())
    verdict = f"{failed} of {len(validity)} checks failed" if failed else f"All {len(validity)} checks passed"
    undefined, scores = int(summary["nan"].sum()), int(summary[["n", "nan"]].to_numpy().sum())
    verdict += f"; {undefined} of {scores} scores are undefined"
    verdict += " and left out: a map was flagged, zero or constant." if undefined else "."
    caption = "Checks of the explanations: what was measured, and the bound that it was held to."
    return Section(
        "Validity of the explanations", [paragraph(verdict, "no" if failed else "yes"), _sheet(run, validity, caption)]
    )


def _files(run: Run) -> dict[str, str]:
    paths = sorted(path for kind in ("csv", "tex", "pdf") for path in run.folder.glob(f"*.{kind}"))
    found = {path.name: f"({_FILES[path.name]})" if path.name in _FILES else "" for path in paths}
    return {name: found[name] for name in sorted(found, key=lambda name: (name not in _FILES, name))}


def _reproduction(run: Run) -> Section:
    manifest = run.manifest
    made = [("Made with", str(manifest.get("command", "")))]
    made += [("then", str(one.get("command", ""))) for one in manifest.get("extended", [])]
    details = json.dumps(manifest, indent=2, ensure_ascii=False, default=str)
    return Section(
        "Reproduction",
        [
            *(code(command, before) for before, command in made if command),
            code(f"xaibench report {shlex.quote(str(run.folder))}", "This page is drawn again by"),
            folded("Configuration, versions and hashes", preformatted(details)),
        ],
    )


def _sheet(run: Run, table: pd.DataFrame, caption: str, *, digits: int = 3) -> Html:
    """A table with its names as they are written for readers; a long one is folded."""
    shown = sheet(ResultTable(table, caption, labels=labels_of(run)), digits=digits)
    return shown if len(table) <= _LONG else folded(caption.partition(":")[0], shown)
