"""Draw any figure of a run by its kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from xaibench.errors import ConfigError, DataError, UnknownNameError, unknown_name
from xaibench.figures.layout import PAGE
from xaibench.figures.names import METHOD_LABELS, method_label, read_names
from xaibench.figures.style import paper_style
from xaibench.run.drawing import (
    first_students,
)
from xaibench.run.figure_kinds import KINDS, Asked
from xaibench.run.folder import TEACHER, Run, open_run
from xaibench.run.job import StudentKey
from xaibench.validation import checked

__all__ = ["figure"]


@checked
def figure(
    run: Run | Path | str,
    kind: str = "gallery",
    *,
    explainer: str | None = None,
    methods: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    rows: int | None = None,
    names: Mapping[str, str] | Path | str | None = None,
    font: str = "sans",
    width: str | float | None = None,
) -> Figure:
    """Draw a figure of a run; `save_figure` writes it.

    run        a run or its folder
    kind       a name in `KINDS`
    explainer  of the run; None: the first, or all where the figure compares them
    methods    of the run, each in any way that names it; None: the figure's own choice
    images     keys of explained images, of a gallery
    rows       number of images of a gallery where none are named, evenly from most to least alike; None: 6
    names      method, explainer, class, metric or layer -> what to write in its place, or a file for `read_names`
    font       "sans", "serif" (as Times) or "latex" (Computer Modern)
    width      "single", "double" or inches; None: the figure's own

    Raises UnknownNameError for names that there are not, ConfigError for choices that the kind does not leave,
    RunFolderError with the command to run where the run lacks what is drawn, DataError for more than a page.
    """
    run = run if isinstance(run, Run) else open_run(run)
    if kind not in KINDS:
        raise unknown_name("kind of figure", kind, KINDS)
    given = {"explainer": explainer, "methods": methods, "images": images, "rows": rows}
    for choice, value in given.items():
        if value is not None and choice not in KINDS[kind].takes:
            able = ", ".join(name for name, other in KINDS.items() if choice in other.takes)
            raise ConfigError(f"a figure of the kind '{kind}' takes no {choice}: leave it out, or draw {able}")
    if explainer is not None and explainer not in run.explainers:
        raise unknown_name("explainer of this run", explainer, run.explainers)
    if rows is not None and rows < 1:
        raise ConfigError(f"rows must be at least 1, got {rows}")
    for key in images or ():
        if key not in run.images.keys:
            raise unknown_name("image", key, run.images.keys)
    shown = read_names(names) if isinstance(names, (str, Path)) else dict(names or {})
    _check_names(run, shown)
    drawing = {"names": shown, "width": KINDS[kind].width if width is None else width}
    asked = Asked(
        run, explainer, None if methods is None else _methods(run, methods), list(images or ()) or None, rows, drawing
    )
    with paper_style(font):
        drawn = KINDS[kind].draw(asked)
    height = drawn.get_size_inches()[1]
    if height > PAGE:
        ways = [*KINDS[kind].takes, "more width"] if drawing["width"] != "double" else KINDS[kind].takes
        raise DataError(
            f"the figure would be {height:.1f} in high, a page has {PAGE} in: ask for fewer by {', '.join(ways)}"
        )
    return drawn


def _methods(run: Run, given: Iterable[str]) -> list[str]:
    known = list(first_students(run))
    found = []
    for text in given:
        try:
            name = text if text in known else StudentKey.of(text, 0).method_name
        except (UnknownNameError, ConfigError):
            name = text
        if name not in known:
            raise unknown_name("method of this run", text, known)
        found.append(name)
    return [name for name in known if name in found]


def _check_names(run: Run, names: Mapping[str, str]) -> None:
    methods, layers = list(first_students(run)), list(map(str, run.manifest["layers"]))
    known = {TEACHER, "untrained", "input", *methods, *run.students, *run.explainers, *run.classes}
    known |= {*METHOD_LABELS, *(text.partition(":")[0] for text in run.explainers), *run.config.similarity.metrics}
    known |= {*layers, *(name for pair in layers for name in pair.split(":"))}
    for name in names:
        if name not in known:
            raise unknown_name("name to write otherwise", name, sorted(known))
    written: dict[str, str] = {}
    for method in (TEACHER, *methods):
        other = written.setdefault(method_label(method, names), method)
        if other != method:
            both = f"'{other}' and '{method}' are both written '{method_label(method, names)}'"
            raise ConfigError(f"{both}: give them different names")
