"""The explorer on models: what is not known is asked of them, once, and beside the notebook."""

import asyncio
import io
import json
import logging
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import xaibench as xb
from xaibench.errors import ConfigError, DataError, ExplanationError, UnknownNameError
from xaibench.run.folder import open_run
from xaibench.widgets.explorer import explore
from xaibench.widgets.keeping import provenance
from xaibench.widgets.live import Question


@pytest.fixture
def calls(monkeypatch):
    """Explanations that are really computed, in order: (explainer, number of images)."""
    import xaibench.attribution.explain as module

    made, real = [], module.explain_model

    def counted(model, x, target, explainer, *args, **options):
        made.append((explainer, len(x)))
        return real(model, x, target, explainer, *args, **options)

    monkeypatch.setattr(module, "explain_model", counted)
    return made


def test_a_pair_is_explained_while_one_looks(tiny_pair, images, store, calls):
    explorer = explore(tiny_pair, images, store=store)
    assert explorer.students == ("student",)
    assert calls == [("lrp", 1), ("lrp", 1)]
    explorer.image = images.keys[1]
    explorer.image = images.keys[0]  # known
    assert len(calls) == 4
    row = explorer.on_show[0]
    both = xb.explain(tiny_pair, images.take([0]), "lrp")
    assert row.maps["teacher"].values == pytest.approx(both.teacher.heatmaps[0].numpy(), rel=1e-4, abs=1e-5)
    expected = xb.compare(*both).score("cosine").mean
    assert row.scores["student"].value == pytest.approx(expected, abs=1e-5)
    target = both.teacher.target
    assert row.asked == (images.classes[int(target.label[0])], images.classes[int(target.contrast[0])])


def test_another_class_and_contrast_are_asked_of_both_models(tiny_pair, images, store):
    explorer = explore(tiny_pair, images, store=store)
    explorer.label, explorer.contrast = "bottom", "top"
    target = xb.Target(torch.tensor([2]), torch.tensor([1]))
    x = tiny_pair.preprocessing(images.images[:1])
    made = xb.explain_model(tiny_pair.teacher, x, target, "lrp", tiny_pair.preprocessing)
    row = explorer.on_show[0]
    assert row.asked == ("bottom", "top")
    assert row.maps["teacher"].values == pytest.approx(made.heatmaps[0].numpy(), rel=1e-4, abs=1e-5)
    explorer._controls.choices["label"].value = "top"  # against itself
    assert "'top' cannot be held against itself" in explorer.error
    assert (explorer.label, explorer._controls.choices["label"].value) == ("bottom", "bottom")


def test_how_it_is_drawn_makes_no_model_call(tiny_pair, images, store, calls, monkeypatch):
    explorer = explore(tiny_pair, images, store=store)
    before = len(calls)
    monkeypatch.setattr("xaibench.models.predict.predict_logits", lambda *a, **o: pytest.fail("a model was called"))
    explorer.look, explorer.opacity = "overlay", 0.2
    explorer.scale, explorer.sign, explorer.zoom = "none", "absolute", 3.0
    explorer.look, explorer.cursor, explorer.metric = "as scored", (0.3, 0.3), "spearman"
    assert len(calls) == before
    assert explorer.error == ""


def test_all_images_are_explained_when_asked_and_then_sorted(tiny_pair, images, store, calls):
    explorer = explore(tiny_pair, images, store=store)
    explorer.sort = "least alike"
    assert "press 'explain all images'" in explorer.error
    assert explorer.sort == "given"
    explorer._controls.everything.click()
    assert sum(count for _, count in calls) == 2 * len(images)
    explorer.sort = "least alike"
    report = xb.compare(tiny_pair, images, "lrp", metrics="cosine")
    assert list(explorer.order) == list(report.values("cosine").sort_values(kind="stable").index)
    assert explorer.on_show[0].scores["student"].rank == 1


def test_a_new_question_keeps_the_order_until_all_images_are_explained(tiny_run, store):
    explorer = explore(tiny_run, store=store, sort="least alike")
    explorer.image = explorer.order[2]
    order, image = explorer.order, explorer.image
    explorer.contrast = next(name for name in explorer.comparison.classes if name not in explorer.on_show[0].asked)
    assert explorer.error == ""
    assert (explorer.order, explorer.image) == (order, image)
    assert "in the order of the question before" in explorer._controls.count.value
    explorer._controls.position.value = 2
    assert explorer.image == order[1]
    explorer.contrast = ""
    assert not explorer.order_is_older
    assert explorer.order == order


def test_a_second_explorer_finds_the_maps_in_the_store(tiny_pair, images, store, monkeypatch):
    first = explore(tiny_pair, images, store=store).on_show[0].maps["student"].values
    import xaibench.attribution.explain as module

    monkeypatch.setattr(module, "prepare", lambda *a, **o: pytest.fail("computed again"))
    assert (explore(tiny_pair, images, store=store).on_show[0].maps["student"].values == first).all()


def test_the_users_models_are_left_as_they_are(tiny_pair, images, store):
    teacher, before = tiny_pair.teacher, tiny_pair.hashes()
    explorer = explore(tiny_pair, images, store=store)
    explorer.explain_all()
    explorer.explainer = "gradcam"
    assert tiny_pair.hashes() == before
    assert not any(module._forward_hooks or module._backward_hooks for module in teacher.modules())
    assert not teacher.training


def test_two_models_and_an_image_folder(tiny_teacher, tiny_preprocessing, tmp_path, store):
    noise = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("bottom", "edges", "middle", "top"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = noise.integers(0, 255, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    student = xb.build_model("resnet18-cifar:4-4-4-4@4", 4)
    where = f"imagefolder:{tmp_path / 'pictures'}"
    explorer = explore(tiny_teacher, student, where, preprocessing=tiny_preprocessing, store=store)
    assert len(explorer.order) == 16
    assert explorer.comparison.classes == ("bottom", "edges", "middle", "top")
    with pytest.raises(ConfigError, match="mean and std that the models were trained with"):
        explore(tiny_teacher, student, where)
    with pytest.raises(ConfigError, match="give two models"):
        explore(tiny_teacher, where, preprocessing=tiny_preprocessing)


def test_finished_maps_are_shown_without_their_models(tiny_pair, images):
    maps = xb.explain(tiny_pair, images, "input-x-gradient")
    explorer = explore(maps, images, sort="least alike")
    assert explorer.explainer == "input-x-gradient"
    assert explorer.on_show[0].scores["student"].rank == 1
    assert explorer._controls.choices["label"].disabled
    with pytest.raises(UnknownNameError, match="unknown explainer of these maps"):
        explorer.explainer = "lrp"
    explorer._details.look_inside()
    assert "came without their models" in explorer.error
    with pytest.raises(DataError, match="6 images were explained"):
        explore(maps, images.take([0]))


def test_a_model_that_fails_on_one_image_leaves_the_rest_usable(tiny_pair, images, store, monkeypatch, caplog):
    explorer = explore(tiny_pair, images, store=store)
    import xaibench.attribution.explain as module

    real, stage = module.explain_model, explorer._stage.value

    def broken(*args, **options):
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(module, "explain_model", broken)
    with caplog.at_level(logging.ERROR):
        explorer.image = images.keys[2]
    assert explorer.error == "RuntimeError: out of memory, say"
    assert (explorer.image, explorer._stage.value) == (images.keys[0], stage)
    monkeypatch.setattr(module, "explain_model", real)
    explorer.image = images.keys[2]
    assert (explorer.image, explorer.error) == (images.keys[2], "")


def test_a_refused_explanation_is_grey_under_the_model_that_causes_it(tiny_pair, images, store, monkeypatch):
    import xaibench.attribution.explain as module

    real = module.explain_model

    def refusing(model, *args, **options):
        if model is tiny_pair.student:
            raise ExplanationError("LRP of ResNet is not valid: such and such")
        return real(model, *args, **options)

    monkeypatch.setattr(module, "explain_model", refusing)
    row = explore(tiny_pair, images, store=store).on_show[0]
    assert np.isnan(row.maps["student"].values).all()
    assert "not valid" in row.maps["student"].trouble
    assert row.maps["teacher"].trouble == ""
    assert np.isnan(row.scores["student"].value)


def test_an_image_of_ones_own(tiny_pair, images, store):
    explorer = explore(tiny_pair, images, store=store)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(buffer, "png")
    explorer._details._take([{"name": "mine.png", "content": memoryview(buffer.getvalue())}])
    assert explorer.error == ""
    assert explorer.image == "own/mine.png"
    row = explorer.on_show[0]
    assert row.label == ""  # nobody knows what it is
    assert row.asked[0] == explorer.comparison.classes[row.predictions["teacher"][0].predicted]
    assert np.isfinite(row.maps["student"].values).all()
    explorer._details._take([{"name": "mine.png", "content": buffer.getvalue()}])
    assert explorer.image == "own/mine.png'"
    explorer._details._take([{"name": "notes.txt", "content": b"no image"}])
    assert explorer.error == "notes.txt is no image that can be read: choose a PNG or JPEG file"
    assert explorer.image == "own/mine.png'"


def test_an_image_of_ones_own_leaves_what_a_run_knows(tiny_run, store, calls):
    explorer = explore(tiny_run, store=store, sort="least alike", students=("kd/seed0",))
    row, order = explorer.on_show[0], explorer.order
    explorer.add_image(torch.randint(0, 255, explorer.comparison.images.shape, dtype=torch.uint8), "mine")
    assert (explorer.image, explorer.error) == ("own/mine", "")
    own = explorer.on_show[0].scores["kd/seed0"]
    assert np.isfinite(own.value)
    assert len(calls) == 2  # this image under two models
    explorer.sort = "most alike"
    assert explorer.error == ""
    assert sorted(explorer.order) == sorted([*order, "own/mine"])
    explorer.image = row.key
    again = explorer.on_show[0].scores["kd/seed0"]
    assert (again.value, again.nulls) == (row.scores["kd/seed0"].value, row.scores["kd/seed0"].nulls)
    assert again.rank == 1 + (own.value < again.value)
    explorer.image = "own/mine"
    code = explorer.code()
    assert "image='own/mine'" not in code
    assert "explorer.add_image(image, 'mine')  # the image of your own: (C, H, W), uint8\nawait explorer" in code
    lines = code.splitlines()
    assert lines[-3] == "explorer.image = 'own/mine'"  # after the order, which begins with its first image
    assert lines[-2].startswith("await explorer.settled()")


def test_an_image_of_the_class_held_against_says_so_and_the_others_are_explained(tiny_pair, images, store):
    explorer = explore(tiny_pair, images, store=store)
    of = {key: images.classes[int(label)] for key, label in zip(images.keys, images.labels)}
    first = of[explorer.image]
    explorer.contrast = next(name for name in images.classes if name != first)
    for key in images.keys:
        explorer.image = key
        row = explorer.on_show[0]
        own = of[key] == explorer.contrast
        assert (explorer.error, row.asked) == ("", (of[key], explorer.contrast))
        assert np.isnan(row.scores["student"].value) == own
        assert ("cannot be held against itself" in row.maps["teacher"].trouble) == own
        assert ('class="xb-bar"' in explorer._stage.value) != own, "no scale where nothing is drawn"
    explorer.explain_all()
    explorer.sort = "least alike"
    assert explorer.error == ""
    assert of[explorer.order[-1]] == explorer.contrast
    assert explorer.figure()
    explorer.label = explorer.contrast
    assert "cannot be held against itself" in explorer.error


def test_explain_all_keeps_every_map_that_it_needs(tiny_pair, images, store):
    explorer = explore(tiny_pair, images, store=store)
    explorer.comparison.live.most = 3
    explorer.explain_all()
    explorer.sort = "least alike"
    assert (explorer.error, len(explorer.order)) == ("", len(images))


def test_the_code_explains_all_images_before_it_sorts_them(tiny_pair, images, store, run_as_script):
    explorer = explore(tiny_pair, images, store=store)
    explorer.explain_all()
    explorer.sort = "least alike"
    explorer.image = explorer.order[2]
    code = explorer.code()
    names = run_as_script(code, pair=tiny_pair, images=images)
    assert (names["explorer"].order, names["explorer"].image) == (explorer.order, explorer.image)


def drawn(explorer):
    """Keys and maps on show."""
    return [(row.key, {name: one.values.tolist() for name, one in row.maps.items()}) for row in explorer.on_show]


def test_the_code_adds_images_of_ones_own_wherever_they_stand(tiny_run, store, run_as_script):
    explorer = explore(tiny_run, store=store, students=("kd/seed0",))
    noise = torch.Generator().manual_seed(1)
    mine = [torch.randint(0, 255, explorer.comparison.images.shape, dtype=torch.uint8, generator=noise) for _ in "ab"]
    for number, image in enumerate(mine):
        explorer.add_image(image, f"mine{number}")
    explorer.sort = "least alike"
    own = [explorer.order.index(f"own/mine{number}") for number in range(2)]
    explorer.image, explorer.rows = explorer.order[max(0, min(own) - 1)], 12
    assert {"own/mine0", "own/mine1"} & {row.key for row in explorer.on_show[1:]}
    names = run_as_script(explorer.code(), image=mine[0], image_1=mine[0], image_2=mine[1])
    assert drawn(names["explorer"]) == drawn(explorer)
    explorer.image = "own/mine1"
    explorer.rows = 1
    names = run_as_script(explorer.code(), image=mine[1])
    assert drawn(names["explorer"]) == drawn(explorer)


def test_an_image_of_ones_own_is_sorted_by_its_likeness_at_once(tiny_run, store):
    explorer = explore(tiny_run, store=store, students=("kd/seed0",), sort="most alike", rows=2)
    explorer.add_image(explorer.comparison.images.images[explorer.comparison.place(explorer.order[0])], "twin")
    assert explorer.order.index("own/twin") < 3
    assert len(explorer.on_show) == 2


def test_the_code_makes_the_order_of_a_question_before(tiny_pair, images, store, run_as_script):
    explorer = explore(tiny_pair, images, store=store, explainer="input-x-gradient")
    explorer.explain_all()
    explorer.sort = "least alike"
    explorer.rows = 3
    explorer.explainer = "lrp"
    assert explorer.order_is_older
    explorer.image = explorer.order[1]
    names = run_as_script(explorer.code(), pair=tiny_pair, images=images)
    assert (names["explorer"].shown, names["explorer"].order_is_older) == (explorer.shown, True)
    assert drawn(names["explorer"]) == drawn(explorer)


def test_the_code_adds_every_student_of_a_mean(tiny_run, store, run_as_script):
    explorer = explore(tiny_run, store=store)
    student = open_run(tiny_run).student("subdistill/seed0")
    for name in ("mine/seed0", "mine/seed1"):
        explorer.add_student(name, student)
    explorer.students = ("mine/mean",)
    code = explorer.code()
    assert code.count("explorer.add_student(") == 2
    names = run_as_script(code, student_1=student, student_2=student)
    assert names["explorer"].students == ("mine/mean",)
    assert names["explorer"].on_show[0].scores.keys() == {"mine/mean"}


def test_a_student_joins(tiny_pair, make_pair, images, store):
    explorer = explore(tiny_pair, images, store=store)
    other = make_pair(seed=3).student
    explorer.add_student("trained", other)
    assert explorer.students == ("student", "trained")
    assert set(explorer.on_show[0].scores) == {"student", "trained"}
    first = explorer.on_show[0].maps["trained"].values
    explorer.add_student("trained", make_pair(seed=4).student)
    assert (explorer.on_show[0].maps["trained"].values != first).any()


def test_a_runs_models_answer_what_the_run_does_not_hold(tiny_run, store, calls):
    explorer = explore(tiny_run, store=store, students=("kd/seed0",))
    run = open_run(tiny_run)
    assert calls == []
    stored = explorer.on_show[0].maps["kd/seed0"].values
    label, contrast = explorer.on_show[0].asked
    explorer.label, explorer.contrast = label, contrast  # the same question, now by name
    assert calls
    assert explorer.on_show[0].maps["kd/seed0"].values == pytest.approx(stored, rel=1e-3, abs=1e-4)
    assert not any(run.folder.joinpath("attributions").glob("*.partial*"))
    assert len(list(store.folder.iterdir())) == 2  # the same question under either name


def test_look_inside_and_flip(tiny_run, store):
    explorer = explore(tiny_run, store=store, students=("kd/seed0", "subdistill/seed0"))
    explorer._details.box.selected_index = 2
    explorer._details.look_inside()
    assert explorer.error == ""
    text = explorer._details._inside.value
    assert "Relevance at layer1" in text
    assert "direction 4" in text
    assert "layer1" in explorer._details._layer.options[1]
    explorer._details.box.selected_index = 3
    explorer._details.flip()
    assert explorer.error == ""
    assert "Flip curves of KD, seed 0, SubDistill, seed 0" in explorer._details._flips.value
    explorer.image = explorer.order[1]
    assert explorer._details._inside.value == ""  # it was another image's


def test_a_figure_is_kept_with_where_it_comes_from(tiny_run, tmp_path, store):
    explorer = explore(tiny_run, store=store)
    details = explorer._details
    details._path.value, details._format.value = str(tmp_path / "figures" / "coat.pdf"), "svg"
    details.save()
    assert explorer.error == ""
    about = json.loads((tmp_path / "figures" / "coat.json").read_text())
    assert (tmp_path / "figures" / "coat.svg").stat().st_size > 1000
    assert about["run"] == str(tiny_run)
    assert about["code"] == explorer.code()
    assert about["scores"][explorer.image]["kd/seed0"] == explorer.on_show[0].scores["kd/seed0"].value
    details._path.value = ""
    details.save()
    assert "names no file" in explorer.error


def test_the_scatter_leads_to_images(tiny_run, store):
    explorer = explore(tiny_run, store=store)
    explorer._details.box.selected_index = 0
    scatter = explorer._details._scatter
    assert sorted(key for keys in scatter._keys for key in keys) == sorted(explorer.order)
    seen = set()
    for dot, keys in zip(scatter._dots, scatter._keys):
        for _ in keys:
            dot.click()
            seen.add(explorer.image)
    assert seen == set(explorer.order)
    explorer._details._across.value = "spearman"
    assert "Spearman" in scatter._axes.value
    explorer.explainer = "input-x-gradient"
    assert "Not all images are explained yet" in scatter._note.value
    assert not any(scatter._keys)


def test_in_a_notebook_the_latest_request_wins(tiny_pair, images, store, monkeypatch):
    import xaibench.attribution.explain as module

    real, threads = module.explain_model, set()

    def noted(*args, **options):
        threads.add(threading.current_thread())
        return real(*args, **options)

    monkeypatch.setattr(module, "explain_model", noted)
    shown = []

    async def main():
        explorer = explore(tiny_pair, images, store=store)
        explorer._stage.observe(lambda change: shown.append(explorer.on_show[0].key), "value")
        assert explorer.on_show == ()
        for key in images.keys:
            explorer.image = key
        await asyncio.wait_for(explorer.settled(), 60)
        assert explorer.image == images.keys[-1]
        assert explorer.on_show[0].key == images.keys[-1]
        explorer.image = images.keys[-1]
        explorer.label = "top"
        await asyncio.wait_for(explorer.settled(), 60)
        assert explorer.error == ""
        explorer.close()

    asyncio.run(main())
    assert threading.main_thread() not in threads
    assert len(shown) <= 3  # what was overtaken is not shown


def test_a_cancelled_question_leaves_what_is_on_show(tiny_pair, images, store, hold_explanations):
    async def main():
        explorer = explore(tiny_pair, images, store=store)
        await asyncio.wait_for(explorer.settled(), 60)
        stage = explorer._stage.value
        go_on = hold_explanations()
        explorer.image = images.keys[3]
        assert explorer.worker.busy
        explorer.cancel()
        go_on.set()
        assert not explorer.worker.busy
        assert explorer._stage.value == stage
        assert explorer.image == images.keys[0]
        explorer.close()

    asyncio.run(main())


def test_pictures_keep_their_own_labels_while_another_question_is_computed(tiny_pair, images, store, hold_explanations):
    async def main():
        explorer = explore(tiny_pair, images, store=store)
        await asyncio.wait_for(explorer.settled(), 60)
        asked, made = explorer.shown, provenance(explorer)
        go_on = hold_explanations()
        explorer.explainer = "input-x-gradient"
        explorer.metric = "ssim"
        explorer.opacity = 0.3  # draws what is on show once more
        assert explorer.worker.busy
        assert explorer.shown == asked
        assert "× gradient" not in explorer._stage.value
        assert "SSIM" not in explorer._stage.value
        now = provenance(explorer)
        assert {name: now[name] for name in ("explainer", "metric", "scores")} == {
            name: made[name] for name in ("explainer", "metric", "scores")
        }
        assert "input-x-gradient" not in explorer.code()
        explorer._details.flip()  # takes the place of the question
        assert (explorer.explainer, explorer.metric) == (asked.explainer, asked.metric)
        go_on.set()
        await asyncio.wait_for(explorer.settled(), 60)
        assert explorer.shown == asked
        explorer.close()

    asyncio.run(main())


def test_a_student_that_takes_the_place_of_a_runs_is_the_one_on_show(tiny_run, store):
    explorer = explore(tiny_run, store=store, students=("kd/seed0",))
    before = explorer.on_show[0]
    other = open_run(tiny_run).student("subdistill/seed0")
    explorer.add_student("kd/seed0", other)
    after = explorer.on_show[0]
    assert after.key == before.key
    assert (after.maps["kd/seed0"].values != before.maps["kd/seed0"].values).any()
    assert after.scores["kd/seed0"].value != before.scores["kd/seed0"].value
    explorer.add_student("kd/seed0 (2)", other)  # of other settings: no seed of kd
    assert explorer.comparison.groups["kd/seed0 (2)"] == ("kd/seed0 (2)",)


def test_questions_are_values():
    assert Question("lrp") == Question("lrp", "", "")
    assert len({Question("lrp"), Question("lrp"), Question("ig")}) == 2


def test_a_student_that_is_replaced_while_it_is_explained_leaves_nothing_behind(
    make_pair, tiny_pair, images, store, monkeypatch
):
    """Map, score and prediction are the new one's, whatever the worker still brings of the old one."""
    from xaibench.attribution import explain

    old, new = make_pair(seed=3).student, make_pair(seed=4).student
    started, go, real = threading.Event(), threading.Event(), explain.explain_model

    async def main():
        explorer = explore(tiny_pair, images, store=store)
        explorer.add_student("kd/seed0", old)
        await asyncio.wait_for(explorer.settled(), 60)
        copy = explorer.comparison.live.module("kd/seed0", None)

        def held(model, *args, **options):
            made = real(model, *args, **options)
            if model is copy:
                started.set()
                assert go.wait(60)
            return made

        monkeypatch.setattr(explain, "explain_model", held)
        explorer.image = images.keys[1]
        assert await asyncio.to_thread(started.wait, 60)
        explorer.add_student("kd/seed0", new)
        go.set()
        await asyncio.wait_for(explorer.settled(), 60)
        return explorer.on_show[0]

    row = asyncio.run(main())
    fresh = explore(tiny_pair, images, store=store, image=row.key)
    fresh.add_student("kd/seed0", new)
    want = fresh.on_show[0]
    assert np.allclose(row.maps["kd/seed0"].values, want.maps["kd/seed0"].values)
    assert row.scores["kd/seed0"].value == pytest.approx(want.scores["kd/seed0"].value)
    assert row.predictions["kd/seed0"][0].confidence == pytest.approx(want.predictions["kd/seed0"][0].confidence)


def test_answers_about_a_student_go_when_another_takes_its_place(make_pair, tiny_pair, images, store):
    explorer = explore(tiny_pair, images, store=store)
    explorer.add_student("kd/seed0", make_pair(seed=3).student)
    details = explorer._details
    for part, ask, shown in ((3, details.flip, details._flips), (2, details.look_inside, details._inside)):
        details.box.selected_index = part
        ask()
        assert (explorer.error, bool(shown.value)) == ("", True)
        explorer.add_student("kd/seed0", make_pair(seed=4 + part).student)
        assert shown.value == ""


def test_a_student_with_a_number_behind_its_seed_is_switched_off_alone(make_pair, tiny_pair, images, store):
    explorer = explore(tiny_pair, images, store=store)
    explorer.add_student("kd/seed0", make_pair(seed=3).student)
    explorer.add_student("kd/seed0 (2)", make_pair(seed=4).student)
    explorer._controls.methods["kd/seed0 (2)"].value = False
    assert explorer.students == ("student", "kd/seed0")
    explorer._controls.seeds.set_state({"index": None})
    assert (explorer.students, explorer.error) == (("student", "kd/seed0"), "")
    assert explorer._controls.seeds.index is not None
    explorer._controls.methods["kd"].value = False
    assert explorer.students == ("student",)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label": "top", "contrast": "top"}, "'top' cannot be held against itself"),
        ({"sort": "least alike", "metric": "ssim"}, "not all images are explained yet"),
    ],
)
def test_of_changes_that_fail_together_the_error_stays(tiny_pair, images, store, changes, says):
    explorer = explore(tiny_pair, images, store=store)
    before = {name: getattr(explorer, name) for name in changes}
    with explorer.hold_trait_notifications():
        for name, value in changes.items():
            setattr(explorer, name, value)
    assert says in explorer.error
    assert {name: getattr(explorer, name) for name in changes} == before
    explorer.metric = "pearson"
    assert explorer.error == ""


def test_a_student_that_cannot_be_asked_is_not_shown_and_says_so(tiny_pair, images, store):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x):
            raise RuntimeError("broken")

    explorer = explore(tiny_pair, images, store=store)
    explorer.add_student("bad", Broken())
    assert "broken" in explorer.error
    assert explorer.students == ("student",)
