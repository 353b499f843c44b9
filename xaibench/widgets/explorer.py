"""The explorer: move through images and see where student and teacher disagree, and ask both further questions."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from xaibench.attribution.store.store import AttributionStore
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError
from xaibench.figures.gallery import gallery
from xaibench.figures.names import explainer_label
from xaibench.models.copies import private_copy
from xaibench.similarity.maps import with_sign
from xaibench.widgets.comparison import Comparison
from xaibench.widgets.controls import Controls
from xaibench.widgets.details import Details
from xaibench.widgets.explorer_traits import ASKED, DRAWN, Asked, ExplorerTraits
from xaibench.widgets.keeping import code_of
from xaibench.widgets.live import TEACHER, NotKnownError
from xaibench.widgets.parts import style_sheet
from xaibench.widgets.pictures import CARDS
from xaibench.widgets.scene import Scene, compute_scene
from xaibench.widgets.sources import comparison_of
from xaibench.widgets.stage import STAGE, Display, Row, score_text, stage_html
from xaibench.widgets.thumbnails import Thumbnails
from xaibench.widgets.worker import Turn

__all__ = ["Explorer", "explore"]


class Explorer(ExplorerTraits):
    """Input, teacher and students side by side on one colour scale, with their scores; a panel for Jupyter.

    The traits are its interface; set them from code or with the controls, observe them like any trait:

    image      key of the first image shown; `rows` is how many are shown at once
    students   models beside the teacher: "METHOD/seedN", or "METHOD/mean" for the mean over seeds
    explainer  whose heatmaps, with its options ("lrp", "ig:baseline=blur")
    label      class that is explained, "" each image's own; `contrast` the one it is held against, "" the runner-up
    metric     the score below the maps, and the one that sorts
    sort       see `order.SORTS`; `only` which images are shown, see `order.ONLY`; `of_class` "" or a class
    look       "heatmap", "overlay", "difference" or "as scored"; `scale` "share" or "none"; `opacity` of the overlay
    sign       "signed", "absolute" or "positive": of the maps and of the scores
    zoom       1 to 8, around the cursor; `cursor` () or (row, column) as shares of the sides

    What is known is shown at once; what is not is computed beside the notebook, where there are models, and the latest
    request wins. `order` holds the keys that the filters leave; `figure()` draws what is shown for a paper, `code()`
    says how to make it. An unknown name raises UnknownNameError and changes nothing; after an error in what was asked
    the traits go back to what is on show, and `error` says why.
    """

    def __init__(self, what: Any, second: Any = None, images: Any = None, **options: Any) -> None:
        given = {name: options.pop(name) for name in ("preprocessing", "store") if name in options}
        self.comparison: Comparison = comparison_of(what, second, images, **given)
        known = self.comparison
        self._scene: Scene | None = None
        start = {
            "image": known.keys[0],
            "students": tuple(names[0] for names in known.groups.values()),
            "explainer": known.explainers[0],
            "metric": known.metrics[0],
            "sign": known.sign,
        }
        super().__init__(**{**start, **options})
        self.add_class("xaibench-explorer")
        self._controls = Controls(self)
        self._thumbnails = Thumbnails(known, self.uid, lambda key: self._choose("image", key))
        self._stage = widgets.HTML()
        self._details = Details(self)
        self.children = (
            style_sheet(CARDS + STAGE + self._thumbnails.rules),
            *self._controls.above,
            self._thumbnails.box,
            self._stage,
            self._status,
            *self._controls.below,
            self._details.box,
        )
        self.observe(self._changed, ASKED)
        self.observe(self._redraw, DRAWN)
        self._settling = False
        self._changes = ["image" if "image" in options else "sort"]  # opens with the first of the order
        try:
            self._answer()
        except Exception:  # nothing to go back to: there is no panel
            self.close()
            raise

    @property
    def order(self) -> tuple[str, ...]:
        """Keys of the images that the filters leave, in the order shown."""
        return self._scene.order if self._scene else ()

    @property
    def order_is_older(self) -> bool:
        """Whether `order` is that of a question before, as this one is not answered for all images."""
        return self._scene is not None and self._scene.older is not None

    @property
    def ordered_by(self) -> Asked:
        """The question that `order` answers: that on show, or one before (`order_is_older`)."""
        return (self._scene and self._scene.older) or self.shown

    @property
    def on_show(self) -> tuple[Row, ...]:
        """What is known of the images in view: predictions, maps, scores."""
        return tuple(self._scene.rows) if self._scene else ()

    @property
    def shown(self) -> Asked:
        """The question that what is on show answers; the traits may already ask another one."""
        return self._scene.asked if self._scene else self._asked()

    def figure(self, width: str | float = "double") -> Figure:
        """The images, heatmaps and scores on show, as a figure for a paper: whole maps in pixels.

        Of how the panel draws, `scale` is taken over; `look`, `opacity`, `zoom` and `cursor` are not.
        """
        rows = self.on_show
        if not rows:
            raise ConfigError(self.error or "nothing is on show: choose filters that leave an image")
        models, sign = [name for name in rows[0].maps if name != TEACHER], self.shown.sign
        maps = {name: [with_sign(row.maps[name].values, sign) for row in rows] for name in (TEACHER, *models)}
        return gallery(
            [row.picture.transpose(2, 0, 1) for row in rows],
            maps[TEACHER],
            {name: maps[name] for name in models},
            titles=["{}\nrather than {}".format(*row.asked) for row in rows],
            scores={name: [score_text(self.shown.metric, row.scores[name].value) for row in rows] for name in models},
            heading=explainer_label(self.shown.explainer) + (f", {sign} relevance" if sign != "signed" else ""),
            normalise=self.scale,
            width=width,
        )

    def code(self) -> str:
        """Python that opens the explorer as it stands and draws its figure."""
        return code_of(self)

    def add_student(self, name: str, student: nn.Module) -> None:
        """Show another student beside the others, or in place of the one of that name; a copy is kept."""
        self._must_be_open()
        self.comparison.add_student(name, private_copy(student).eval())
        self._controls.renew()
        if name in self.students:
            self._ask()
        else:
            self.students = (*self.students, name)

    def add_image(self, image: torch.Tensor, name: str) -> None:
        """Look at an image of one's own: (C, H, W) uint8 of the size of the others. It is labelled by the teacher."""
        known, key = self.comparison, f"own/{name}"
        live = known.takes(image)

        def show(label: int) -> None:
            added = key
            while added in known.keys:
                added += "'"
            known.add_image(image, added, label)
            self._choose("image", added)

        self._work(lambda turn: live.predicted_label(image, turn), show)

    def explain_all(self) -> None:
        """Explain every image by the question on show, so that they can be sorted by likeness."""
        students, question = self.students, self._asked().question
        self._work(lambda turn: self.comparison.explain_all(students, question, turn), lambda _: self._ask())

    def _follow(self) -> None:
        self._controls.follow()

    def _asked(self) -> Asked:
        return Asked(**{name: getattr(self, name) for name in ASKED})

    def _shown(self) -> dict[str, Any]:
        return vars(self._scene.asked) if self._scene is not None else {}

    def _ask(self) -> None:
        try:
            self._answer()
        except Exception as error:  # noqa: BLE001 - a front end shows no exceptions, but the old image
            self._failed(error)

    def _answer(self) -> None:
        """Show what the traits ask for at once where all of it is known, else have it computed."""
        asked, changes, before = self._asked(), tuple(self._changes), self._scene

        def compute(turn: Turn | None) -> Scene:
            return compute_scene(self.comparison, asked, changes, before, turn)

        try:
            scene = compute(None)
        except NotKnownError:
            self._work(compute, self._show)
        else:
            self.worker.cancel()
            self._idle()
            self.error = ""
            self._show(scene)

    def _show(self, scene: Scene) -> None:
        self._scene = scene
        self._go_back()
        self._redraw()
        self._thumbnails.show(scene.order, scene.asked.image, self._likeness())
        self._details.renew()

    def _redraw(self, _change: Any = None) -> None:
        """Draw what is known once more. No model is asked."""
        self._controls.follow()
        if self._scene is None:
            return
        if not self._scene.rows:
            self._stage.value = '<p class="xb-note">No image is left: choose other filters.</p>'
            return
        display = Display(self.look, self.scale, self.shown.sign, self.opacity, self.zoom, self.cursor or None)
        self._stage.value = stage_html(
            self._scene.rows,
            display,
            explainer=self.shown.explainer,
            metric=self.shown.metric,
            grid=self.comparison.grid,
            classes=self.comparison.classes,
            total=len(self.comparison.keys),
        )

    def _likeness(self, metric: str = "") -> dict[str, float]:
        """Key -> mean score over the students shown, where all images are scored."""
        asked, known = self.shown, self.comparison
        members = [one for name in asked.students for one in known.members(name)]
        try:
            values = [known.likeness(one, asked.question, metric or asked.metric, asked.sign, None) for one in members]
        except NotKnownError:
            return {}
        if not values or any(value is None for value in values):
            return {}
        return dict(zip(known.keys, torch.tensor(np.array(values)).nanmean(dim=0).tolist()))


def explore(
    what: Any,
    second: Any = None,
    images: Any = None,
    *,
    preprocessing: Preprocessing | None = None,
    store: AttributionStore | None = None,
    **traits: Any,
) -> Explorer:
    """Open the explorer on whatever is at hand.

    what    a Run or the path of its folder; a ModelPair (with images as second); a teacher (with a student as second
            and images); or what `explain(pair, images)` returned (with the images as second)
    images  an ImageSet, a task (its test images), or a data set by name ("imagefolder:pictures"); of more than 200 test
            images 200 are shown
    preprocessing  of two models that are no pair
    store          where further explanations are kept; None: `default_store()`
    traits         how it opens, see `Explorer`: explainer="ig", sort="least alike", ...

    >>> explore("runs/demo", explainer="ig", sort="least alike")  # doctest: +SKIP
    """
    return Explorer(what, second, images, preprocessing=preprocessing, store=store, **traits)
