import io
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from xaibench.errors import RunFolderError, UnknownNameError
from xaibench.run.folder import open_run
from xaibench.widgets.explorer import Explorer


def shown(explorer):
    """Everything that a person sees change: pictures and texts of the visible panels."""
    visible = ("input", "teacher", *explorer.students)
    return {name: (explorer._panels[name].picture.value, explorer._panels[name].below.value) for name in visible}


def array(png):
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def test_starts_with_the_first_seed_of_each_method(fake_run):
    explorer = Explorer(fake_run)
    assert explorer.students == ("kd/seed0", "subdistill/seed0")
    assert (explorer.image, explorer.explainer, explorer.metric, explorer.sort) == (
        "test/000",
        "lrp",
        "cosine",
        "given",
    )
    assert explorer.order == fake_run.images.keys
    assert len(explorer._stage.children) == 4
    assert "of 12" in explorer._count.value


def test_only_the_shown_heatmaps_are_read_and_each_once(fake_run):
    explorer = Explorer(fake_run)
    explorer.image = "test/005"
    explorer.image = "test/006"
    assert set(fake_run.reads) == {("teacher", "lrp"), ("kd/seed0", "lrp"), ("subdistill/seed0", "lrp")}
    assert len(fake_run.reads) == 4  # the teacher's once more for its target


def test_traits_can_be_given_at_the_start(fake_run):
    explorer = Explorer(fake_run, image="test/003", students=["subdistill/seed1"], explainer="ig", sort="most alike")
    assert explorer.students == ("subdistill/seed1",)
    assert explorer._controls["explainer"].value == "ig"
    assert explorer._slider.value == explorer.order.index("test/003") + 1


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("image", "test/00", "unknown image 'test/00': did you mean 'test/0"),
        ("explainer", "lrq", "unknown explainer 'lrq': did you mean 'lrp'"),
        ("metric", "cosin", "did you mean 'cosine'"),
        ("sort", "best", "Known: given, least alike, most alike"),
        ("students", ("kd/seed7",), "unknown student 'kd/seed7': did you mean 'kd/seed"),
    ],
)
def test_an_unknown_name_is_refused_and_nothing_changes(fake_run, trait, value, message):
    explorer = Explorer(fake_run)
    before, seen = getattr(explorer, trait), shown(explorer)
    with pytest.raises(UnknownNameError, match=message):
        setattr(explorer, trait, value)
    assert getattr(explorer, trait) == before
    assert shown(explorer) == seen


def test_the_slider_moves_through_the_images(fake_run):
    explorer = Explorer(fake_run)
    before = shown(explorer)
    explorer._slider.value = 3
    assert explorer.image == "test/002" == explorer._controls["image"].value
    after = shown(explorer)
    assert all(before[name] != after[name] for name in before)
    assert "<b>shirt</b>" in after["input"][1]
    assert "rather than coat" in after["input"][1]


def test_the_key_selector_moves_the_slider(fake_run):
    explorer = Explorer(fake_run)
    explorer._controls["image"].value = "test/009"
    assert (explorer.image, explorer._slider.value) == ("test/009", 10)


def test_boxes_choose_students_and_keep_the_order_of_the_run(fake_run):
    explorer = Explorer(fake_run)
    explorer._boxes["kd/seed1"].value = True
    assert explorer.students == ("kd/seed0", "kd/seed1", "subdistill/seed0")
    explorer._boxes["kd/seed0"].value = False
    assert explorer.students == ("kd/seed1", "subdistill/seed0")
    headings = [box.children[0].value for box in explorer._stage.children]
    assert headings == ["<b>input</b>", "<b>teacher</b>", "<b>kd/seed1</b>", "<b>subdistill/seed0</b>"]


def test_no_student_at_all_shows_the_teacher_alone(fake_run):
    explorer = Explorer(fake_run, sort="least alike")
    explorer.students = ()
    assert len(explorer._stage.children) == 2
    assert explorer.order == fake_run.images.keys


def test_the_explainer_changes_heatmaps_and_scores_but_not_the_input(fake_run):
    explorer = Explorer(fake_run)
    before = shown(explorer)
    explorer._controls["explainer"].value = "ig"
    after = shown(explorer)
    assert before["input"] == after["input"]
    assert before["teacher"][0] != after["teacher"][0]
    assert before["kd/seed0"][1] != after["kd/seed0"][1]


@pytest.mark.parametrize(("sort", "sign"), [("least alike", 1), ("most alike", -1)])
def test_sorting_follows_the_mean_score_of_the_shown_students(fake_run, sort, sign):
    explorer = Explorer(fake_run)
    explorer._controls["sort"].value = sort
    scores = fake_run.scores().query("pairing == 'matched' and explainer == 'lrp' and metric == 'cosine' and seed == 0")
    means = sign * scores.groupby("image")["value"].mean()
    assert list(explorer.order) == list(means.sort_values().index)
    assert explorer.image == explorer.order[0]
    assert explorer._slider.value == 1


def test_undefined_scores_come_last_and_are_said(fake_run):
    rows = fake_run._scores
    rows.loc[(rows["image"] == "test/002") & (rows["metric"] == "cosine"), "value"] = np.nan
    explorer = Explorer(fake_run, sort="least alike")
    assert explorer.order[-1] == "test/002"
    explorer.sort = "most alike"
    assert explorer.order[-1] == "test/002"
    explorer.image = "test/002"
    below = shown(explorer)["kd/seed0"][1]
    assert "cosine undefined" in below
    assert "rank" not in below


def test_only_images_with_differing_predictions(fake_run):
    explorer = Explorer(fake_run)
    explorer._controls["differing"].value = True
    assert explorer.order == ("test/004", "test/007")
    assert explorer.image == "test/004"
    assert explorer._slider.max == 2
    assert "✗" in shown(explorer)["kd/seed0"][1]
    explorer.students = ("subdistill/seed0",)
    assert explorer.order == ()
    assert explorer._slider.disabled
    assert "no such image" in explorer._count.value
    explorer.differing = False
    assert len(explorer.order) == 12
    assert not explorer._slider.disabled


def test_a_filter_that_leaves_no_image_says_so_and_takes_every_move(fake_run):
    explorer = Explorer(fake_run, students=("subdistill/seed0",))  # predicts like its teacher everywhere
    explorer._slider.value = 9
    before = explorer.image
    explorer.differing = True
    assert explorer.order == ()
    assert explorer.image == before
    assert "no such image" in explorer._count.value
    for value in (0, 1, 5, 99):  # what a front end may send meanwhile
        explorer._slider.set_state({"value": value})
    assert explorer.image == before
    explorer.differing = False
    assert len(explorer.order) == 12


def test_scores_chance_and_rank_are_below_each_student(fake_run):
    explorer = Explorer(fake_run, image="test/001")
    values = fake_run.scores().query(
        "pairing == 'matched' and explainer == 'lrp' and metric == 'cosine' and method == 'kd' and seed == 0"
    )
    value = values.set_index("image")["value"]
    rank = int((value < value["test/001"]).sum()) + 1
    below = shown(explorer)["kd/seed0"][1]
    assert f"<b>cosine {value['test/001']:.2f}</b>, chance 0.05" in below
    assert f"rank {rank} of 12" in below
    assert "predicts pull&lt;over&gt; 75% ✓" in below
    assert "cosine" not in shown(explorer)["teacher"][1]


def test_one_scale_for_teacher_and_students(fake_run):
    ramp = torch.linspace(-1, 1, 28 * 28, dtype=torch.float64).reshape(28, 28)
    fake_run._maps["teacher", "lrp"][0] = ramp
    fake_run._maps["kd/seed0", "lrp"][0] = 5 * ramp  # the same shares: the same picture
    fake_run._maps["subdistill/seed0", "lrp"][0] = ramp.clamp(-0.5, 0.5)
    pictures = {name: array(seen[0]) for name, seen in shown(Explorer(fake_run)).items()}
    assert (pictures["teacher"] == pictures["kd/seed0"]).all()
    assert (pictures["teacher"] != pictures["subdistill/seed0"]).any()
    assert pictures["teacher"].shape[0] >= 192
    red, _, blue = np.moveaxis(pictures["teacher"], -1, 0)
    assert (blue[:84] >= red[:84]).all()
    assert (red[-84:] >= blue[-84:]).all()


def test_a_zero_map_is_white_and_an_undefined_one_grey(fake_run):
    fake_run._maps["kd/seed0", "lrp"][0] = 0
    fake_run._maps["subdistill/seed0", "lrp"][0, 0, 0] = np.nan
    pictures = {name: array(seen[0]) for name, seen in shown(Explorer(fake_run)).items()}
    assert (pictures["kd/seed0"] == 255).all()
    assert (pictures["subdistill/seed0"] == 0xBD).all()


def test_the_figure_for_a_paper_shows_what_the_panel_shows(fake_run):
    explorer = Explorer(fake_run, image="test/002", students=("kd/seed1",))
    texts = {axes.get_title() for axes in explorer.figure().axes}
    assert {"input", "teacher", "kd/seed1"} <= texts
    labels = [axes.get_xlabel() for axes in explorer.figure("single").axes]
    assert any(label.startswith("cosine") for label in labels)


def test_a_run_without_scored_students_is_refused(fake_run):
    fake_run._scores = fake_run._scores[:0]
    with pytest.raises(RunFolderError, match="no scored student yet: distil, explain and score one first"):
        Explorer(fake_run)


def test_a_student_without_a_valid_explanation_is_grey_and_says_so(fake_run):
    rows = fake_run._scores
    fake_run._scores = rows[~((rows["method"] == "kd") & (rows["explainer"] == "lrp"))]
    explorer = Explorer(fake_run, sort="least alike")
    assert "kd/seed0" in explorer.students
    picture, below = shown(explorer)["kd/seed0"]
    assert (array(picture) == 0xBD).all()
    assert "no valid explanation" in below
    assert ("kd/seed0", "lrp") not in fake_run.reads
    explorer.explainer = "ig"
    assert "cosine" in shown(explorer)["kd/seed0"][1]


def test_models_without_scores_are_not_offered(fake_run):
    explorer = Explorer(fake_run)
    assert "untrained" in fake_run.models
    assert list(explorer._boxes) == ["kd/seed0", "kd/seed1", "subdistill/seed0", "subdistill/seed1"]


def test_an_update_takes_well_under_a_second(make_run):
    explorer = Explorer(make_run(n=8, side=224, channels=3))
    explorer.students = explorer._view.students
    start = time.perf_counter()
    for key in explorer.order[1:6]:
        explorer.image = key
    assert (time.perf_counter() - start) / 5 < 0.5


def test_a_run_folder_that_vanishes_is_told_in_place_of_an_old_picture(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    explorer = Explorer(open_run(folder), students=("kd/seed0",))
    (folder / "attributions").rename(folder / "elsewhere")
    explorer.students = ("kd/seed0", "subdistill/seed0")
    assert explorer._stage.children == ()
    assert str(folder) in explorer._count.value
    explorer.students = ("kd/seed0",)  # read before
    assert len(explorer._stage.children) == 3
    assert "1 of" in explorer._count.value


def test_what_an_explainer_tells_about_a_map_is_below_it(fake_run):
    explorer = Explorer(fake_run, explainer="ig", image="test/007")
    below = explorer._panels["teacher"].below.value
    assert "estimated error 0.7% of a map, residual 0 of sum |IG|, 41 gradients an image" in below
    explorer.explainer = "lrp"
    assert "gradients" not in explorer._panels["teacher"].below.value
