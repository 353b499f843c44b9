"""The explorer on a run: what is shown follows the traits, the controls and the data."""

import base64
import io
import re
import shutil
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image

from xaibench.errors import ConfigError, ExplanationError, RunFolderError, UnknownNameError
from xaibench.run.folder import open_run
from xaibench.similarity.metrics.table import METRICS
from xaibench.widgets.explorer import Explorer

CARD = re.compile(r'<figure class="xb-card"><b>(.*?)</b>(.*?)<figcaption>(.*?)</figcaption></figure>', re.DOTALL)


def seen(explorer):
    """What a person sees: heading -> (picture as array, alternative text, lines below), of the last row."""
    found = {}
    for heading, picture, below in CARD.findall(explorer._stage.value):
        data = re.search(r'base64,([^"]+)"', picture).group(1)
        alt = unescape(re.search(r'alt="([^"]*)"', picture).group(1))
        found[heading.replace("<wbr>", "")] = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int),
            alt,
            below,
        )
    return found


def control(explorer, name):
    return explorer._controls.choices[name]


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
    assert list(seen(explorer)) == ["input", "teacher", "KD, seed 0", "SubDistill, seed 0"]
    assert "of 12" in explorer._controls.count.value
    assert explorer.error == ""


def test_only_the_shown_heatmaps_are_read_and_each_once(fake_run):
    explorer = Explorer(fake_run)
    explorer.image = "test/005"
    explorer.image = "test/006"
    assert sorted(fake_run.reads) == [("kd/seed0", "lrp"), ("subdistill/seed0", "lrp"), ("teacher", "lrp")]


def test_traits_can_be_given_at_the_start(fake_run):
    explorer = Explorer(fake_run, image="test/003", students=["subdistill/seed1"], explainer="ig", sort="most alike")
    assert explorer.students == ("subdistill/seed1",)
    assert explorer.image == "test/003"
    assert control(explorer, "explainer").value == "ig"
    assert explorer._controls.position.value == explorer.order.index("test/003") + 1


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("image", "test/00", "unknown image 'test/00': did you mean 'test/0"),
        ("explainer", "lrq", "unknown explainer 'lrq': did you mean 'lrp'"),
        ("explainer", "lrp:gama=1", "gamma"),
        ("metric", "cosin", "did you mean 'cosine'"),
        ("sort", "best", "Known: given, least alike, most alike"),
        ("only", "wrong", "Known: all, both right"),
        ("label", "hat", "unknown class 'hat'"),
        ("of_class", "cot", "did you mean 'coat'"),
        ("look", "x-ray", "Known: heatmap, overlay"),
        ("sign", "negative", "Known: signed, absolute, positive"),
        ("students", ("kd/seed7",), "unknown student 'kd/seed7': did you mean 'kd/seed"),
    ],
)
def test_an_unknown_name_is_refused_and_nothing_changes(fake_run, trait, value, message):
    explorer = Explorer(fake_run)
    before, stage = getattr(explorer, trait), explorer._stage.value
    with pytest.raises(UnknownNameError, match=message):
        setattr(explorer, trait, value)
    assert getattr(explorer, trait) == before
    assert explorer._stage.value == stage


@pytest.mark.parametrize(
    ("trait", "value"),
    [("rows", 0), ("rows", 99), ("opacity", 1.5), ("zoom", 0.5), ("cursor", (2, 0)), ("cursor", (0,))],
)
def test_a_number_out_of_range_is_refused(fake_run, trait, value):
    explorer = Explorer(fake_run)
    with pytest.raises(ConfigError, match=trait):
        setattr(explorer, trait, value)


def test_the_slider_moves_through_the_images(fake_run):
    explorer = Explorer(fake_run)
    before = seen(explorer)
    explorer._controls.position.value = 3
    assert explorer.image == "test/002" == explorer._controls.image.value
    after = seen(explorer)
    assert all((before[name][0] != after[name][0]).any() and before[name][1] != after[name][1] for name in before)
    assert "<b>shirt</b>" in after["input"][2]
    assert "rather than coat" in after["input"][2]


def test_buttons_step_and_stop_at_the_ends(fake_run):
    explorer = Explorer(fake_run)
    previous, following = explorer._controls.above[3].children[1].children
    previous.click()
    assert explorer.image == "test/000"
    following.click()
    assert explorer.image == "test/001"
    explorer.image = "test/011"
    following.click()
    assert explorer.image == "test/011"


def test_thumbnails_lead_to_their_image_and_carry_the_score(fake_run):
    explorer = Explorer(fake_run, image="test/006")
    buttons = explorer._thumbnails._buttons
    assert len(buttons) == 12
    assert [one.tooltip.split(": ")[0] for one in buttons] == list(fake_run.images.keys)
    value = np.mean([explorer.on_show[0].scores[name].value for name in explorer.students])
    assert buttons[6].description == f"{value:.2f}".replace("-", "−")
    assert [("xb-here" in one._dom_classes) for one in buttons] == [i == 6 for i in range(12)]
    buttons[2].click()
    assert explorer.image == "test/002"
    assert [("xb-here" in one._dom_classes) for one in buttons] == [i == 2 for i in range(12)]


def test_methods_and_seeds_choose_students_in_the_order_of_the_run(fake_run):
    explorer = Explorer(fake_run)
    methods, seeds = explorer._controls.methods, explorer._controls.seeds
    assert seeds.value == "0"
    methods["kd"].value = False
    assert explorer.students == ("subdistill/seed0",)
    seeds.value = "1"
    assert explorer.students == ("subdistill/seed1",)
    methods["kd"].value = True
    assert explorer.students == ("kd/seed1", "subdistill/seed1")
    seeds.value = "all seeds"
    assert explorer.students == ("kd/seed0", "kd/seed1", "subdistill/seed0", "subdistill/seed1")
    explorer.students = ("kd/seed0", "subdistill/seed1")
    assert seeds.value == "as chosen"
    assert methods["kd"].value
    methods["kd"].value = False
    assert explorer.students == ("subdistill/seed1",)


def test_the_mean_over_seeds_is_the_mean_of_scores_and_of_shares(fake_run):
    explorer = Explorer(fake_run)
    explorer._controls.seeds.value = "mean"
    assert explorer.students == ("kd/mean", "subdistill/mean")
    row = explorer.on_show[0]
    scores = fake_run.scores().query("pairing == 'matched' and explainer == 'lrp' and metric == 'cosine'")
    mean = scores.query("method == 'kd' and image == 'test/000'")["value"].mean()
    assert row.scores["kd/mean"].value == pytest.approx(mean)
    maps = [fake_run._maps[f"kd/seed{seed}", "lrp"][0] for seed in (0, 1)]
    assert row.maps["kd/mean"].values == pytest.approx(np.mean([m / np.abs(m).sum() for m in maps], axis=0), rel=1e-5)
    assert "mean of 2 students" in seen(explorer)["KD, mean over seeds"][2]


def test_the_figure_shows_relevance_by_the_sign_that_is_scored(fake_run):
    def drawn(explorer):
        return [axes.images[0].get_array() for axes in explorer.figure().axes if axes.images]

    explorer = Explorer(fake_run, students=("kd/seed0",))
    signed = drawn(explorer)[1]
    explorer.sign = "absolute"
    assert np.asarray(signed).min() < 0 <= np.asarray(drawn(explorer)[1]).min()


def test_the_code_keeps_that_no_student_is_shown(fake_run):
    assert "students=()" in Explorer(fake_run, students=()).code()


def test_no_student_at_all_shows_the_teacher_alone(fake_run):
    explorer = Explorer(fake_run, sort="least alike")
    explorer.students = ()
    assert list(seen(explorer)) == ["input", "teacher"]
    assert explorer.order == fake_run.images.keys


def test_the_explainer_changes_heatmaps_and_scores_but_not_the_input(fake_run):
    explorer = Explorer(fake_run)
    before = seen(explorer)
    control(explorer, "explainer").value = "ig"
    after = seen(explorer)
    assert (before["input"][0] == after["input"][0]).all()
    assert (before["teacher"][0] != after["teacher"][0]).any()
    assert before["KD, seed 0"][2] != after["KD, seed 0"][2]


@pytest.mark.parametrize(("sort", "sign"), [("least alike", 1), ("most alike", -1)])
def test_sorting_follows_the_mean_score_of_the_shown_students(fake_run, sort, sign):
    explorer = Explorer(fake_run)
    control(explorer, "sort").value = sort
    scores = fake_run.scores().query("pairing == 'matched' and explainer == 'lrp' and metric == 'cosine' and seed == 0")
    means = sign * scores.groupby("image")["value"].mean()
    assert list(explorer.order) == list(means.sort_values().index)
    assert explorer.image == explorer.order[0]
    assert explorer._controls.position.value == 1


@pytest.mark.parametrize(("sort", "sign"), [("least confident", 1), ("most confident", -1)])
def test_sorting_by_the_teachers_confidence(fake_run, sort, sign):
    table = fake_run._predictions
    table.loc[table["model"] == "teacher", "confidence"] = np.random.default_rng(1).uniform(size=12)
    explorer = Explorer(fake_run, sort=sort)
    confidence = table[table["model"] == "teacher"].set_index("image")["confidence"]
    assert list(explorer.order) == list((sign * confidence).sort_values().index)


def test_undefined_scores_come_last_and_are_said(fake_run):
    rows = fake_run._scores
    rows.loc[(rows["image"] == "test/002") & (rows["metric"] == "cosine"), "value"] = np.nan
    explorer = Explorer(fake_run, sort="least alike")
    assert explorer.order[-1] == "test/002"
    explorer.sort = "most alike"
    assert explorer.order[-1] == "test/002"
    explorer.image = "test/002"
    below = seen(explorer)["KD, seed 0"][2]
    assert "cosine undefined" in below
    assert "rank" not in below
    explorer.only = "undefined"
    assert explorer.order == ("test/002",)


def test_filters_by_predictions_and_class(fake_run):
    explorer = Explorer(fake_run)
    control(explorer, "only").value = "differing"
    assert explorer.order == ("test/004", "test/007")
    assert explorer.image == "test/004"
    assert explorer._controls.position.max == 2
    assert "✗" in seen(explorer)["KD, seed 0"][2]
    explorer.only = "student wrong"
    assert explorer.order == ("test/004", "test/007")
    explorer.only = "both right"
    assert set(explorer.order) == set(fake_run.images.keys) - {"test/004", "test/007"}
    explorer.of_class = "coat"
    assert explorer.order == ("test/000", "test/003", "test/006", "test/009")


def test_a_filter_that_leaves_no_image_says_so_and_takes_every_move(fake_run):
    explorer = Explorer(fake_run, students=("subdistill/seed0",))  # predicts like its teacher everywhere
    explorer._controls.position.value = 9
    explorer.only = "differing"
    assert explorer.order == ()
    assert "No image is left" in explorer._stage.value
    assert "no such image" in explorer._controls.count.value
    assert explorer._controls.position.disabled
    for value in (0, 1, 5, 99):  # what a front end may send meanwhile
        explorer._controls.position.set_state({"value": value})
    with pytest.raises(ConfigError, match="nothing is on show"):
        explorer.figure()
    explorer.only = "all"
    assert len(explorer.order) == 12
    assert not explorer._controls.position.disabled


@pytest.mark.parametrize(
    ("name", "state"),
    [("explainer", {"index": 99}), ("metric", {"index": -7}), ("sort", {"index": 10**9}), ("label", {"index": 55})],
)
def test_impossible_values_from_a_front_end_change_nothing(fake_run, name, state):
    explorer = Explorer(fake_run)
    before, stage = getattr(explorer, name), explorer._stage.value
    with pytest.raises(Exception):  # noqa: B017, PT011 - ipywidgets' own, of several types; the kernel logs it
        control(explorer, name).set_state(state)
    assert getattr(explorer, name) == before
    assert explorer._stage.value == stage
    for position in (-3, 10**6):
        explorer._controls.position.set_state({"value": position})
    assert explorer.image in explorer.order


def test_what_a_control_asks_wrongly_becomes_a_sentence_and_goes_back(fake_run):
    explorer = Explorer(fake_run)
    explorer._controls.options.value = "gamma=nonsense"
    assert "gamma" in explorer.error
    assert "xb-error" in explorer._message.value
    assert (explorer.explainer, explorer._controls.options.value) == ("lrp", "")
    explorer.image = "test/004"
    assert explorer.error == ""


def test_scores_chance_and_rank_are_below_each_student(fake_run):
    explorer = Explorer(fake_run, image="test/001")
    values = fake_run.scores().query(
        "pairing == 'matched' and explainer == 'lrp' and metric == 'cosine' and method == 'kd' and seed == 0"
    )
    value = values.set_index("image")["value"]
    rank = int((value < value["test/001"]).sum()) + 1
    picture, alt, below = seen(explorer)["KD, seed 0"]
    shown = f"cosine {value['test/001']:.2f}".replace("-", "−")
    mean, sd = METRICS["cosine"].chance(7)
    assert f"<b>{shown}</b>chance {mean:.2f} ± {sd:.2f}" in below
    assert f"rank {rank} of 12" in below
    assert "predicts pull&lt;over&gt; 75% ✓" in below
    assert alt == f"LRP of KD, seed 0 for test/001: {shown}"
    assert picture.shape == (28, 28, 3)
    assert "cosine" not in seen(explorer)["teacher"][2]


def test_one_scale_for_teacher_and_students(fake_run):
    ramp = torch.linspace(-1, 1, 28 * 28, dtype=torch.float64).reshape(28, 28)
    fake_run._maps["teacher", "lrp"][0] = ramp
    fake_run._maps["kd/seed0", "lrp"][0] = 5 * ramp  # the same shares: the same picture
    fake_run._maps["subdistill/seed0", "lrp"][0] = ramp.clamp(-0.5, 0.5)
    explorer = Explorer(fake_run)
    pictures = {name: picture for name, (picture, _, _) in seen(explorer).items()}
    assert (pictures["teacher"] == pictures["KD, seed 0"]).all()
    assert (pictures["teacher"] != pictures["SubDistill, seed 0"]).any()
    red, _, blue = np.moveaxis(pictures["teacher"], -1, 0)
    assert (blue[:12] >= red[:12]).all()
    assert (red[-12:] >= blue[-12:]).all()
    explorer.scale = "none"
    pictures = {name: picture for name, (picture, _, _) in seen(explorer).items()}
    assert (pictures["teacher"] != pictures["KD, seed 0"]).any()


def test_a_zero_map_is_white_and_an_undefined_one_grey(fake_run):
    fake_run._maps["kd/seed0", "lrp"][0] = 0
    fake_run._maps["subdistill/seed0", "lrp"][0, 0, 0] = np.nan
    pictures = {name: picture for name, (picture, _, _) in seen(Explorer(fake_run)).items()}
    assert (pictures["KD, seed 0"] == 255).all()
    assert (pictures["SubDistill, seed 0"] == 0xBD).all()


def test_ways_to_draw_the_maps(fake_run):
    explorer = Explorer(fake_run)
    plain = seen(explorer)
    explorer.look = "as scored"
    assert seen(explorer)["teacher"][0].shape == (7, 7, 3)
    assert seen(explorer)["input"][0].shape == (28, 28, 3)
    explorer.look = "difference"
    assert (seen(explorer)["teacher"][0] != seen(explorer)["KD, seed 0"][0]).any()
    fake_run._maps["kd/seed1", "lrp"][:] = fake_run._maps["teacher", "lrp"]
    explorer.students = ("kd/seed1",)
    assert (seen(explorer)["KD, seed 1"][0] == 255).all()  # no difference: white
    explorer.look, explorer.opacity = "overlay", 0.0
    grey = plain["input"][0].mean(axis=2).round()
    assert np.abs(seen(explorer)["teacher"][0][..., 0] - grey).max() <= 1
    explorer.opacity = 1.0
    explorer.students = ("kd/seed0", "subdistill/seed0")
    explorer.look, overlaid = "heatmap", seen(explorer)["teacher"][0]
    assert (seen(explorer)["teacher"][0] == overlaid).all()
    explorer.sign = "absolute"
    red, _, blue = np.moveaxis(seen(explorer)["teacher"][0], -1, 0)
    assert (red >= blue).all()


def test_the_scale_says_what_its_colours_mean(fake_run):
    explorer = Explorer(fake_run)
    for sign, meaning in (
        ("signed", "blue against, red for"),
        ("absolute", "red for or against"),
        ("positive", ": red for"),
    ):
        explorer.sign = sign
        assert f"{meaning}</div>" in explorer._stage.value
    explorer.look = "difference"
    assert "students blue below it, red above</div>" in explorer._stage.value


def test_the_sign_changes_the_score_too(fake_run):
    explorer = Explorer(fake_run)
    explorer.sign = "absolute"
    grids = [
        torch.from_numpy(fake_run._maps[m, "lrp"]).reshape(12, 7, 4, 7, 4).mean((2, 4)) for m in ("teacher", "kd/seed0")
    ]
    expected = float(METRICS["cosine"](*(grid.abs() for grid in grids))[0])
    assert explorer.on_show[0].scores["kd/seed0"].value == pytest.approx(expected, abs=1e-6)
    assert "chance 0.6" in seen(explorer)["KD, seed 0"][2]


def test_zoom_and_cursor_show_a_part_and_its_value(fake_run):
    explorer = Explorer(fake_run, zoom=4.0, cursor=(0.0, 1.0), scale="none")
    picture, _, below = seen(explorer)["teacher"]
    assert picture.shape == (7, 7, 3)
    value = f"{fake_run._maps['teacher', 'lrp'][0][0, 27]:+.3g}".replace("-", "−")
    assert f"{value} at row 0, column 27" in below
    assert explorer._stage.value.count("<i style=") == 4
    assert "top:0.00%;left:85.71%" in explorer._stage.value
    explorer._controls.cursor.value = False
    assert explorer.cursor == ()
    assert "<i style=" not in explorer._stage.value


def test_several_images_at_once(fake_run):
    explorer = Explorer(fake_run, rows=3, image="test/004")
    assert [row.key for row in explorer.on_show] == ["test/004", "test/005", "test/006"]
    assert explorer._stage.value.count('class="xb-cards"') == 3
    assert explorer._stage.value.count('class="xb-bar"') == 1
    explorer.image = "test/011"
    assert [row.key for row in explorer.on_show] == ["test/011"]


def test_the_figure_for_a_paper_shows_what_the_panel_shows(fake_run):
    explorer = Explorer(fake_run, image="test/002", students=("kd/seed1",))
    texts = " ".join(axes.get_title() for axes in explorer.figure().axes)
    assert "teacher" in texts
    assert "seed" in texts
    labels = [axes.get_xlabel() for axes in explorer.figure("single").axes]
    assert any(label.startswith("cosine") for label in labels)


def test_a_run_without_scored_students_is_refused(fake_run):
    fake_run._scores = fake_run._scores[:0]
    with pytest.raises(RunFolderError, match="no scored student yet: distil, explain and score one first"):
        Explorer(fake_run)


def test_a_student_without_a_valid_explanation_is_grey_and_says_why(fake_run, monkeypatch):
    rows, given = fake_run._scores, fake_run.attribution

    def attribution(model, explainer):
        if (model, explainer) == ("kd/seed0", "lrp"):
            raise ExplanationError("kd/seed0 has no valid explanation by lrp: too bad")
        return given(model, explainer)

    monkeypatch.setattr(fake_run, "attribution", attribution)
    fake_run._scores = rows[~((rows["method"] == "kd") & (rows["seed"] == 0) & (rows["explainer"] == "lrp"))]
    explorer = Explorer(fake_run, students=("kd/seed0", "subdistill/seed0"), sort="least alike")
    picture, _, below = seen(explorer)["KD, seed 0"]
    assert (picture == 0xBD).all()
    assert "no valid explanation by lrp: too bad" in below
    assert "cosine undefined" in below
    explorer.only = "undefined"
    assert len(explorer.order) == 12
    explorer.explainer = "ig"
    assert "cosine undefined" not in seen(explorer)["KD, seed 0"][2] if explorer.order else True


def test_models_without_scores_are_not_offered(fake_run):
    explorer = Explorer(fake_run)
    assert "untrained" in fake_run.models
    assert list(explorer._controls.methods) == ["kd", "subdistill"]
    assert explorer.comparison.students == ("kd/seed0", "kd/seed1", "subdistill/seed0", "subdistill/seed1")


def test_what_an_explainer_tells_about_a_map_is_below_it(fake_run):
    explorer = Explorer(fake_run, explainer="ig", image="test/007")
    assert (
        "estimated error 0.7% of a map, residual 0 of sum |IG|, 41 gradients an image" in seen(explorer)["teacher"][2]
    )
    explorer._details.box.selected_index = 1
    assert "41 gradients an image" in explorer._details._made.value
    explorer.explainer = "lrp"
    assert "gradients" not in seen(explorer)["teacher"][2]


def test_a_run_folder_that_vanishes_is_told_and_what_is_on_show_stays(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    explorer = Explorer(open_run(folder), students=("kd/seed0",))
    (folder / "attributions").rename(folder / "elsewhere")
    stage = explorer._stage.value
    explorer.students = ("kd/seed0", "subdistill/seed0")
    assert str(folder) in explorer.error
    assert explorer.students == ("kd/seed0",)
    assert not explorer._controls.methods["subdistill"].value
    assert explorer._stage.value == stage
    explorer.image = explorer.order[1]  # what was read before
    assert explorer.error == ""
    assert explorer.on_show[0].key == explorer.order[1]


def test_no_picture_ever_stands_beside_another_images_score(fake_run):
    explorer, stages = Explorer(fake_run, rows=2), []
    explorer._stage.observe(lambda change: stages.append((change.new, explorer.on_show)), "value")
    for key in ("test/003", "test/008"):
        explorer.image = key
    explorer.sort, explorer.explainer, explorer.students = "least alike", "ig", ("kd/seed1",)
    assert len(stages) >= 5
    for stage, rows in stages:
        alts = re.findall(r'alt="([^"]*)"', stage)
        assert {row.key for row in rows} == {re.search(r"test/\d+", alt).group() for alt in alts}


def test_the_front_door_takes_the_folder_itself(tiny_run):
    explorer = Explorer(tiny_run)
    assert explorer.comparison.students[0] == "student-only/seed0"
    assert f"{str(tiny_run)!r}" in explorer.code()
    namespace = {}
    exec(explorer.code().replace("explorer.figure()", ""), namespace)
    assert namespace["explorer"].on_show[0].key == explorer.on_show[0].key


@pytest.mark.parametrize("what", [3, None, "no/such/folder", [1, 2]])
def test_what_cannot_be_explored_is_refused_by_name(what):
    with pytest.raises((ConfigError, RunFolderError), match=r"give a run|no run|no such|manifest"):
        Explorer(what)
