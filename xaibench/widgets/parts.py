"""Small controls that all panels are made of, and what frees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ipywidgets as widgets

__all__ = ["button", "checkbox", "dropdown", "free", "line", "set_options", "slider", "stack", "style_sheet"]

_COLOURS = """<style>
.xaibench { container-type: inline-size; }
.xaibench .xb-note { font-size: 0.85em; opacity: 0.8; line-height: 1.4; max-width: 60rem; }
.xaibench .xb-error { border-left: 3px solid #d55e00; padding: 0.1em 0.6em; line-height: 1.4; }
.xaibench .xb-error:empty { display: none; }
.xaibench table { border-collapse: collapse; font-size: 0.9em; line-height: 1.4; }
.xaibench th, .xaibench td { padding: 0.1em 0.6em; text-align: right; }
.xaibench th:first-child, .xaibench td:first-child { text-align: left; }
.xaibench img { max-width: 100%; height: auto; }
</style>"""


def style_sheet(rules: str = "") -> widgets.HTML:
    """The look of the panels, with further rules of CSS."""
    return widgets.HTML(_COLOURS + (f"<style>{rules}</style>" if rules else ""), layout=widgets.Layout(display="none"))


def line(*controls: widgets.Widget) -> widgets.HBox:
    """Controls side by side, on as many lines as they need."""
    return widgets.HBox(
        controls, layout=widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0.1em 1em")
    )


def stack(*parts: widgets.Widget) -> widgets.VBox:
    """Parts below each other."""
    return widgets.VBox(parts)


def button(text: str, pressed: Callable[[], Any], *, icon: str = "", tooltip: str = "") -> widgets.Button:
    """A button that calls `pressed`."""
    made = widgets.Button(description=text, icon=icon, tooltip=tooltip or text, layout=widgets.Layout(width="auto"))
    made.on_click(lambda _: pressed())
    return made


def dropdown(description: str, options: Sequence[Any] = (), width: str = "auto") -> widgets.Dropdown:
    """A choice of one."""
    style, layout = {"description_width": "initial"}, widgets.Layout(width=width, max_width="100%")
    return widgets.Dropdown(options=options, description=description, style=style, layout=layout)


def checkbox(description: str) -> widgets.Checkbox:
    """A box to tick."""
    return widgets.Checkbox(description=description, indent=False, layout=widgets.Layout(width="auto"))


def slider(description: str, low: float, high: float, step: float, value: float) -> widgets.Widget:
    """A slider over whole numbers where `step` is one, else over fractions."""
    kind = widgets.IntSlider if isinstance(step, int) else widgets.FloatSlider
    style, layout = {"description_width": "initial"}, widgets.Layout(width="20rem", max_width="100%")
    return kind(min=low, max=high, step=step, value=value, description=description, style=style, layout=layout)


def set_options(control: widgets.Dropdown, options: Sequence[Any], value: Any) -> None:
    """Give a choice new options and one of their values; to be done while controls follow, see `Panel`."""
    if tuple(control.options) != tuple(options):
        control.options = options
    control.value = value


def free(*made: widgets.Widget) -> None:
    """Close widgets with their parts, here and in the browser."""
    for widget in [part for one in made for part in _parts(one)]:
        widget.unobserve_all()
        widget.close()


def _parts(widget: Any) -> Iterable[widgets.Widget]:
    """A widget, its layout and style, and the same of everything in it."""
    yield widget
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, widgets.Widget):
            yield part
    for child in getattr(widget, "children", ()):
        yield from _parts(child)
