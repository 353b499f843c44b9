"""Methods down, quantities across; each score is a button."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import pandas as pd
from ipywidgets.widgets.widget_string import HTMLStyle

from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.report.sentences import whom
from xaibench.report.tables import html_table
from xaibench.widgets.parts import free

__all__ = ["SCORES", "ScoreTable", "details_html", "sorted_methods"]

SCORES = """
.xaibench .xb-scores { overflow: auto; max-height: 30rem; max-width: 100%; }
.xaibench .xb-scores > * { margin: 0; }
.xaibench .widget-html-content { min-width: 0; }
.xaibench .xb-scores .xb-head, .xaibench .xb-scores .xb-name { position: sticky;
  background: var(--jp-layout-color0, canvas); z-index: 1; }
.xaibench .xb-scores .xb-head { top: 0; z-index: 2; font-weight: bold; }
.xaibench .xb-scores .xb-name { left: 0; }
.xaibench .xb-scores .xb-head.xb-name { z-index: 3; }
.xaibench .xb-scores button { width: 100%; font-variant-numeric: tabular-nums; }
.xaibench .xb-scores button.xb-here { outline: 2px solid #d55e00; outline-offset: -2px; }
.xaibench .xb-wide { overflow-x: auto; max-width: 100%; }
.xaibench .xb-ends-of { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 0 1.5rem; }
.xaibench img.xb-figure { display: block; width: min(100%, 60rem); background: white; }
.xaibench pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""
"""Rules of CSS for a run panel."""

_PLAIN = ("accuracy", "agreement")
_NULLS = {
    "chance": "random maps",
    "mismatched": "other images",
    "shifted": "shifted",
    "random_student": "untrained student",
    "independent": "independent student",
}


def sorted_methods(table: pd.DataFrame, scores: pd.DataFrame, by: str, lowest: bool) -> list[str]:
    """Methods in the order of a column: "given", "method" (by name), "accuracy", "agreement" or an explainer.

    scores  the summary's rows of one metric

    Numbers stand highest first, or lowest first; undefined ones last.
    """
    methods = [str(name) for name in dict.fromkeys(scores["method"])]
    if by == "given":
        return methods[::-1] if lowest else methods
    if by == "method":
        return sorted(methods, key=str.casefold, reverse=lowest)
    if by in _PLAIN:
        values = table.set_index("method")[by]
    else:
        values = scores[scores["explainer"] == by].set_index("method")["mean"]
    return list(values.reindex(methods).sort_values(ascending=lowest, kind="stable").index)


def details_html(scores: pd.DataFrame, methods: Sequence[str], explainer: str, metric: str) -> str:
    """The scores of one explainer and metric beside chance, nulls, lift and faithfulness, as an HTML table."""
    rows = scores[scores["explainer"] == explainer].set_index("method").reindex(list(methods)).reset_index()
    named = {"low": "mean low", "high": "mean high"}
    for name, label in {**_NULLS, "lift": "lift", "faithfulness": "faithfulness"}.items():
        named |= {f"{name}{end}": f"{label}{end}" for end in ("", "_low", "_high")}
    kept = ["method", "mean", "low", "high", *(name for name in named if name not in ("low", "high")), "n", "nan"]
    table = rows[[name for name in kept if name in rows]].rename(columns=named)
    table = table.drop(columns=[name for name in table if table[name].isna().all() and name != "mean"])
    table = table.rename(columns={"mean": "score", "mean low": "score low", "mean high": "score high"})
    table["method"] = table["method"].map(method_label)
    title = f"{metric_label(metric)} by {explainer_label(explainer)}"
    spoken = f" {whom(int(rows['seeds'].min()))}" if "seeds" in rows else ""
    note = (
        f"Means ± half of the 95% interval.{spoken} A score counts for what it exceeds: random maps, the same "
        "student's maps of other images or shifted. Lift: above a student trained without the teacher. Faithfulness: "
        "how much faster the answer falls when patches vanish in the map's order than in a random one. n: scores; "
        "nan: undefined ones."
    )
    return (
        f"<h4>{html.escape(title)} beside what it is held against</h4>"
        f'<div class="xb-wide" tabindex="0">{html_table(table)}</div><div class="xb-note">{html.escape(note)}</div>'
    )


class ScoreTable:
    """`box` is the widget; `choose(method, explainer)` is called when a score is clicked."""

    def __init__(self, explainers: Sequence[str], choose: Callable[[str, str], object]) -> None:
        self._explainers: tuple[str, ...] = ()
        self._choose = choose
        self._fixed = widgets.Layout(width="auto", margin="0")
        self._text, self._plain = HTMLStyle(), widgets.ButtonStyle()
        self._buttons: dict[tuple[str, str], widgets.Button] = {}
        self._cells: dict[tuple[str, str], widgets.HTML] = {}
        self.box = widgets.GridBox(layout=widgets.Layout(grid_gap="2px 6px", align_items="center"))
        self.box.add_class("xb-scores")
        self.renew(explainers)

    def renew(self, explainers: Sequence[str]) -> None:
        """Have columns for these explainers from the next time on that something is shown."""
        if tuple(explainers) == self._explainers:
            return
        self._explainers, self.box.children = tuple(explainers), ()
        for kept in (self._cells, self._buttons):
            for key in list(kept):
                kept.pop(key).close()
        columns = f"minmax(7rem, max-content) repeat({len(_PLAIN) + len(explainers)}, minmax(7.5rem, 13rem))"
        self.box.layout.grid_template_columns = columns

    def show(
        self,
        table: pd.DataFrame,
        scores: pd.DataFrame,
        methods: Sequence[str],
        metric: str,
        opened: tuple[str, ...],
    ) -> None:
        """Show these methods in this order, by the scores of one metric.

        opened  (method, explainer, metric) of the score whose images are on show; () for none
        """
        heads = ["method", *_PLAIN, *(f"{explainer_label(name)} {metric_label(metric)}" for name in self._explainers)]
        children: list[widgets.Widget] = [self._cell(("", str(i)), html.escape(h)) for i, h in enumerate(heads)]
        plain = table.drop_duplicates("method").set_index("method").to_dict("index")
        found = scores.set_index(["method", "explainer"]).to_dict("index")
        for method in methods:
            children.append(self._cell((method, "method"), html.escape(method_label(method))))
            for name in _PLAIN:
                row = plain.get(method, {})
                text = _number(*(float(row.get(f"{name}{end}", math.nan)) for end in ("", " low", " high")))
                children.append(self._cell((method, name), text))
            for explainer in self._explainers:
                row = found.get((method, explainer), {})
                value, low, high = (float(row.get(name, math.nan)) for name in ("mean", "low", "high"))
                one = self._button(method, explainer)
                one.description = _number(value, low, high)
                told = f"{explainer_label(explainer)} {metric_label(metric)} of {method_label(method)}"
                one.tooltip = f"{told}, {one.description}: open its least and most alike images"
                here = opened == (method, explainer, metric)
                if here != ("xb-here" in one._dom_classes):
                    (one.add_class if here else one.remove_class)("xb-here")
                children.append(one)
        self.box.children = children
        self._forget(set(methods))

    def close(self) -> None:
        """Free what all cells share, which stands nowhere while there are none."""
        free(self._fixed, self._text, self._plain)

    def click(self, method: str, explainer: str) -> None:
        """As if a score were clicked."""
        self._buttons[method, explainer].click()

    def _forget(self, methods: set[str]) -> None:
        """Close what is of other methods than these."""
        for kept in (self._cells, self._buttons):
            for key in [key for key in kept if key[0] and key[0] not in methods]:
                kept.pop(key).close()

    def _cell(self, key: tuple[str, str], text: str) -> widgets.HTML:
        if key not in self._cells:
            self._cells[key] = one = widgets.HTML(layout=self._fixed, style=self._text)
            if not key[0]:
                one.add_class("xb-head")
            if key[1] in ("0", "method"):
                one.add_class("xb-name")
        self._cells[key].value = text
        return self._cells[key]

    def _button(self, method: str, explainer: str) -> widgets.Button:
        key = method, explainer
        if key not in self._buttons:
            self._buttons[key] = one = widgets.Button(layout=self._fixed, style=self._plain)
            one.on_click(lambda _: self._choose(method, explainer))
        return self._buttons[key]


def _number(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "–"
    half = (high - low) / 2
    text = f"{value:.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}")
    return text.replace("-", "−")
