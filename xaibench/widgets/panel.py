"""What all panels share: a line of messages, small controls, and an end that leaves no widget behind."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import ipywidgets as widgets
import traitlets

from xaibench.errors import XaibenchError
from xaibench.widgets.worker import Worker, sentence

__all__ = [
    "Panel",
    "button",
    "checkbox",
    "dropdown",
    "line",
    "set_options",
    "slider",
    "stack",
    "style_sheet",
    "validate",
]

_numbers = count()
_made: dict[str, tuple[int, list[Panel]]] = {}
"""Cell of a notebook -> how often it was run, and its panels of that run."""

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


class Panel(widgets.VBox):
    """A box with a worker and a line for messages.

    error  what went wrong last, in a sentence; "" after something was shown. Read-only in spirit: watch it

    Running a notebook's cell again closes the panels that it made before.
    """

    error = traitlets.Unicode()

    def __init__(self, **traits: Any) -> None:
        self._following = False
        self._settling = True
        self._message = widgets.HTML()
        self._bar = widgets.FloatProgress(
            min=0, max=1, style={"description_width": "initial"}, layout=widgets.Layout(width="20rem", display="none")
        )
        self._bar.tooltip = "how much of what was asked is computed"
        self._stop = button("cancel", self.cancel, icon="stop")
        self._stop.layout.display = "none"
        self._status = line(self._bar, self._stop, self._message)
        self.worker = Worker(self._progressed)
        self.uid = f"xb{next(_numbers)}"  # a class of CSS that no other panel has
        super().__init__(**traits)
        self.add_class("xaibench")
        self.add_class(self.uid)
        self.observe(self._tell_error, "error")
        _replace_older(self)

    def cancel(self) -> None:
        """End what is being computed; what is on show stays."""
        self.worker.cancel()
        self._idle()

    async def settled(self) -> None:
        """Return when everything that was asked is shown: `await panel.settled()` in a notebook's cell."""
        await self.worker.settled()

    def close(self) -> None:
        """Free the panel with all its parts, here and in the browser."""
        if not hasattr(self, "uid"):  # it could not be made
            return
        self.worker.cancel()
        self.unobserve_all()
        for widget in list(_parts(self)):
            if widget is not self:
                widget.unobserve_all()
                widget.close()
        super().close()

    def _choose(self, trait: str, value: Any) -> None:
        """What a control does: it sets a trait. A refusal becomes a sentence, and the controls go back."""
        if not self._following:
            try:
                setattr(self, trait, value)
            except (XaibenchError, traitlets.TraitError) as error:
                self.error = str(error)
                self._follow()

    def _follow(self) -> None:
        """Set the controls to what the traits say."""

    def _ask(self, change: Any = None) -> None:
        """Compute what the traits ask for, and show it when all of it is there."""

    def _is_on_show(self) -> bool:
        """Whether the traits ask for what is on show."""
        return False

    def _changed(self, change: Any) -> None:
        """Ask for what a changed trait says. Of several that were set at once and went back together, as what they
        asked for failed, the others ask for nothing more: the error stays."""
        if not self.error or self.worker.busy or not self._is_on_show():
            self._ask(change)

    def _return_to(self, traits: Mapping[str, Any]) -> None:
        """Set traits to what is on show, which asks for nothing while `_settling`, and the controls with them."""
        before, self._settling = self._settling, True
        try:
            for name, value in traits.items():
                setattr(self, name, value)
        finally:
            self._settling = before
        self._follow()

    def _work(self, work: Callable[..., Any], done: Callable[[Any], Any]) -> None:
        """Run `work(turn)` beside the notebook and show its result by `done`; an error becomes a sentence."""

        def show(result: Any) -> None:
            self._idle()
            self.error = ""
            try:
                done(result)  # may ask for more, which may fail
            except Exception as error:  # noqa: BLE001 - as an error of the work itself
                self._failed(error)

        self.worker.run(work, show, self._failed)
        if self.worker.busy:
            self._stop.layout.display = None

    def _failed(self, error: Exception) -> None:
        self._idle()
        self.error = sentence(error)

    def _progressed(self, share: float, note: str) -> None:
        self._bar.value, self._bar.description = share, note
        self._bar.layout.display = None

    def _idle(self) -> None:
        self._bar.layout.display = self._stop.layout.display = "none"

    def _tell_error(self, _change: Any) -> None:
        self._message.value = (
            f'<div class="xb-error" role="alert">{html.escape(self.error)}</div>' if self.error else ""
        )

    @contextmanager
    def _controls_follow(self) -> Iterator[None]:
        """Within the block controls are set to what the traits say, and do not answer back (see `_following`)."""
        before, self._following = self._following, True
        try:
            yield
        finally:
            self._following = before


def validate(*traits: str) -> Callable[[Callable[..., Any]], Any]:
    """`traitlets.validate` for checks that raise errors of ours.

    Of several traits that are set at once, in `hold_trait_notifications`, traitlets takes back all when a TraitError is
    raised, and none for other errors. So each error is a TraitError, too.
    """

    def decorate(check: Callable[..., Any]) -> Any:
        @functools.wraps(check)
        def checked(panel: Panel, proposal: Any) -> Any:
            try:
                return check(panel, proposal)
            except XaibenchError as error:
                raise _refusal(type(error))(str(error)) from None

        return traitlets.validate(*traits)(checked)

    return decorate


def _refusal(error: type[XaibenchError]) -> type[XaibenchError]:
    return type(error.__name__, (error, traitlets.TraitError), {"__module__": error.__module__})


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


def set_options(control: widgets.Dropdown, options: Sequence[tuple[str, Any]], value: Any) -> None:
    """Give a choice new options and one of their values; to be done while controls follow, see `Panel`."""
    if tuple(control.options) != tuple(options):
        control.options = options
    control.value = value


def _parts(widget: Any) -> Iterable[widgets.Widget]:
    """A widget, its layout and style, and the same of everything in it."""
    yield widget
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, widgets.Widget):
            yield part
    for child in getattr(widget, "children", ()):
        yield from _parts(child)


def _replace_older(panel: Panel) -> None:
    """Close what the same cell of a notebook made when it was run before."""
    cell, run = _cell()
    if not cell:
        return
    known, panels = _made.get(cell, (run, []))
    if known != run:
        for old in panels:
            old.close()
        panels = []
    _made[cell] = (run, [*panels, panel])


def _cell() -> tuple[str, int]:
    """(id of the notebook cell that runs, how many cells ran before it); ("", 0) outside of a notebook."""
    try:
        from IPython.core.getipython import get_ipython

        shell: Any = get_ipython()
        return str(shell.get_parent()["metadata"].get("cellId", "")), int(shell.execution_count)
    except (ImportError, AttributeError, KeyError, TypeError):
        return "", 0
