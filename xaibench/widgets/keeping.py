"""What is kept of an explorer: its figure, where it comes from, and the code that makes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xaibench
from xaibench.errors import RunFolderError
from xaibench.figures.style import save_figure
from xaibench.files import write_json
from xaibench.models.checkpoints import state_hash
from xaibench.widgets.explorer_traits import ASKED, DRAWN

if TYPE_CHECKING:
    from xaibench.widgets.explorer import Explorer

__all__ = ["FORMATS", "code_of", "keep", "provenance"]

FORMATS = ("pdf", "svg", "png")

_WAIT = "await explorer.settled()  # in a notebook; not in a script"


def keep(explorer: Explorer, path: Path, form: str) -> list[Path]:
    """Write the figure on show as `path`.FORM and its provenance as `path`.json."""
    stem = path.with_suffix("") if path.suffix.removeprefix(".") in FORMATS else path
    if not stem.name:
        raise RunFolderError(f"'{path}' names no file: write a name, such as figure or figures/coat")
    written = save_figure(explorer.figure(), stem, (form,))
    return [*written, write_json(stem.with_name(f"{stem.name}.json"), provenance(explorer))]


def provenance(explorer: Explorer) -> dict[str, Any]:
    """What a figure shows and what it was made from."""
    known, rows = explorer.comparison, explorer.on_show
    live = known.live
    loaded = {} if live is None else {name: state_hash(live.module(name, None)) for name in live.loaded}
    return {
        "xaibench": xaibench.__version__,
        **known.about,
        "images": {row.key: {"explained": row.asked[0], "rather than": row.asked[1]} for row in rows},
        "source": known.images.source,
        "models": loaded,
        "explainer": explorer.shown.explainer,
        "metric": explorer.shown.metric,
        "sign": explorer.shown.sign,
        "grid": known.grid,
        "scores": {row.key: {name: score.value for name, score in row.scores.items()} for row in rows},
        "undefined": {row.key: {m: one.trouble for m, one in row.maps.items() if one.trouble} for row in rows},
        "code": explorer.code(),
    }


def code_of(explorer: Explorer) -> str:
    """Python that opens an explorer as it stands and draws its figure.

    It opens with the question that the order answers. What was added, an order that needs all images explained, a
    question after that and the image follow, each when what it needs is there.
    """
    known, shown, by = explorer.comparison, explorer.shown, explorer.ordered_by
    source = (
        repr(known.about["run"]) if "run" in known.about else "maps, images" if known.live is None else "pair, images"
    )
    stands = {name: getattr(by, name) for name in ASKED} | {"image": shown.image, "rows": shown.rows}
    stands |= {name: getattr(explorer, name) for name in DRAWN}
    changed = {name: value for name, value in stands.items() if value != explorer.trait_defaults(name)}
    if not by.students:  # which by default are chosen
        changed["students"] = ()

    def later(*traits: str) -> list[str]:
        return [f"explorer.{name} = {changed.pop(name)!r}" for name in traits if name in changed]

    def adding(keys: Iterable[str]) -> Iterator[str]:
        for key in keys:
            call = f"explorer.add_image({_variable('image', own, key)}, {key.removeprefix('own/')!r})"
            yield f"{call}  # the image of your own: (C, H, W), uint8"
            yield _WAIT

    steps: list[str] = []
    members = dict.fromkeys(one for name in (*by.students, *shown.students) for one in known.members(name))
    if added := [member for member in members if member in known.added]:
        steps += [f"explorer.add_student({name!r}, {_variable('student', added, name)})" for name in added]
        steps += later("students")
    own = [row.key for row in explorer.on_show if row.key in known.keys[known.labelled :]]
    steps += adding(key for key in own if key in explorer.order)
    stored = known.are_stored(by.students, by.question)
    if not stored and (by.only == "undefined" or by.sort in ("least alike", "most alike")):
        steps += ["explorer.explain_all()", _WAIT, *later("sort", "only")]
    if explorer.order_is_older:
        asked = {name: getattr(shown, name) for name in ASKED if name not in ("image", "rows")}
        steps += [_WAIT, "with explorer.hold_trait_notifications():"]
        steps += [f"    explorer.{name} = {value!r}" for name, value in asked.items() if value != getattr(by, name)]
    steps += adding(key for key in own if key not in explorer.order)
    if steps:
        steps += later("image")
    if steps or not stored:
        steps.append(_WAIT)
    opened = [f"    {name}={value!r}," for name, value in changed.items()]
    head = ["import xaibench as xb", "", f"explorer = xb.explore(\n    {source},", *opened, ")"]
    return "\n".join([*head, *steps, "explorer.figure()"])


def _variable(word: str, every: Sequence[str], one: str) -> str:
    """What one of several things is called: "image", or "image_2" where there are more."""
    return word if len(every) == 1 else f"{word}_{every.index(one) + 1}"
