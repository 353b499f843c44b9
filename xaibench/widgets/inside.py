"""A closer look at one image: relevance layer by layer, what directions of the subspace look at, and flip curves."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from xaibench.attribution.layers import direction_heatmaps, layer_relevance, lrp_or_gradient
from xaibench.errors import ConfigError
from xaibench.figures.flipping import flip_figure
from xaibench.figures.gallery import displayed, symmetric_limit
from xaibench.figures.names import method_label
from xaibench.models.layer_pairs import LayerPair, suggest_layers
from xaibench.similarity.cross_flip import CrossFlip, curve_table, flip_orders
from xaibench.similarity.patch_order import patch_order, random_order
from xaibench.subspace.bases import BASES as _BASES
from xaibench.subspace.bases import make_basis
from xaibench.subspace.moments import load_moments
from xaibench.widgets.comparison import Comparison
from xaibench.widgets.live import TEACHER, Live, Question
from xaibench.widgets.pictures import card, cards, colour_bar, figure_html, heatmap_pixels, image_html
from xaibench.widgets.stage import Row
from xaibench.widgets.worker import Turn

__all__ = ["BASES", "Inside", "flip", "look_inside"]

BASES = tuple(_BASES)
"""Bases whose directions can be looked at."""

_DIRECTIONS = 4
_MOST_MODELS = 8


@dataclass(frozen=True)
class Inside:
    """layers: the teacher's that can be chosen; html: what is seen."""

    layers: tuple[str, ...]
    html: str


def look_inside(
    comparison: Comparison, row: Row, question: Question, students: Sequence[str], *, layer: str, basis: str, turn: Turn
) -> Inside:
    """Relevance at the paired layers of teacher and students, summed over the channels; and what the first directions
    of the teacher's subspace look at, where its moments are known.

    layer  the teacher's, or "all"
    basis  a name in `subspace.bases.BASES`
    """
    live, place = _live(comparison), comparison.place(row.key)
    x, target = live.inputs([place]), live.target(_fixed(question, row), [place], turn)
    teacher, names = live.module(TEACHER, turn), _members(comparison, students)
    parts, pairs = [], _pairs(live, names[0], x, turn) if names else ()
    known = tuple(pair.teacher for pair in pairs)
    wanted = known if layer not in known else (layer,)
    maps: dict[str, dict[str, Tensor]] = {}
    for number, name in enumerate((TEACHER, *names)):
        turn.report(number / (len(names) + 2), f"layers of {method_label(name)}")
        model = live.module(name, turn)
        layers = [pair.teacher if name == TEACHER else pair.student for pair in pairs if pair.teacher in wanted]
        explainer = lrp_or_gradient(model, x, target, live.preprocessing)
        found = layer_relevance(model, x, target, explainer, live.preprocessing, layers)
        maps[name] = {one: values.relevance.sum(dim=1)[0] for one, values in found.items()}
    for number, wanted_layer in enumerate(wanted):
        at = {name: list(values.items())[number] for name, values in maps.items()}
        shown = {name: displayed(values[None].numpy())[0] for name, (_, values) in at.items()}
        limit = symmetric_limit(np.concatenate([values.ravel() for values in shown.values()]))
        pictures = [
            card(
                method_label(name),
                image_html(
                    heatmap_pixels(values, limit), f"Relevance at {at[name][0]} of {method_label(name)} for {row.key}"
                ),
                html.escape(at[name][0]),
            )
            for name, values in shown.items()
        ]
        parts.append(f"<h4>{html.escape(wanted_layer)}</h4>" + cards(pictures, "8rem"))
    moments = comparison.about.get("moments")
    if moments and Path(str(moments)).is_file():
        turn.report((len(names) + 1) / (len(names) + 2), "directions")
        explainer = lrp_or_gradient(teacher, x, target, live.preprocessing)
        for name, values in load_moments(Path(str(moments))).items():
            if name in wanted:
                chosen = make_basis(values, basis, min(_DIRECTIONS, values.channels))
                heat = direction_heatmaps(
                    teacher, x, target, explainer, live.preprocessing, name, chosen.vectors.to(x.dtype)
                )[0].numpy()
                parts.append(_directions(name, basis, heat, row.key))
    if not parts:
        parts.append("<p>Choose a student: layers are shown side by side.</p>")
    return Inside(known, "".join(parts))


def flip(comparison: Comparison, row: Row, question: Question, students: Sequence[str], *, turn: Turn) -> str:
    """Flip curves of one image: each student in its own order of relevance, in the teacher's and in a random one."""
    live, place = _live(comparison), comparison.place(row.key)
    asked = _fixed(question, row)
    x, target = live.inputs([place]), live.target(asked, [place], turn)
    grid = comparison.grid
    names = _members(comparison, students)
    if not names:
        raise ConfigError("choose a student to flip the pixels of")
    own = patch_order(comparison.map(TEACHER, question, place, turn).values[None], grid)
    chance = random_order(1, own.shape[1], 0)
    turn.report(0.0, "flip teacher")
    teacher = flip_orders(
        live.module(TEACHER, turn), x, {"own": own, "random": chance}, target, live.preprocessing, fill="mean"
    )
    tables = []
    for number, name in enumerate(names):
        turn.report(number / len(names), f"flip {method_label(name)}")
        orders = {
            "own": patch_order(comparison.map(name, question, place, turn).values[None], grid),
            "teacher": own,
            "random": chance,
        }
        curves = flip_orders(live.module(name, turn), x, orders, target, live.preprocessing, fill="mean")
        tables.append(curve_table([CrossFlip(curves, teacher)], name, TEACHER if number == 0 else None))
    import pandas as pd

    table = pd.concat(tables, ignore_index=True)
    figure = flip_figure(table[table["measure"] == "difference"], width=min(2.0 + 1.6 * len(names), 9.0))
    label, contrast = row.asked
    words = (
        f"{label} rather than {contrast}: logit difference while patches of {row.key} are replaced by the mean colour, "
        "the most relevant first. One image says little: 'xaibench flip' asks all of them."
    )
    return figure_html(figure, f"Flip curves of {', '.join(map(method_label, names))} for {row.key}") + (
        f'<div class="xb-note">{html.escape(words)}</div>'
    )


def _directions(layer: str, basis: str, maps: np.ndarray, key: str) -> str:
    shares = maps / max(np.abs(maps).sum(), 1e-30)
    limit = symmetric_limit(shares)
    pictures = [
        card(f"direction {i + 1}", image_html(heatmap_pixels(one, limit), f"Direction {i + 1} of {layer} for {key}"))
        for i, one in enumerate(shares)
    ]
    heading = f"{layer}: what the first directions of {basis} look at in the teacher"
    unit = "share of |relevance| in these directions"
    return f"<h4>{html.escape(heading)}</h4>" + cards(pictures, "8rem") + colour_bar(limit, unit)


def _fixed(question: Question, row: Row) -> Question:
    """The question on show with both classes named."""
    return Question(question.explainer, *row.asked)


def _pairs(live: Live, student: str, x: Tensor, turn: Turn) -> tuple[LayerPair, ...]:
    return suggest_layers(live.module(TEACHER, turn), live.module(student, turn), x.repeat(2, 1, 1, 1))


def _members(comparison: Comparison, students: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(m for name in students for m in comparison.members(name)))[:_MOST_MODELS]


def _live(comparison: Comparison) -> Live:
    if comparison.live is None:
        raise ConfigError("these maps came without their models: nothing more can be computed")
    return comparison.live
