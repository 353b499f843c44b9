"""What the numbers of a run say, in sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from xaibench.distillation.methods import CONTROLS
from xaibench.errors import DataError
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.similarity.intervals import speaks_for

__all__ = ["counted", "faithfulness_lines", "headline", "rests_on", "whom"]

_NAMED = 6  # models whose faithfulness is said one by one


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "seed"), counted(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {what}{'s' * (number != 1)}"


def headline(summary: pd.DataFrame, *, explainer: str | None = None, metric: str = "cosine") -> str:
    """The answer in one sentence, from the summary's rows of one explainer and metric.

    summary    columns method, explainer, metric, mean, low, high, images, seeds, chance; mismatched, shifted, lift,
               lift_low, lift_high where present
    explainer  None: the first one in the summary

    The distillation with the highest mean is named (a control only if there is nothing else), then the others with
    their means and the nulls (shifted maps; chance where these were not scored), then how far the best lies above an
    independently trained student. With one seed the sentence speaks of one student, not of the method.
    """
    chosen = summary[(summary["metric"] == metric) & summary["mean"].notna()]
    name = explainer if explainer is not None or chosen.empty else chosen["explainer"].iloc[0]
    chosen = chosen[chosen["explainer"] == name]
    if chosen.empty:
        raise DataError(f"the summary has no defined '{metric}' of '{name}': choose a metric and explainer it holds")
    rows = chosen.sort_values("mean", ascending=False, kind="stable").to_dict("records")
    distilled = [row for row in rows if not _is_control(row["method"])]
    best = (distilled or rows)[0]
    several = best["seeds"] > 1
    students = f"{best['seeds']} students" if several else "one student"
    written = method_label(str(best["method"]))
    made = f"distilled with {written}" if distilled else f"of the control {written}"
    superlative = "of all" if best is rows[0] else "of all distilled ones"
    text = (
        f"On {best['images']} images the heatmaps ({explainer_label(str(name))}) of the {students} {made} "
        + (f"are the most like the teacher's {superlative}" if len(rows) > 1 else "are compared with the teacher's")
        + f": {metric_label(metric)} {best['mean']:.2f} [{best['low']:.2f}, {best['high']:.2f}]"
    )
    if len(rows) > 1:
        named = {id(row): "control " * _is_control(row["method"]) + method_label(str(row["method"])) for row in rows}
        text += "; " + ", ".join(f"{named[id(row)]} {row['mean']:.2f}" for row in rows if row is not best)
    controls = [f"chance is {best['chance']:.2f}"]
    if math.isfinite(best.get("shifted", math.nan)):
        controls = [f"shifted maps give {best['shifted']:.2f}"]
    if math.isfinite(best.get("mismatched", math.nan)):
        controls.insert(0, f"mismatched images give {best['mismatched']:.2f}")
    seeds = "" if several else " One training of each says nothing about other seeds."
    return f"{text}; {', '.join(controls)}.{seeds}{_lift(best)}"


def faithfulness_lines(gaps: pd.DataFrame) -> list[str]:
    """How faithful the maps are to their models, one line an explainer; models whose interval reaches 0 are named.

    gaps  columns explainer, method (first "teacher"), faithfulness, faithfulness_low, faithfulness_high, nan
    """
    lines = []
    for explainer, part in gaps.groupby("explainer", sort=False):
        rows = part.rename(columns=lambda name: name.removeprefix("faithfulness_")).to_dict("records")
        defined = [row for row in rows if math.isfinite(row["faithfulness"])]
        shown = [_gap(row) for row in defined]
        if len(defined) > _NAMED:
            students = sorted(
                (row for row in defined if row["method"] != "teacher"), key=lambda row: row["faithfulness"]
            )
            shown = [_gap(row) for row in defined if row["method"] == "teacher"]
            shown.append(f"students from {_gap(students[0])} to {_gap(students[-1])}")
        worse = [method_label(str(row["method"])) for row in defined if row["high"] < 0]
        weak = [method_label(str(row["method"])) for row in defined if not (row["low"] > 0 or row["high"] < 0)]
        text = (
            f"How faithful maps by {explainer_label(str(explainer))} are, in logits over a random order of patches: "
            f"{', '.join(shown) or 'undefined'}. Not shown to be better than random (the interval reaches 0): "
            f"{', '.join(weak) or 'none'}."
        )
        text += f" Worse than random: {', '.join(worse)}." if worse else ""
        undefined = int(part["nan"].sum())
        lines.append(text + f" {undefined} undefined: a map was flagged or constant." * (undefined > 0))
    return lines


def whom(seeds: int) -> str:
    """For whom intervals over so many training seeds (and images) speak, as a sentence."""
    few = ", not for its method: one training says nothing about others" if seeds == 1 else ""
    return f"Intervals speak for {speaks_for(seeds)}{few}."


def rests_on(summary: pd.DataFrame) -> str:
    """How many images and seeds the means rest on, by explainer, and for whom their intervals speak."""
    parts = []
    for explainer, part in summary.groupby("explainer", sort=False):
        least, most = part["images"].min(), part["images"].max()
        images = f"{most}" if least == most else f"{least} to {most} (by metric)"
        seeds = part.groupby("method", sort=False)["seeds"].max()
        usual = int(seeds.max())
        fewer = ", ".join(f"{method_label(str(method))} {count}" for method, count in seeds.items() if count < usual)
        students = f"{counted(usual, 'seed')}{f' ({fewer})' * bool(fewer)}"
        parts.append(f"{explainer_label(str(explainer))}: {images} of {part['explained'].max()} images and {students}")
    rests = f"Means of scores rest on the explained images on which every method has a score. {'; '.join(parts)}."
    return f"{rests} {whom(int(summary['seeds'].min()))}"


def _gap(row: Mapping[Hashable, Any]) -> str:
    interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if math.isfinite(row["low"]) else ""
    return f"{method_label(str(row['method']))} {row['faithfulness']:+.2f}{interval}"


def _is_control(method: object) -> bool:
    return re.split(r"[:\[+]", str(method), maxsplit=1)[0] in CONTROLS


def _lift(row: Mapping[Hashable, Any]) -> str:
    lift, low, high = (row.get(name, math.nan) for name in ("lift", "lift_low", "lift_high"))
    if math.isnan(low):
        return ""
    text = f" Its lift over an independently trained student is {lift:+.2f} [{low:+.2f}, {high:+.2f}]"
    if low > 0:
        return f"{text}: so much of its decision structure was taken over from the teacher."
    if high < 0:
        return f"{text}: it is less like the teacher than a student that never saw one."
    return f"{text}, which includes 0: that anything was taken over from the teacher is not shown."
