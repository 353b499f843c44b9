"""What all panels share: work beside the notebook, a line of messages, and an end that leaves no widget behind."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any
from weakref import WeakSet

import ipywidgets as widgets
import traitlets

from xaibench.errors import ConfigError, XaibenchError, unknown_name
from xaibench.widgets.parts import button, free, line
from xaibench.widgets.worker import Worker, sentence

__all__ = ["Panel", "validate"]

_numbers = count()
_made: dict[str, tuple[int, WeakSet[Panel]]] = {}
"""Cell of a notebook -> how often it was run, and its panels of that run."""


class Panel(widgets.VBox):
    """A box with a worker and a line for messages.

    error  what went wrong last, in a sentence; "" after something was shown. Read-only in spirit: watch it

    Running a notebook's cell again closes the panels that it made before.
    """

    error = traitlets.Unicode()

    def __init__(self, **traits: Any) -> None:
        self._following = False
        self._settling = True
        self._changes: list[str] = []  # traits that were set since something was shown, the latest last
        known = self.trait_names()
        for name in traits:
            if name not in known:
                raise unknown_name("option of a panel", name, known)
        try:
            super().__init__(**traits)
        except XaibenchError:
            raise
        except traitlets.TraitError as error:
            raise ConfigError(f"{' '.join(str(error).split()).rstrip('.')}: give a value of that kind") from error
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
        self.add_class("xaibench")
        self.add_class(self.uid)
        self.observe(self._tell_error, "error")
        _replace_older(self)

    @property
    def closed(self) -> bool:
        """Whether it was closed, after which nothing can be asked of it."""
        return self.comm is None

    def cancel(self) -> None:
        """End what is being computed; the traits go back to what is on show."""
        self._give_up()

    async def settled(self) -> None:
        """Return when everything that was asked is shown: `await panel.settled()` in a notebook's cell."""
        await self.worker.settled()

    def close(self) -> None:
        """Free the panel with all its parts, here and in the browser."""
        if not hasattr(self, "uid"):  # it could not be made
            return
        self.worker.cancel()
        self.unobserve_all()
        free(self.layout, self._status, *self.children)
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

    def _ask(self) -> None:
        """Compute what the traits ask for, and show it when all of it is there."""

    def _shown(self) -> Mapping[str, Any]:
        """The traits of what is on show; none where nothing is."""
        return {}

    def _give_up(self) -> None:
        self.worker.cancel()
        self._idle()
        self._go_back()

    def _go_back(self) -> None:
        """Set the traits to what is on show: what was set since is done, or given up."""
        self._changes.clear()
        self._return_to(self._shown())

    def _changed(self, change: Any) -> None:
        """Ask for what a changed trait says. Of several that were set at once and went back together, as what they
        asked for failed, the others ask for nothing more: the error stays."""
        shown = self._shown()
        is_on_show = bool(shown) and all(getattr(self, name) == value for name, value in shown.items())
        if not self._settling and not (self.error and is_on_show and not self.worker.busy):
            self._ask_for(change.name)

    def _ask_for(self, trait: str) -> None:
        """Ask for what the traits say; that this one was set counts until something is shown."""
        self._changes = [*(name for name in self._changes if name != trait), trait]
        self._ask()

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
        self._must_be_open()

        def show(result: Any) -> None:
            self._idle()
            self.error = ""
            try:
                done(result)  # may ask for more, which may fail
            except BaseException as error:  # as of the work itself
                self._failed(error)
                if not isinstance(error, Exception):
                    raise

        self.worker.run(work, show, self._failed)
        if self.worker.busy:
            self._stop.layout.display = None

    def _must_be_open(self) -> None:
        if self.closed:
            raise ConfigError(f"this {type(self).__name__} was closed: open another one")

    def _failed(self, error: BaseException) -> None:
        """What is on show stays, the traits go back to it, and the error is said."""
        self._give_up()
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


def _replace_older(panel: Panel) -> None:
    """Close what the same cell of a notebook made when it was run before."""
    cell, run = _cell()
    if not cell:
        return
    known, panels = _made.get(cell, (run, WeakSet()))
    if known != run:
        for old in list(panels):
            old.close()
        panels = WeakSet()
    panels.add(panel)
    _made[cell] = (run, panels)


def _cell() -> tuple[str, int]:
    """(id of the notebook cell that runs, how many cells ran before it); ("", 0) outside of a notebook."""
    try:
        from IPython.core.getipython import get_ipython

        shell: Any = get_ipython()
        return str(shell.get_parent()["metadata"].get("cellId", "")), int(shell.execution_count)
    except (ImportError, AttributeError, KeyError, TypeError):
        return "", 0
