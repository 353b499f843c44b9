"""Requests that follow one another faster than they are answered, or that fail while another is answered."""

import asyncio

import pytest

from xaibench.errors import ConfigError
from xaibench.run.folder import open_run
from xaibench.widgets.explorer import Explorer, explore
from xaibench.widgets.run_panel import RunPanel


async def settled(*panels):
    for panel in panels:
        await asyncio.wait_for(panel.settled(), 60)


def test_a_clicked_score_moves_the_explorer_whatever_is_set_next(tiny_run):
    async def main():
        explorer = Explorer(tiny_run)
        panel = RunPanel(tiny_run, explorer=explorer)
        await settled(panel)
        for method in panel.results.methods:
            panel._scores.click(method, "lrp")
            panel.lowest = not panel.lowest
            panel.sort = "method" if panel.sort == "given" else "given"
            await settled(panel, explorer)
            assert {one.rpartition("/")[0] for one in explorer.students} == {method}
            assert (explorer.sort, explorer.image) == ("least alike", explorer.order[0])
        panel.opened = ()
        explorer.sort = "given"
        panel.lowest = False
        await settled(panel, explorer)
        assert explorer.sort == "given"
        panel.close()
        explorer.close()

    asyncio.run(main())


def test_a_score_whose_request_was_cancelled_does_not_move_the_explorer(tiny_run):
    async def main():
        explorer = Explorer(tiny_run)
        panel = RunPanel(tiny_run, explorer=explorer)
        await settled(panel)
        before = explorer.students
        panel._scores.click(panel.results.methods[-1], "lrp")
        panel.cancel()
        panel.lowest = True
        await settled(panel, explorer)
        assert (panel.opened, explorer.students) == ((), before)
        panel.close()
        explorer.close()

    asyncio.run(main())


def test_the_same_score_once_more_begins_with_the_first_image(tiny_run):
    explorer = Explorer(tiny_run)
    panel = RunPanel(tiny_run, explorer=explorer)
    method = panel.results.methods[0]
    panel._scores.click(method, "lrp")
    explorer.image = explorer.order[2]
    panel._scores.click(method, "lrp")
    assert explorer.image == explorer.order[0]
    panel.close()
    explorer.close()


def test_a_new_order_begins_with_its_first_image_whatever_is_set_next(tiny_pair, images, store):
    order = explore(tiny_pair, images, store=store, sort="least confident").order

    async def main():
        explorer = explore(tiny_pair, images, store=store, image=order[-1])
        await settled(explorer)
        explorer.sort = "least confident"
        assert explorer.worker.busy
        explorer.rows = 2
        await settled(explorer)
        assert [row.key for row in explorer.on_show] == list(order[:2])
        explorer.of_class = explorer.comparison.classes[0]
        explorer.image = order[3]
        explorer.explainer = "input-x-gradient"
        await settled(explorer)
        assert explorer.image == order[3]
        explorer.close()

    asyncio.run(main())


def test_a_request_that_fails_at_once_ends_the_one_before_and_its_error_stays(
    tiny_pair, images, store, hold_explanations
):
    async def main():
        explorer = explore(tiny_pair, images, store=store)
        await settled(explorer)
        go_on = hold_explanations()
        explorer.image = images.keys[3]
        explorer.sort = "least alike"
        assert "not all images are explained" in explorer.error
        assert (explorer.image, explorer.sort) == (images.keys[0], "given")
        go_on.set()
        with explorer.worker._one_at_a_time:  # the thread has ended
            pass
        await asyncio.sleep(0)  # what it handed over is done
        await settled(explorer)
        assert "not all images are explained" in explorer.error
        assert explorer.on_show[0].key == explorer.image == images.keys[0]
        explorer.close()

    asyncio.run(main())


def test_what_fails_before_anything_is_on_show_is_a_sentence(tiny_pair, images, store):
    async def main():
        explorer = explore(tiny_pair, images, store=store)
        explorer.sort = "least alike"
        assert "not all images are explained" in explorer.error
        explorer.explain_all()
        await settled(explorer)
        assert (explorer.error, explorer.image) == ("", explorer.order[0])
        explorer.close()

    asyncio.run(main())


def test_saving_and_uploading_what_cannot_be_leaves_a_request_alone(tiny_pair, images, store, hold_explanations):
    async def main():
        explorer = explore(tiny_pair, images, store=store)
        await settled(explorer)
        go_on = hold_explanations()
        explorer.image = images.keys[3]
        details = explorer._details
        for path, says in (("", "names no file"), ("~nobody-of-this-name/figure", "home directory")):
            details._path.value = path
            details.save()
            assert says in explorer.error
        details._take([{"name": "notes.txt", "content": b"no image"}])
        assert "no image that can be read" in explorer.error
        assert explorer.image == images.keys[3]
        go_on.set()
        await settled(explorer)
        assert (explorer.on_show[0].key, explorer.error) == (images.keys[3], "")
        explorer.close()

    asyncio.run(main())


def test_a_student_takes_no_name_that_stands_for_something_else(tiny_run, store):
    explorer = explore(tiny_run, store=store)
    student, before = open_run(tiny_run).student("kd/seed0"), explorer._stage.value
    for name in ("teacher", "kd/mean"):
        with pytest.raises(ConfigError, match="choose another name"):
            explorer.add_student(name, student)
    assert explorer._stage.value == before
    explorer.close()
