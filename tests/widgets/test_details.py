"""What lies below the explorer's pictures shows what its controls say, of the students on show."""

import asyncio
from html import unescape

import numpy as np

from xaibench.widgets.explorer import Explorer, explore


def horizontal(scatter, count):
    """The axis of a scatter: its ends, as they are written."""
    return scatter._axes.value.split("</span>")[:count]


def test_the_scatter_is_of_the_students_on_show_alone(fake_run):
    table = fake_run._predictions
    for number, model in enumerate(fake_run.models):
        values = np.linspace(0.1 * number, 0.1 * number + 0.05, 12)
        table.loc[table["model"] == model, "confidence"] = values
    scores = fake_run.scores().query("pairing == 'matched' and explainer == 'lrp' and metric == 'cosine'")
    explorer = Explorer(fake_run, students=("kd/seed1",))
    details = explorer._details
    details.box.selected_index = 0
    details._across.value = "students' confidence"
    for name in ("kd/seed1", "subdistill/seed0"):
        explorer.students = (name,)
        low = 0.1 * fake_run.models.index(name)
        assert [f">{value:.2f}" in text for value, text in zip((low, low + 0.05), horizontal(details._scatter, 2))] == [
            True,
            True,
        ]
        method, seed = name.split("/seed")
        own = scores.query("method == @method and seed == @seed", local_dict={"method": method, "seed": int(seed)})
        ends = [f">{value:.2f}".replace("-", "−") for value in (own["value"].min(), own["value"].max())]
        assert all(end in details._scatter._axes.value for end in ends)


def test_the_scatter_is_of_the_students_on_show_while_others_are_asked_for(
    tiny_pair, make_pair, images, store, hold_explanations
):
    async def main():
        explorer = explore(tiny_pair, images, store=store)

        async def settled():
            await asyncio.wait_for(explorer.settled(), 60)
            assert explorer.error == ""

        explorer.add_student("other", make_pair(seed=3).student)
        await settled()
        explorer.explain_all()
        await settled()
        details = explorer._details
        details.box.selected_index = 0
        details._across.value = "students' confidence"
        await settled()
        both = details._scatter._axes.value
        explorer.students = ("student",)
        await settled()
        one = details._scatter._axes.value
        go_on = hold_explanations()
        with explorer.hold_trait_notifications():
            explorer.students, explorer.explainer = ("student", "other"), "input-x-gradient"
        details._across.value = "cosine"
        details._across.value = "students' confidence"
        assert explorer.worker.busy
        assert details._scatter._axes.value == one != both
        go_on.set()
        await settled()
        explorer.close()

    asyncio.run(main())


def test_a_scatter_that_is_not_known_yet_shows_no_other(tiny_pair, images, store, predictions_fail):
    explorer = explore(tiny_pair, images, store=store)
    explorer.explain_all()
    details = explorer._details
    details._across.value = "spearman"
    details.box.selected_index = 0
    assert "Spearman" in details._scatter._axes.value

    with predictions_fail():
        details._across.value = "students' confidence"
    assert "out of memory" in explorer.error
    assert details._scatter._axes.value == ""
    assert "not known yet" in details._scatter._note.value
    explorer.image = images.keys[1]
    assert (explorer.error, "students' confidence" in unescape(details._scatter._axes.value)) == ("", True)


def test_an_error_below_the_pictures_is_said_also_where_the_pictures_were_known(
    tiny_pair, images, store, predictions_fail
):
    explorer = explore(tiny_pair, images, store=store)
    explorer.explain_all()

    with predictions_fail():
        explorer._details.box.selected_index = 0
        explorer._details._across.value = "students' confidence"
        assert "out of memory" in explorer.error
        explorer.metric = "spearman"
        assert "out of memory" in explorer.error
    assert explorer.metric == "spearman"
