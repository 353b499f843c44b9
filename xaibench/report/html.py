"""One self-contained HTML page: the answer, the evidence, and what it rests on. It requests nothing."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
import struct
from collections.abc import Hashable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from xaibench.distillation.methods import CONTROLS
from xaibench.errors import DataError
from xaibench.figures.style import explainer_label, metric_label, paper_style
from xaibench.files import write_text
from xaibench.report.tables import html_table

__all__ = ["faithfulness_lines", "headline", "write_report"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_NAMED = 6  # models whose faithfulness is said one by one
_DOTS, _DOTS_ON_DISK = 200, 300  # an inch

_READING = """
<ul>
<li><strong>The question</strong> put to both models about each image is the same: what speaks for its
class <em>rather than</em> for the teacher's runner-up? Red pixels speak for it, blue ones against it.</li>
<li><strong>A score</strong> compares the student's heatmap with the teacher's, image by image; 1 is the
same map. The mean over the images stands with its 95% bootstrap interval.</li>
<li><strong>Chance</strong> is what maps of independent random cells would score. <strong>Shifted maps</strong> compare
the teacher's map with the student's, shifted and mirrored: what two maps as smooth as these score that have nothing to
do with each other, the honest zero point. <strong>Mismatched images</strong> compare the
student's map of one image with the teacher's of another: what the two share whatever the image, such as
a preference for the centre. A <strong>random student</strong> has the same architecture and was never
trained. An <strong>independent student</strong> has the same architecture and was trained on the same images without
the teacher: what any student of the task shares with it. The <strong>lift</strong> is a student's score minus the
independent student's on the same images; only that tells of a decision structure taken over from the teacher.</li>
<li><strong>Faithfulness</strong> asks whether maps find what their model's answer hangs on: patches of the image are
removed, those first that speak most for the answer, and the answer z_y - z_r must fall faster than when they are
removed in a random order. It is the area between the two curves, in the model's own logits. A likeness of maps whose
faithfulness may be 0 says nothing.</li>
<li><strong>Agreement</strong> is the share of images that get the same class from both models. Two models
can agree on every class and decide for different reasons.</li>
<li>Heatmaps are summed over the colour channels and averaged over a coarse grid before they are compared;
in pictures each is divided by its own sum of |relevance|. Sizes of relevance are never compared across
explainers.</li>
</ul>
"""


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
    made = f"distilled with {best['method']}" if distilled else f"of the control {best['method']}"
    superlative = "of all" if best is rows[0] else "of all distilled ones"
    text = (
        f"On {best['images']} images the heatmaps ({explainer_label(str(name))}) of the {students} {made} "
        + (f"are the most like the teacher's {superlative}" if len(rows) > 1 else "are compared with the teacher's")
        + f": {metric_label(metric)} {best['mean']:.2f} [{best['low']:.2f}, {best['high']:.2f}]"
    )
    if len(rows) > 1:
        named = {id(row): "control " * _is_control(row["method"]) + str(row["method"]) for row in rows}
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
        weak = ", ".join(str(row["method"]) for row in defined if not row["low"] > 0) or "none"
        text = (
            f"How faithful maps by {explainer_label(str(explainer))} are, in logits over a random order of patches: "
            f"{', '.join(shown) or 'undefined'}. Not shown to be better than random (the interval reaches 0): {weak}."
        )
        undefined = int(part["nan"].sum())
        lines.append(text + f" {undefined} undefined: a map was flagged or constant." * (undefined > 0))
    return lines


def _gap(row: Mapping[Hashable, Any]) -> str:
    interval = f" [{row['low']:+.2f}, {row['high']:+.2f}]" if math.isfinite(row["low"]) else ""
    return f"{row['method']} {row['faithfulness']:+.2f}{interval}"


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


def write_report(
    path: Path | str,
    *,
    title: str,
    headline: str,
    table: pd.DataFrame,
    summary: pd.DataFrame,
    figures: Mapping[str, Figure],
    validity: pd.DataFrame,
    manifest: Mapping[str, Any],
    further: Mapping[str, Path] = MappingProxyType({}),
    outdated: Mapping[str, Sequence[str]] = MappingProxyType({}),
    measured: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the report atomically and return its path.

    title     of the page
    headline  the answer in one sentence, see `headline`
    table     one row a method: accuracy, agreement, similarity ("X", "X low", "X high" become one column)
    summary   one row a method, explainer and metric: all scores with intervals, chance and nulls, and how many
              `images` of the `explained` ones and `seeds` they rest on
    figures   caption -> figure, in the order to be shown
    validity  one row a check of a model and explainer; a column "passed" (bool) is coloured
    manifest  what reproduces the run: configuration, versions, hashes; anything `json` can write
    further   caption -> PNG file of 300 dots an inch: answers to further questions
    outdated  command -> names of answers that it has to make again, and that are not shown
    measured  what explainers tell about their maps, a row a model and explainer
    notes     sentences below the table, see `faithfulness_lines`

    The page holds its pictures, style and script, and a content security policy that forbids all requests.
    Everything given is escaped.
    """
    assets = files("xaibench.report") / "assets"
    style, script = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    failed = int((~validity["passed"].astype(bool)).sum()) if "passed" in validity else 0
    verdict = f"{failed} of {len(validity)} checks failed" if failed else f"All {len(validity)} checks passed"
    undefined, scores = int(summary["nan"].sum()), int(summary[["n", "nan"]].to_numpy().sum())
    verdict += f"; {undefined} of {scores} scores are undefined"
    verdict += " and left out: a map was flagged, zero or constant." if undefined else "."
    pictures = "\n".join(_figure(caption, *_drawn(figure)) for caption, figure in figures.items())
    answers = "\n".join(_figure(caption, *_stored(path)) for caption, path in further.items())
    answers += "".join(_outdated(command, names) for command, names in outdated.items())
    answers = f"<h2>Further questions</h2>\n{answers}\n" if answers else ""
    accuracy = ""
    if measured is not None and len(measured):
        accuracy = f"<h2>What the maps account for</h2>\n{_scrolling('Accuracy of the maps', html_table(measured))}\n"
    said = "\n".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
    details = json.dumps(manifest, indent=2, ensure_ascii=False, default=str)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<p class="headline">{html.escape(headline)}</p>
<h2>Methods</h2>
{_scrolling("Methods", html_table(table))}
<p>{html.escape(_rests_on(summary))}</p>
{said}
<h2>Figures</h2>
{pictures}
{answers}<h2>How to read the numbers</h2>
{_READING.strip()}
<h2>All scores</h2>
<details><summary>{len(summary)} means with their intervals, chance levels and nulls</summary>
{_scrolling("All scores", html_table(summary))}</details>
{accuracy}<h2>Validity of the explanations</h2>
<p class="{"no" if failed else "yes"}">{verdict}</p>
{_scrolling("Validity checks", html_table(validity))}
<h2>Reproduction</h2>
<details><summary>Configuration, versions and hashes</summary>
<pre>{html.escape(details)}</pre></details>
</main>
<script>
{script}</script>
</body>
</html>
"""
    return write_text(path, page)


def _rests_on(summary: pd.DataFrame) -> str:
    """How many images and seeds the means rest on, by explainer."""
    parts = []
    for explainer, part in summary.groupby("explainer", sort=False):
        least, most = part["images"].min(), part["images"].max()
        images = f"{most}" if least == most else f"{least} to {most} (by metric)"
        seeds = part.groupby("method", sort=False)["seeds"].max()
        usual = int(seeds.max())
        fewer = ", ".join(f"{method} {count}" for method, count in seeds.items() if count < usual)
        students = f"{usual} seed{'s' * (usual > 1)}{f' ({fewer})' * bool(fewer)}"
        parts.append(f"{explainer_label(str(explainer))}: {images} of {part['explained'].max()} images and {students}")
    return f"Means of scores rest on the explained images on which every method has a score. {'; '.join(parts)}."


def _scrolling(label: str, table: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{html.escape(label)}" tabindex="0">{table}</div>'


def _outdated(command: str, names: Sequence[str]) -> str:
    are = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
    text = f"{are} not shown: made from results that have changed since, or damaged. To make again: "
    return f"<p>{html.escape(text)}<code>{html.escape(command)}</code></p>"


def _drawn(figure: Figure) -> tuple[bytes, float]:
    buffer = io.BytesIO()
    with paper_style():
        figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": None})
    return buffer.getvalue(), _DOTS


def _stored(path: Path) -> tuple[bytes, float]:
    return path.read_bytes(), _DOTS_ON_DISK


def _figure(caption: str, png: bytes, dots: float) -> str:
    data = base64.b64encode(png).decode("ascii")
    text = html.escape(caption)
    width, height = struct.unpack(">II", png[16:24])  # of the header
    inches = width / dots
    size = f'width="{width}" height="{height}" style="min-width: {min(80 * inches, 560):.0f}px"'
    image = f'<img alt="{text}" {size} src="data:image/png;base64,{data}">'
    return (
        f'<figure style="max-width: {120 * inches:.0f}px"><div class="wide" tabindex="0">{image}</div>'
        f"<figcaption>{text}</figcaption></figure>"
    )
