"""What is seen in the figures of a run, in a sentence each, for those who do not see them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from xaibench.figures.names import explainer_label, method_label, metric_label

__all__ = ["gallery_seen", "means_seen", "scores_seen", "similarity_seen", "training_seen"]


def means_seen(table: pd.DataFrame) -> str:
    """Of the league: `Run.table`, a row a method."""
    measured = [name for name in map(str, table) if f"{name} low" in table and not name.endswith(" lift")]
    parts = [_ranked(name, table.set_index("method")[name]) for name in measured]
    return f"Chart of means, the highest first. {'. '.join(filter(None, parts))}."


def similarity_seen(summary: pd.DataFrame) -> str:
    """Of the similarity figure: the summary's rows of one metric."""
    parts = []
    for explainer, rows in summary.groupby("explainer", sort=False):
        metric = metric_label(str(rows["metric"].iloc[0]))
        part = _ranked(f"{metric} by {explainer_label(str(explainer))}", rows.set_index("method")["mean"])
        if "shifted" in rows and rows["shifted"].notna().any():
            part += f"; shifted maps up to {rows['shifted'].max():.2f}"
        parts.append(part)
    return (
        f"Chart of the students' likeness to their teacher. {'. '.join(filter(None, parts)) or 'Nothing is defined'}."
    )


def scores_seen(summary: pd.DataFrame) -> str:
    """Of the matrix of scores: the rows of the summary that it shows."""
    rows = summary[summary["mean"].notna()].sort_values("mean", kind="stable").to_dict("records")
    text = f"Table of {len(summary)} means in colours"
    if not rows:
        return f"{text}, all undefined."
    named = [
        f"{row['mean']:.2f} ({metric_label(row['metric'])} of {method_label(row['method'])} "
        f"by {explainer_label(row['explainer'])})"
        for row in (rows[0], rows[-1])
    ]
    return f"{text}, from {named[0]} to {named[1]}."


def gallery_seen(explainer: str, scores: pd.DataFrame) -> str:
    """Of a gallery: columns method, seed, metric, image, value of the heatmaps that it shows."""
    methods = ", ".join(map(method_label, scores["method"].unique()))
    text = f"Heatmaps by {explainer_label(explainer)} of the teacher and of {methods} for "
    text += f"{scores['image'].nunique()} test images"
    rows = scores[scores["value"].notna()].sort_values("value", kind="stable").to_dict("records")
    if not rows:
        return f"{text}; no score is defined."
    least, most = (
        f"{row['value']:.2f} ({method_label(row['method'])} for {row['image']})" for row in (rows[0], rows[-1])
    )
    return f"{text}: {metric_label(rows[0]['metric'])} to the teacher from {most} down to {least}."


def training_seen(histories: Mapping[str, pd.DataFrame]) -> str:
    """Of the training figure: name of a student -> its history."""
    best = pd.Series({name: history["validation_accuracy"].max() for name, history in histories.items()})
    epochs = max(len(history) for history in histories.values())
    return f"Curves over {epochs} epochs. {_ranked('Best validation accuracy', best)}."


def _ranked(what: str, values: pd.Series) -> str:
    defined = values.dropna().sort_values(ascending=False, kind="stable")
    named = ", ".join(f"{method_label(str(name))} {value:.2f}" for name, value in defined.items())
    return f"{what}: {named}" if named else ""
