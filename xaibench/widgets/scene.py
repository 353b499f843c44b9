"""From what an explorer's traits ask for to what it shows, whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xaibench.figures.names import explainer_label
from xaibench.widgets.comparison import Comparison
from xaibench.widgets.explorer_traits import Asked
from xaibench.widgets.live import TEACHER
from xaibench.widgets.order import NotScoredError, ordered
from xaibench.widgets.stage import Row
from xaibench.widgets.worker import Turn

__all__ = ["Scene", "compute_scene"]

_REARRANGING = ("sort", "only", "of_class")


@dataclass(frozen=True, eq=False)
class Scene:
    """What is on show.

    asked  what was asked
    order  keys of the images that the filters leave
    rows   everything known of the images in view
    older  the question before whose order it is, where this one is not answered for all images; else None
    """

    asked: Asked
    order: tuple[str, ...]
    rows: list[Row]
    older: Asked | None = None


def compute_scene(
    known: Comparison, asked: Asked, changes: Sequence[str], before: Scene | None, turn: Turn | None
) -> Scene:
    """What the explorer shows next.

    changes  traits that were set since `before`, the latest last: after another order it begins with the first image,
             and an image that was chosen after that is shown even where the filters leave it out
    before   what is on show. Its order stays where a new question is not answered for all images yet
    turn     the work this is part of; None: NotKnownError is raised where a model is needed
    """
    question, older = asked.question, None
    try:
        order = ordered(known, asked, question, turn)
    except NotScoredError:
        if before is None or any(name in _REARRANGING for name in changes):
            raise
        order, older = before.order, before.older or before.asked
    rearranging = _REARRANGING if asked.sort == "given" or older else (*_REARRANGING, "metric")
    decisive = [name for name in changes if name == "image" or name in rearranging][-1:]
    image = asked.image
    if order and decisive != ["image"] and (decisive or image not in order):
        image = order[0]
    keys: tuple[str, ...] = (image,) if decisive == ["image"] else ()
    if image in order:
        start = order.index(image)
        keys = order[start : start + asked.rows]
    rows = []
    for number, key in enumerate(keys):
        if turn is not None:
            turn.report(number / len(keys), explainer_label(question.explainer))
        rows.append(_row(known, asked, known.place(key), turn))
    return Scene(replace(asked, image=image), order, rows, older)


def _row(known: Comparison, asked: Asked, place: int, turn: Turn | None) -> Row:
    question, models = asked.question, (TEACHER, *asked.students)
    predictions = {}
    if known.has_predictions:
        predictions = {m: tuple(known.prediction(one, place, turn) for one in known.members(m)) for m in models}
    return Row(
        known.keys[place],
        known.pixels[place],
        known.asked(question, place, turn),
        known.classes[int(known.images.labels[place])] if place < known.labelled else "",
        predictions,
        {m: known.map(m, question, place, turn) for m in models},
        {m: known.score(m, question, asked.metric, asked.sign, place, turn) for m in asked.students},
    )
