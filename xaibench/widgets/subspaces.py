"""A panel for the teacher's subspaces: how many directions matter, and what each of them looks at."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import pandas as pd
import traitlets

from xaibench.data.images import ImageSet
from xaibench.data.tasks import Task
from xaibench.errors import ConfigError, unknown_name
from xaibench.models.pair import ModelPair
from xaibench.subspace.bases import BASES
from xaibench.validation import checked
from xaibench.widgets.panel import Panel, validate
from xaibench.widgets.parts import checkbox, dropdown, line, slider, style_sheet
from xaibench.widgets.pictures import CARDS
from xaibench.widgets.subspace_pictures import accuracy_picture, look_html, shares_picture, spectrum_picture
from xaibench.widgets.subspace_view import Scene, SubspaceView

__all__ = ["SubspacePanel"]

_TRAITS = ("layer", "basis", "bases", "k", "direction")
_CSS = """
.xaibench .xb-curves { display: flex; flex-wrap: wrap; gap: 0.6em 0.8em; margin: 0.5em 0; }
.xaibench .xb-curves img { min-width: 0; }
.xaibench .xb-spectra img { flex: 1 1 13rem; max-width: 281px; }
.xaibench .xb-pair { display: flex; gap: 2px; }
.xaibench .xb-pair img { flex: 1 1 0; min-width: 0; }
"""


class SubspacePanel(Panel):
    """Spectra of the teacher's layers, its accuracy within subspaces, and what single directions look at.

    pair       its teacher, at the teacher's layers of its pairs
    images     a Task (moments from its training, the rest from its test images), or an ImageSet for both
    test       images for accuracies and directions, in place of those
    k_max      the largest number of directions on show; None: all
    explained  how many of the test images relevance is measured on
    most       how many test images are looked at, evenly over the classes

    Everything is computed when it is first looked at, beside the notebook, and then remembered. Traits are its
    interface; set them from code or with the controls:

    layer      name of the teacher's layer
    basis      name in `BASES`, whose directions are looked at
    bases      names of further bases whose accuracy is drawn
    k          number of directions kept, marked in the curves
    direction  the one that is looked at, counted from 1

    A value that is not there raises an error and changes nothing; k and direction follow to a layer with fewer. After
    an error in what was asked, or a cancel, the traits go back to what is on show.
    """

    layer = traitlets.Unicode()
    basis = traitlets.Unicode("prcaposdef")
    bases = traitlets.Tuple(default_value=("pca", "random"))
    k = traitlets.Int(1)
    direction = traitlets.Int(1)

    @checked
    def __init__(
        self,
        pair: ModelPair,
        images: ImageSet | Task,
        *,
        k_max: int | None = None,
        test: ImageSet | None = None,
        explained: int = 32,
        most: int = 500,
        **traits: Any,
    ) -> None:
        if k_max is not None and k_max < 1:
            raise ConfigError(f"k_max must be at least 1, got {k_max}: how many directions to show at most")
        train, seen = (images.train, images.test) if isinstance(images, Task) else (images, images)
        self._view = view = SubspaceView(pair, train, (test or seen).sample(most), explained, k_max)
        first = traits.get("layer") or list(view.channels)[-1]
        widths = {"k": min(view.widths[first], view.most(first))} if first in view.channels else {}
        self._spectra: dict[str, str] = {}
        self._on_show: dict[str, Any] = {}
        super().__init__(**{"layer": first, **widths, **traits})
        self.add_class("xaibench-subspaces")
        self._build()
        self.observe(self._move, "layer")
        self.observe(self._changed, list(_TRAITS))
        self._settling = False
        self._ask()

    @property
    def accuracies(self) -> pd.DataFrame:
        """What was computed so far: columns layer, basis, k, accuracy."""
        rows = [
            (layer, kind, k, float(accuracy))
            for (layer, kind), curve in self._view.known.items()
            for k, accuracy in zip(curve.counts, curve.accuracy)
        ]
        return pd.DataFrame(rows, columns=["layer", "basis", "k", "accuracy"])

    def cancel(self) -> None:
        """End what is being computed; the traits go back to what is on show."""
        self._view.ended.set()
        super().cancel()

    def close(self) -> None:
        """Free the panel with all its parts."""
        if hasattr(self, "_view"):
            self._view.ended.set()
        super().close()

    @validate("layer", "basis")
    def _known(self, proposal: Any) -> str:
        valid = self._view.channels if proposal.trait.name == "layer" else BASES
        if proposal.value not in valid:
            raise unknown_name(proposal.trait.name, proposal.value, valid)
        return str(proposal.value)

    @validate("bases")
    def _known_bases(self, proposal: Any) -> tuple[str, ...]:
        known = tuple(BASES)
        for name in proposal.value:
            if name not in known:
                raise unknown_name("basis", name, known)
        return tuple(name for name in known if name in proposal.value)

    @validate("k", "direction")
    def _within(self, proposal: Any) -> int:
        most = self._view.most(self.layer)
        if not 1 <= proposal.value <= most:
            raise ConfigError(f"{proposal.trait.name} must lie in 1..{most} at {self.layer}, got {proposal.value}")
        return int(proposal.value)

    def _build(self) -> None:
        layers = [(f"{layer} ({d} channels)", layer) for layer, d in self._view.channels.items()]
        self._controls: dict[str, widgets.Widget] = {
            "layer": dropdown("layer", layers),
            "basis": dropdown("basis", list(BASES)),
            "k": slider("directions kept (k)", 1, 1, 1, 1),
            "direction": slider("direction", 1, 1, 1, 1),
        }
        self._boxes = {name: checkbox(name) for name in BASES}
        for name, control in self._controls.items():
            control.observe(lambda change, name=name: self._choose(name, change.new), "value")
        for box in self._boxes.values():
            box.observe(
                lambda _: self._choose("bases", tuple(name for name, box in self._boxes.items() if box.value)), "value"
            )
        self._pictures, self._looks = widgets.HTML(), widgets.HTML()
        layer, basis, k, direction = self._controls.values()
        self.children = (
            style_sheet(CARDS + _CSS),
            line(layer, basis, k),
            line(widgets.HTML("accuracy also in"), *self._boxes.values()),
            self._status,
            self._pictures,
            line(direction),
            self._looks,
        )

    def _move(self, _change: Any) -> None:
        most = self._view.most(self.layer)
        self._return_to({"k": min(self.k, most), "direction": min(self.direction, most)})

    def _follow(self) -> None:
        with self._controls_follow():
            for name in ("k", "direction"):
                self._controls[name].max = self._view.most(self.layer)
            for name, control in self._controls.items():
                control.value = getattr(self, name)
            for name, box in self._boxes.items():
                box.value = name in self.bases

    def _shown(self) -> dict[str, Any]:
        return self._on_show

    def _ask(self) -> None:
        self._follow()
        self._view.ended.clear()
        asked = {name: getattr(self, name) for name in _TRAITS}
        self._work(
            lambda turn: self._view.scene(asked["layer"], asked["basis"], asked["bases"], asked["direction"] - 1, turn),
            lambda scene: self._show(asked, scene),
        )

    def _show(self, asked: dict[str, Any], scene: Scene) -> None:
        view, layer, k, direction = self._view, asked["layer"], asked["k"], asked["direction"] - 1
        width = view.widths[layer]
        spectra = [self._spectrum(name, scene) for name in view.channels]
        curves = accuracy_picture(layer, scene.curves, width, k) + shares_picture(layer, scene, width, k)
        looks = look_html(layer, scene, direction, view.test)
        note = "Above: eigenvalues of each layer's centred covariance as shares of the variance, and their sums."
        self._pictures.value = (
            f'<div class="xb-curves xb-spectra">{"".join(spectra)}</div><div class="xb-note">{note}</div>'
            f'<div class="xb-curves">{curves}</div>'
        )
        self._looks.value = looks
        self._on_show = asked
        self._go_back()

    def _spectrum(self, layer: str, scene: Scene) -> str:
        if layer not in self._spectra:
            self._spectra[layer] = spectrum_picture(layer, scene.spectra[layer], self._view.widths[layer])
        return self._spectra[layer]
