"""Files that an explorer writes: its figure, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import xaibench
from xaibench.errors import RunFolderError
from xaibench.figures.style import save_figure
from xaibench.files import write_json
from xaibench.models.checkpoints import state_hash

if TYPE_CHECKING:
    from xaibench.widgets.explorer import Explorer

__all__ = ["FORMATS", "keep", "provenance"]

FORMATS = ("pdf", "svg", "png")


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
