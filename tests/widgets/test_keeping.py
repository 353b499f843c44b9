"""What an explorer writes: the figure on show, and beside it where that comes from."""

import json

import pytest
import torch

import xaibench
from xaibench.errors import DataError, RunFolderError
from xaibench.widgets.explorer import Explorer, explore
from xaibench.widgets.keeping import FORMATS, keep, provenance


@pytest.mark.parametrize("form", FORMATS)
def test_a_figure_is_written_with_its_provenance_in_the_format_that_is_asked_for(fake_run, tmp_path, form):
    explorer = Explorer(fake_run)
    written = keep(explorer, tmp_path / "figures" / "one.svg", form)  # the suffix of a format is none of the name
    assert [path.name for path in written] == [f"one.{form}", "one.json"]
    assert json.loads(written[1].read_text()) == json.loads(json.dumps(provenance(explorer)))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(path.name for path in written)


def test_a_name_with_a_dot_is_kept(fake_run, tmp_path):
    assert [path.name for path in keep(Explorer(fake_run), tmp_path / "v1.2", "png")] == ["v1.2.png", "v1.2.json"]


def test_a_path_without_a_name_is_refused(fake_run, tmp_path):
    with pytest.raises(RunFolderError, match="names no file: write a name"):
        keep(Explorer(fake_run), type(tmp_path)("/"), "png")


def test_the_provenance_says_what_is_shown_of_what(fake_run):
    explorer = Explorer(fake_run, rows=2, image="test/004", explainer="ig", students=("kd/seed1",))
    about = provenance(explorer)
    assert about["xaibench"] == xaibench.__version__
    assert list(about["images"]) == ["test/004", "test/005"]
    assert about["images"]["test/004"] == dict(zip(("explained", "rather than"), explorer.on_show[0].asked))
    assert (about["explainer"], about["metric"], about["sign"], about["grid"]) == ("ig", "cosine", "signed", 7)
    assert about["scores"]["test/005"] == {"kd/seed1": explorer.on_show[1].scores["kd/seed1"].value}
    assert about["models"] == {}  # no model was needed
    assert about["code"] == explorer.code()


def own_image(explorer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 255, explorer.comparison.images.shape, dtype=torch.uint8, generator=generator)


def seen(explorer):
    """What its figure shows."""
    return [(row.key, row.asked, {name: one.value for name, one in row.scores.items()}) for row in explorer.on_show]


def check_code(explorer, run_as_script, **names):
    """That the code makes the figure of what is on show."""
    made = run_as_script(explorer.code(), **names)["explorer"]
    assert made.error == ""
    want = seen(explorer)
    assert [one[:2] for one in seen(made)] == [one[:2] for one in want]
    for one, other in zip(seen(made), want):
        assert one[2] == pytest.approx(other[2], abs=1e-6, nan_ok=True)
    for name in ("rows", "sort", "only", "of_class", "explainer", "label", "contrast", "metric", "sign", "students"):
        assert getattr(made, name) == getattr(explorer, name), name


@pytest.mark.parametrize("sort", ["given", "least alike", "most alike"])
@pytest.mark.parametrize("explainer", ["lrp", "input-x-gradient"])
def test_the_code_adds_an_own_image_in_any_row(tiny_run, store, run_as_script, sort, explainer):
    explorer = explore(tiny_run, store=store, students=("kd/seed0",), explainer=explainer, rows=3)
    explorer.add_image(own_image(explorer), "mine")
    explorer.explain_all()
    explorer.sort = sort
    for start in range(len(explorer.order)):
        explorer.image = explorer.order[start]
        if "own/mine" in [row.key for row in explorer.on_show]:
            check_code(explorer, run_as_script, image=own_image(explorer))


def test_the_code_adds_every_own_image(tiny_run, store, run_as_script):
    explorer = explore(tiny_run, store=store, rows=2)
    for name in ("one", "two"):
        explorer.add_image(own_image(explorer), name)
    explorer.image = "own/one"
    assert [row.key for row in explorer.on_show] == ["own/one", "own/two"]
    code = explorer.code()
    assert code.count("explorer.add_image(") == code.count("uint8\nawait explorer.settled()") == 2
    check_code(explorer, run_as_script, image_1=own_image(explorer), image_2=own_image(explorer))


def test_the_code_of_an_own_image_that_the_filters_leave_out_shows_it_alone(tiny_run, store, run_as_script):
    explorer = explore(tiny_run, store=store, rows=3)
    explorer.add_image(own_image(explorer), "mine")
    of = explorer.comparison.images.labels[-1]
    explorer.of_class = next(name for number, name in enumerate(explorer.comparison.classes) if number != int(of))
    explorer.image = "own/mine"
    assert len(explorer.on_show) == 1
    check_code(explorer, run_as_script, image=own_image(explorer))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["lrp", "input-x-gradient"])
def test_the_code_keeps_the_order_of_a_question_before(tiny_run, store, run_as_script, first):
    explorer = explore(tiny_run, store=store, rows=2, explainer=first, students=("kd/seed0",))
    explorer.explain_all()
    explorer.sort = "most alike"
    explorer.image = explorer.order[1]
    label, contrast = explorer.on_show[0].asked
    for changes in ({"label": contrast, "contrast": label}, {"label": label, "contrast": contrast}):  # one by one
        with explorer.hold_trait_notifications():
            for name, value in changes.items():  # neither could be set alone
                setattr(explorer, name, value)
        assert explorer.order_is_older
        check_code(explorer, run_as_script)
    explorer.students = ("kd/seed0", "subdistill/seed0")
    assert explorer.order_is_older
    check_code(explorer, run_as_script)
    order = explorer.order
    explorer.add_image(own_image(explorer), "mine")
    assert (explorer.order, len(explorer.on_show)) == (order, 1)
    check_code(explorer, run_as_script, image=own_image(explorer))
    explorer.explain_all()
    assert not explorer.order_is_older
    check_code(explorer, run_as_script, image=own_image(explorer))


def test_the_code_of_finished_maps_names_them(tiny_pair, images, run_as_script):
    explorer = explore(xaibench.explain(tiny_pair, images, "input-x-gradient"), images, image=images.keys[2])
    code = explorer.code()
    assert "    maps, images," in code
    found = {}
    maps = xaibench.explain(tiny_pair, images, "input-x-gradient")
    exec(code, {"maps": maps, "images": images}, found)
    assert seen(found["explorer"]) == seen(explorer)


def test_an_own_image_stands_in_the_order_by_its_likeness_at_once(tiny_run, store):
    for sort in ("least alike", "most alike"):
        explorer = explore(tiny_run, store=store, sort=sort, students=("kd/seed0",))
        explorer.add_image(own_image(explorer), "mine")
        order = explorer.order
        shown = next(one for one in explorer._thumbnails._buttons if one.tooltip.startswith("own/mine"))
        assert shown.description
        explorer.image = order[0]
        assert explorer.order == order
        explorer.metric = "spearman"
        order = explorer.order
        explorer.image = order[2]
        assert explorer.order == order


def test_an_own_image_that_cannot_be_labelled_leaves_everything_as_it_was(tiny_pair, images, store, predictions_fail):
    explorer = explore(tiny_pair, images, store=store)
    explorer.explain_all()

    with predictions_fail():
        explorer.add_image(own_image(explorer), "mine")
    assert "out of memory" in explorer.error
    explorer.sort = "least alike"
    assert (explorer.error, len(explorer.order)) == ("", len(images))
    for wrong in (torch.zeros(3, 5, 5, dtype=torch.uint8), torch.zeros(images.shape), None):
        with pytest.raises(DataError, match="uint8 tensor of shape"):
            explorer.add_image(wrong, "wrong")
    assert explorer.comparison.keys == images.keys
