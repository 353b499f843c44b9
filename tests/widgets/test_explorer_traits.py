"""Traits of the explorer: what is taken, in which form, and what is refused together with what was set beside it."""

import pytest
import traitlets

from xaibench.errors import ConfigError, UnknownNameError
from xaibench.widgets.explorer import Explorer
from xaibench.widgets.explorer_traits import ASKED, DRAWN, Asked
from xaibench.widgets.live import Question


def test_every_trait_says_either_what_is_computed_or_how_it_is_drawn(fake_run):
    explorer = Explorer(fake_run)
    own = set(explorer.trait_names()) - set(type(explorer).__mro__[2]().trait_names())
    assert own == {*ASKED, *DRAWN}
    assert not set(ASKED) & set(DRAWN)


def test_what_is_asked_holds_the_question():
    asked = dict.fromkeys(ASKED, "")
    assert Asked(**asked | {"explainer": "ig", "label": "coat", "contrast": "shirt"}).question == Question(
        "ig", "coat", "shirt"
    )


def test_students_stand_in_the_runs_order_each_once(fake_run):
    explorer = Explorer(fake_run)
    explorer.students = ["subdistill/seed1", "kd/mean", "kd/seed0", "kd/seed0"]
    assert explorer.students == ("kd/seed0", "subdistill/seed1", "kd/mean")


@pytest.mark.parametrize(("trait", "value"), [("metric", "cosin"), ("rows", 13), ("cursor", (0.5, "x"))])
def test_a_refusal_takes_back_what_is_set_with_it(fake_run, trait, value):
    explorer = Explorer(fake_run)
    before = explorer.image, getattr(explorer, trait), explorer._stage.value

    def set_both():
        with explorer.hold_trait_notifications():
            explorer.image = "test/003"
            setattr(explorer, trait, value)

    with pytest.raises(traitlets.TraitError):
        set_both()
    assert (explorer.image, getattr(explorer, trait), explorer._stage.value) == before


@pytest.mark.parametrize("cursor", [(), (0, 1), [0.25, 0.5]])
def test_a_cursor_is_nothing_or_a_place(fake_run, cursor):
    explorer = Explorer(fake_run)
    explorer.cursor = cursor
    assert explorer.cursor == tuple(cursor)


def test_of_finished_maps_only_their_explainers_are_known(fake_run):
    explorer = Explorer(fake_run)
    assert explorer.comparison.live is None
    with pytest.raises(UnknownNameError, match="explainer of these maps"):
        explorer.explainer = "gradcam"
    with pytest.raises(ConfigError, match="gamma"):
        explorer.explainer = "lrp:gamma=-1"
