"""What is kept of an explorer: its figure, where it comes from, and the code that makes it."""

from __future__ import annotations

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

    Students and images that were added, and orders that need all images explained, come after the explorer is there.
    """
    known, shown = explorer.comparison, explorer.shown
    source = repr(known.about["run"]) if "run" in known.about else "pair, images"
    stands = {name: getattr(shown, name) for name in ASKED} | {name: getattr(explorer, name) for name in DRAWN}
    changed = {name: value for name, value in stands.items() if value != explorer.trait_defaults(name)}
    if not shown.students:  # which by default are chosen
        changed["students"] = ()
    steps, late = [], []
    for name in shown.students:
        if known.added & set(known.members(name)):
            steps.append(f"explorer.add_student({name!r}, student)")
            late = ["students"]
    if shown.image in known.keys[known.labelled :]:
        steps += [f"explorer.add_image(image, {shown.image.removeprefix('own/')!r})", _WAIT]
        late.append("image")
    if not known.are_stored(shown.students, shown.question) and (
        shown.only == "undefined" or shown.sort in ("least alike", "most alike")
    ):
        steps += ["explorer.explain_all()", _WAIT]
        late += ["sort", "only", "image"]
    after = [f"explorer.{name} = {changed.pop(name)!r}" for name in dict.fromkeys(late) if name in changed]
    opened = [f"    {name}={value!r}," for name, value in changed.items()]
    lines = ["import xaibench as xb", "", f"explorer = xb.explore(\n    {source},", *opened, ")"]
    return "\n".join([*lines, *steps, *after, "explorer.figure()"])
