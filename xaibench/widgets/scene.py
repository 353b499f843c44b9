"""From what an explorer's traits ask for to what it shows, whole."""

from __future__ import annotations

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
    before what was asked when the order was made, where this question is not answered for all images; else None
    """

    asked: Asked
    order: tuple[str, ...]
    rows: list[Row]
    before: Asked | None = None


def compute_scene(known: Comparison, asked: Asked, changed: str, before: Scene | None, turn: Turn | None) -> Scene:
    """What the explorer shows next.

    changed  the trait that was set: after another order it begins with the first image, and an image that was chosen is
             shown even where the filters leave it out
    before   what is on show. Its order stays where a new question is not answered for all images yet
    turn     the work this is part of; None: NotKnownError is raised where a model is needed
    """
    question, ordered_by = asked.question, None
    if asked.image in known.keys[known.labelled :]:  # an image of one's own is explained before it is sorted
        for model in (TEACHER, *asked.students):
            known.map(model, question, known.place(asked.image), turn)
    try:
        order = ordered(known, asked, question, turn)
    except NotScoredError:
        if before is None or changed in _REARRANGING:
            raise
        order, ordered_by = before.order, before.before or before.asked
    rearranged = changed in _REARRANGING or (changed == "metric" and asked.sort != "given" and ordered_by is None)
    image = asked.image
    if order and changed != "image" and (rearranged or image not in order):
        image = order[0]
    keys: tuple[str, ...] = (image,) if changed == "image" else ()
    if image in order:
        start = order.index(image)
        keys = order[start : start + asked.rows]
    rows = []
    for number, key in enumerate(keys):
        if turn is not None:
            turn.report(number / len(keys), explainer_label(question.explainer))
        rows.append(_row(known, asked, known.place(key), turn))
    return Scene(replace(asked, image=image), order, rows, ordered_by)


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
