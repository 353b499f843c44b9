"""What lies a click below the explorer's pictures: all images at a glance, how maps were made, layers, files."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import torch
from PIL import Image, UnidentifiedImageError

from xaibench.errors import DataError
from xaibench.figures.names import explainer_label, method_label, metric_label
from xaibench.options import format_options
from xaibench.widgets import inside
from xaibench.widgets.keeping import FORMATS, keep
from xaibench.widgets.live import TEACHER, NotKnownError
from xaibench.widgets.parts import button, dropdown, line
from xaibench.widgets.scatter import Scatter
from xaibench.widgets.stage import Row
from xaibench.widgets.worker import Turn, sentence

if TYPE_CHECKING:
    from xaibench.widgets.explorer import Explorer

__all__ = ["Details"]

_CONFIDENCE = "teacher's confidence"
_STUDENTS = "students' confidence"


class Details:
    """`box` is an accordion; a part is filled when it is opened, and again when what is on show has changed."""

    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self._asked: list[Any] = []  # what the first image on show was asked
        self._scatter = Scatter(lambda key: explorer._choose("image", key))
        names = [(metric_label(name), name) for name in explorer.comparison.metrics]
        self._across = dropdown("across", [(_CONFIDENCE, _CONFIDENCE), (_STUDENTS, _STUDENTS), *names])
        self._across.observe(lambda _: self._show_scatter(), "value")
        self._made = widgets.HTML()
        self._inside, self._flips = widgets.HTML(), widgets.HTML()
        self._layer, self._basis = dropdown("layer", ["all"]), dropdown("directions", list(inside.BASES))
        self._upload = widgets.FileUpload(
            accept="image/*", multiple=False, description="choose an image", layout=widgets.Layout(width="auto")
        )
        self._upload.observe(lambda change: self._take(change.new), "value")
        self._path = widgets.Text("figure", description="file", layout=widgets.Layout(width="22rem"))
        self._format = dropdown("as", FORMATS)
        self._kept, self._code = widgets.HTML(), widgets.HTML()
        parts: dict[str, tuple[widgets.Widget, Callable[[], Any]]] = {
            "All images at a glance": (widgets.VBox([line(self._across), self._scatter.box]), self._show_scatter),
            "How these maps were made": (self._made, self._show_made),
            "Layer by layer": (
                widgets.VBox([line(self._layer, self._basis, button("look inside", self.look_inside)), self._inside]),
                lambda: None,
            ),
            "Flip the pixels": (widgets.VBox([line(button("flip", self.flip)), self._flips]), lambda: None),
            "An image of your own": (line(self._upload), lambda: None),
            "Keep this picture": (
                widgets.VBox([line(self._path, self._format, button("save", self.save)), self._kept, self._code]),
                self._show_code,
            ),
        }
        self._fill = [fill for _, fill in parts.values()]
        self.box = widgets.Accordion([part for part, _ in parts.values()], titles=tuple(parts), selected_index=None)
        self.box.observe(lambda _: self.renew(), "selected_index")

    def renew(self) -> None:
        """What is on show has changed, or another part was opened."""
        shown, known = self._explorer.shown, self._explorer.comparison
        members = [known.version(member) for name in shown.students for member in known.members(name)]
        asked = [(row.key, row.asked, shown.explainer, shown.students, members) for row in self._explorer.on_show[:1]]
        if self.box.selected_index != 2 or asked != self._asked:
            self._inside.value = ""
        if self.box.selected_index != 3 or asked != self._asked:
            self._flips.value = ""
        self._asked = asked
        if self.box.selected_index is not None:
            self._fill[self.box.selected_index]()

    def look_inside(self) -> None:
        """Relevance at the layers of teacher and students, for the first image on show."""
        explorer, layer, basis = self._explorer, self._layer.value, self._basis.value
        if (row := self._first()) is None:
            return
        question, students = explorer.shown.question, explorer.students

        def show(found: inside.Inside) -> None:
            self._layer.options = ["all", *found.layers]
            self._inside.value = found.html

        explorer._work(
            lambda turn: inside.look_inside(
                explorer.comparison, row, question, students, layer=layer, basis=basis, turn=turn
            ),
            show,
        )

    def flip(self) -> None:
        """Flip curves of the first image on show."""
        explorer = self._explorer
        if (row := self._first()) is None:
            return
        question, students = explorer.shown.question, explorer.students
        explorer._work(
            lambda turn: inside.flip(explorer.comparison, row, question, students, turn=turn),
            lambda text: setattr(self._flips, "value", text),
        )

    def _first(self) -> Row | None:
        """The first image on show, whatever else was asked for meanwhile: that is given up."""
        self._explorer.cancel()
        if self._explorer.on_show:
            return self._explorer.on_show[0]
        self._explorer.error = "nothing is on show: choose filters that leave an image"
        return None

    def save(self) -> None:
        """Write the figure of what is on show, with a file that says where it comes from."""
        try:
            paths = keep(self._explorer, Path(self._path.value).expanduser(), self._format.value)
        except (ValueError, OSError, RuntimeError) as error:  # the last where '~name' is nobody's
            self._kept.value = ""
            self._explorer.error = sentence(error)
            return
        self._explorer.error = ""
        self._kept.value = f"<code>{'</code><br><code>'.join(html.escape(str(path)) for path in paths)}</code>"

    def _show_scatter(self) -> None:
        explorer = self._explorer
        likeness = explorer._likeness()
        if not likeness:
            self._scatter.clear(
                "Not all images are explained yet by this question: press 'explain all images' to see them here."
                if explorer.shown.students
                else "Choose a student."
            )
            return
        across = self._across.value
        try:
            x = self._confidence(across) if across in (_CONFIDENCE, _STUDENTS) else explorer._likeness(across)
        except NotKnownError:
            self._scatter.clear(f"The {across} is not known yet.")
            explorer.cancel()
            explorer._work(lambda turn: self._confidence(across, turn), lambda _: self._show_scatter())
            return
        self._scatter.show(
            {key: x.get(key, float("nan")) for key in explorer.order},
            likeness,
            x_label=across if across in (_CONFIDENCE, _STUDENTS) else metric_label(across),
            y_label=metric_label(explorer.shown.metric),
            here=explorer.shown.image,
        )

    def _confidence(self, whose: str, turn: Turn | None = None) -> dict[str, float]:
        known, names = self._explorer.comparison, self._explorer.shown.students
        models = [TEACHER] if whose == _CONFIDENCE else [one for name in names for one in known.members(name)]
        values = [[p.confidence for p in known.predictions(model, turn)] for model in models]
        return dict(zip(known.keys, torch.tensor(values).mean(dim=0).tolist()))

    def _show_made(self) -> None:
        from xaibench.attribution.explainers import parse_explainer

        explorer, known = self._explorer, self._explorer.comparison
        lines = []
        for row in explorer.on_show:
            for model, made in row.maps.items():
                note = made.trouble or made.told or "nothing is measured on these maps"
                lines.append(f"<tr><td>{html.escape(row.key)}</td><td>{html.escape(method_label(model))}</td>")
                lines.append(f"<td>{html.escape(note)}</td></tr>")
        by = html.escape(explainer_label(explorer.shown.explainer.partition(":")[0]))
        options = html.escape(format_options(parse_explainer(explorer.shown.explainer), full=True))
        self._made.value = (
            f"<p>Both models are asked by {by}, <code>{options}</code>. Scores are of maps pooled to "
            f"{known.grid} × {known.grid} cells ({explorer.shown.sign}).</p><table>{''.join(lines)}</table>"
        )

    def _show_code(self) -> None:
        self._code.value = f"<p>The code that makes this figure:</p><pre>{html.escape(self._explorer.code())}</pre>"

    def _take(self, files: Any) -> None:
        explorer = self._explorer
        for file in files:
            try:
                explorer.add_image(self._decoded(bytes(file["content"]), str(file["name"])), str(file["name"]))
            except ValueError as error:
                explorer.error = sentence(error)

    def _decoded(self, content: bytes, name: str) -> torch.Tensor:
        from xaibench.data.folders import UNREADABLE, pixels_of, upright

        channels, height, width = self._explorer.comparison.images.shape
        try:
            image = upright(Image.open(io.BytesIO(content)))
        except UNREADABLE as error:
            detail = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"  # else it names a buffer
            raise DataError(f"{name} is no image that can be read{detail}: choose a PNG or JPEG file") from error
        return torch.from_numpy(pixels_of(image, name, (height, width), grey=channels == 1).copy())
