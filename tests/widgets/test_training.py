import asyncio
import html
import re
import threading

import pandas as pd
import pytest
import torch
import traitlets
from ipywidgets.widgets.widget import _instances
from torch import nn

from xaibench.data.images import ImageSet
from xaibench.distillation.distill import distill
from xaibench.distillation.methods import METHODS
from xaibench.errors import ConfigError, ModelError, UnknownNameError, XaibenchError
from xaibench.models.checkpoints import state_hash
from xaibench.widgets.explorer import Explorer
from xaibench.widgets.training import TrainingPanel
from xaibench.widgets.training_curves import curves_html

PLAIN = "batch_size=16,padding=1,precision=32-true"


@pytest.fixture
def panel_of(tiny_pair, tiny_task):
    """panel_of(**arguments) -> a panel of the tiny pair, on the CPU; closed after the test."""
    made = []

    def make(**arguments):
        start = {"method": "kd", "epochs": 3, "recipe": PLAIN, "every": 0, "device": "cpu"}
        made.append(TrainingPanel(tiny_pair, tiny_task, **{**start, **arguments}))
        return made[-1]

    yield make
    for panel in made:
        panel.close()


def alts(panel):
    return [html.unescape(alt) for alt in re.findall(r'alt="([^"]+)"', panel._curves.value)]


def test_a_training_gives_the_student_that_distill_gives(panel_of, tiny_pair, tiny_task):
    panel = panel_of(seed=3)
    before, told = tiny_pair.hashes(), []
    panel.observe(lambda change: told.append((change.new, len(panel.history), panel.state)), "epoch")
    panel.start()
    run = distill(tiny_pair, tiny_task, "kd", PLAIN, epochs=3, seed=3, device="cpu")
    assert state_hash(panel.students["kd/seed3"]) == state_hash(run.student)
    pd.testing.assert_frame_equal(panel.history.drop(columns="seconds"), run.history.drop(columns="seconds"))
    assert told == [(1, 1, "training"), (2, 2, "training"), (3, 3, "training")]
    assert (panel.state, panel.error, panel.runs["kd/seed3"].seed) == ("finished", "", 3)
    assert tiny_pair.hashes() == before
    assert tiny_pair.student.training  # as it was


def test_losses_a_term_and_layer_accuracy_and_agreement_are_pictures_that_say_what_is_seen(panel_of, tiny_pair):
    panel = panel_of(method="subdistill:layer_weight=2", epochs=1)
    panel.start()
    losses, accuracies = alts(panel)
    assert losses.startswith("Training loss by epoch; after epoch 1: total ")
    assert all(f"{name} " in losses for name in ("cross-entropy", "KD", *(one.teacher for one in tiny_pair.layers)))
    assert re.search(r"accuracy [\d.]+, agreement with the teacher [\d.]+; best accuracy .* the teacher's", accuracies)


def test_lrp_is_compared_every_few_epochs_and_after_the_last_beside_chance(panel_of):
    panel = panel_of(every=2, epochs=4, images=6)
    panel.start()
    scored = panel.history["lrp_cosine"].notna()
    assert scored.tolist() == [True, False, True, True]
    scores = panel.history[scored]
    assert (scores["lrp_cosine_low"] <= scores["lrp_cosine"]).all()
    assert (scores["lrp_cosine"] <= scores["lrp_cosine_high"]).all()
    assert scores[["lrp_cosine", "lrp_chance"]].abs().max().max() <= 1
    assert alts(panel)[2].startswith("Likeness of LRP's maps by epoch; after epoch 4: with the teacher ")
    assert "chance" in alts(panel)[2]


def test_a_teacher_that_lrp_is_not_valid_on_is_said_and_training_goes_on(panel_of, tiny_pair, tiny_task):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return torch.cos(self.body(x)).mean((2, 3)) * torch.sigmoid(x).mean((1, 2, 3))[:, None]

    pair = tiny_pair.create(
        Odd(), tiny_pair.student, classes=tiny_pair.classes, preprocessing=tiny_pair.preprocessing, layers=()
    )
    panel = TrainingPanel(pair, tiny_task, method="kd", epochs=1, recipe=PLAIN, images=4, device="cpu")
    panel.start()
    assert panel.state == "finished"
    assert len(alts(panel)) == 2
    assert "LRP was not compared: " in panel._curves.value
    panel.close()


@pytest.mark.slow
def test_cancel_ends_after_the_epoch_and_resume_goes_on_to_the_same_student(panel_of):
    whole = panel_of(every=1, images=4)
    whole.start()
    panel = panel_of(every=1, images=4)
    assert panel._resume.disabled
    panel.observe(lambda change: change.new == 1 and panel.cancel(), "epoch")
    panel.start()
    assert (panel.state, panel.epoch, panel.students) == ("cancelled", 1, {})
    assert "cancelled after 1 of 3 epochs" in panel._words.value
    assert not panel._resume.disabled
    panel._resume.click()
    assert (panel.state, panel.epoch) == ("finished", 3)
    assert state_hash(panel.students["kd/seed0"]) == state_hash(whole.students["kd/seed0"])
    pd.testing.assert_frame_equal(panel.history.drop(columns="seconds"), whole.history.drop(columns="seconds"))


@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupt_ends_a_training_and_resume_goes_on_to_the_same_student(panel_of, at):
    whole = panel_of()
    whole.start()
    panel = panel_of()

    def press(change):
        if change.new == at and panel.state == "training" and not pressed:
            pressed.append(at)
            raise KeyboardInterrupt

    pressed = []
    panel.observe(press, "epoch")
    with pytest.raises(KeyboardInterrupt):
        panel.start()
    assert (panel.state, panel.epoch, panel.students, panel.error) == ("cancelled", at, {}, "interrupted")
    assert f"interrupted after {at} of 3 epochs" in panel._words.value
    assert not panel._start.disabled
    (panel.start if panel._resume.disabled else panel.resume)()
    assert (panel.state, panel.error) == ("finished", "")
    assert state_hash(panel.students["kd/seed0"]) == state_hash(whole.students["kd/seed0"])


def test_an_interrupt_while_the_end_is_drawn_leaves_the_panel_usable(panel_of, monkeypatch):
    import xaibench.widgets.training as module

    panel, real = panel_of(epochs=1), module.curves_html

    def interrupted(history, *args):
        monkeypatch.setattr(module, "curves_html", real)
        raise KeyboardInterrupt

    panel.observe(lambda change: monkeypatch.setattr(module, "curves_html", interrupted), "epoch")
    with pytest.raises(KeyboardInterrupt):
        panel.start()
    assert (panel.state, panel.error) == ("cancelled", "interrupted")
    panel.unobserve_all("epoch")
    panel.start()
    assert (panel.state, panel.error) == ("finished", "")


def test_a_folder_lets_another_panel_go_on_and_keeps_trainings_apart(panel_of, tmp_path):
    first = panel_of(folder=tmp_path)
    first.observe(lambda change: first.cancel(), "epoch")
    first.start()
    first.close()
    second = panel_of(folder=tmp_path)
    for other in ({"seed": 1}, {"lr": 0.5}, {"method": "student-only"}, {"layers": ("layer1",)}, {"epochs": 4}):
        with second.hold_trait_notifications():
            before = {name: getattr(second, name) for name in other}
            for name, value in other.items():
                setattr(second, name, value)
        assert second._resume.disabled, other
        with pytest.raises(ConfigError, match=r"with these settings was begun in .*: start it"):
            second.resume()
        for name, value in before.items():
            setattr(second, name, value)
    told = []
    second.observe(lambda change: told.append(change.new), "epoch")
    second.resume()
    assert (second.state, told) == ("finished", [2, 3])
    second.start()  # from the beginning
    assert told == [2, 3, 0, 1, 2, 3]


def test_students_of_one_name_but_other_settings_are_told_apart(panel_of):
    panel = panel_of(epochs=1)
    panel.start()
    first = panel.students["kd/seed0"]
    panel.lr = 0.01
    panel.start()
    assert list(panel.students) == ["kd/seed0", "kd/seed0 (2)"]
    assert panel.students["kd/seed0"] is first
    panel.start()
    assert list(panel.students) == ["kd/seed0", "kd/seed0 (2)"]


@pytest.mark.parametrize(
    ("trait", "value", "error", "message"),
    [
        ("method", "subdistil", UnknownNameError, "did you mean 'subdistill'"),
        ("method", "kd:alpha=2", ConfigError, "alpha must be between 0 and 1"),
        ("method", "kd:colour=2", UnknownNameError, "unknown option of method 'kd' 'colour'"),
        ("epochs", 0, ConfigError, "epochs must be above 0"),
        ("lr", float("nan"), ConfigError, "lr must be above 0"),
        ("seed", -1, ConfigError, "a seed must be between 0"),
        ("layers", ("layer9",), UnknownNameError, "unknown layer of .* 'layer9': did you mean"),
        ("layers", ("layer1:",), ModelError, "not of the form teacher:student"),
        ("layers", (1,), ConfigError, "layers must be texts as 'layer1:layer1'"),
        ("layers", (("layer1",),), ConfigError, "layers must be texts as 'layer1:layer1'"),
        ("layers", (("layer1", "layer1", "x"),), ConfigError, "layers must be texts as 'layer1:layer1'"),
        ("recipe", "batch=3", UnknownNameError, "did you mean 'batch_size'"),
        ("recipe", "lr = 3", ConfigError, "lr is a trait of its own"),
        ("state", "finished", traitlets.TraitError, "read-only"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_changes(panel_of, trait, value, error, message):
    panel = panel_of()
    before = getattr(panel, trait)
    with pytest.raises(error, match=message) as caught:
        setattr(panel, trait, value)
    assert "\n" not in str(caught.value)
    assert getattr(panel, trait) == before


def test_of_several_traits_set_at_once_all_or_none_change(panel_of):
    panel = panel_of()
    with pytest.raises(ConfigError, match="epochs must be above 0"), panel.hold_trait_notifications():
        panel.seed, panel.method, panel.epochs = 7, "subdistill", 0
    assert (panel.seed, panel.method, panel.epochs) == (0, "kd", 3)
    with panel.hold_trait_notifications():
        panel.seed, panel.method = 7, "subdistill:layer_weight=100"
    assert (panel.seed, panel.method, panel._settings.method.value) == (7, "subdistill", "subdistill")


def test_the_controls_set_the_traits_and_follow_them(panel_of, tiny_pair):
    panel = panel_of()
    control = panel._settings
    control.offered.value = "subdistill"
    assert panel.method == control.method.value == "subdistill"
    assert list(control.options) == ["layer_weight", "kd_weight", "task_weight", "temperature", "dimension"]
    control.options["layer_weight"].value = 50
    control.options["dimension"].value = "full"
    assert panel.method == control.method.value == "subdistill:layer_weight=50,dimension=full"
    control.method.value = "kd + fitnet:kd_weight=0"
    assert panel.method == "kd+fitnet:kd_weight=0"
    assert (control.offered.value, control.options) == (None, {})
    names = [str(pair) for pair in tiny_pair.layers]
    assert [box.description for box in control.boxes.values()] == [
        f"{name} (k = {k} of {d})" for name, k, d in zip(names, (4, 6, 8, 8), (8, 12, 16, 16))
    ]
    control.boxes[names[1]].value = False
    assert panel.layers == (names[0], *names[2:])
    control.layers.value = "layer2, layer1.0:layer1.0"
    assert panel.layers == ("layer2:layer2", "layer1.0:layer1.0")
    assert [box.value for box in control.boxes.values()] == [False, True, False, False]
    control.boxes[names[0]].value = True
    assert panel.layers == (*names[:2], "layer1.0:layer1.0")
    control.epochs.value, control.seed.value, control.lr.value = 7, 2, 0.5
    assert (panel.epochs, panel.seed, panel.lr) == (7, 2, 0.5)
    panel.epochs = 9
    assert control.epochs.value == 9


def test_every_method_can_be_chosen(panel_of):
    panel = panel_of()
    for (_, text), name in zip(panel._settings.offered.options, METHODS, strict=True):
        panel._settings.offered.value = text
        assert panel.method.startswith(name)
        assert panel.error == ""


def test_what_a_control_may_not_ask_is_a_sentence_and_the_control_goes_back(panel_of):
    panel = panel_of(method="subdistill")
    control = panel._settings
    control.method.set_state({"value": "subdistil"})
    assert "did you mean 'subdistill'" in panel.error
    assert "did you mean" in panel._message.value
    assert control.method.value == panel.method == "subdistill"
    control.options["layer_weight"].set_state({"value": -3})
    assert "layer_weight must be at least 0" in panel.error
    assert control.options["layer_weight"].value == 100
    control.lr.set_state({"value": 0})
    assert "lr must be above 0" in panel.error
    assert control.lr.value == panel.lr == 1e-3
    control.layers.set_state({"value": "nowhere"})
    assert "unknown layer" in panel.error
    assert control.layers.value.startswith("layer1:layer1")
    control.seed.set_state({"value": 10**12})
    assert panel.seed == control.seed.value == 2**31 - 1
    for control_, wrong in ((control.offered, {"index": 99}), (control.epochs, {"value": "many"})):
        with pytest.raises(traitlets.TraitError):
            control_.set_state(wrong)
    assert (panel.method, panel.epochs) == ("subdistill", 3)
    panel.start()
    assert panel.error == ""


def test_what_training_refuses_is_a_sentence_and_the_panel_goes_on(panel_of):
    panel = panel_of(method="fitnet", layers=())
    panel._start.click()
    assert "needs at least one layer pair" in panel.error
    assert panel.state == "idle"
    assert not panel._start.disabled
    panel.method = "kd"
    panel._start.click()
    assert (panel.state, panel.error) == ("finished", "")


def test_an_explorer_shows_the_students(panel_of, tiny_pair, tiny_task):
    explorer = Explorer(tiny_pair, tiny_task.test.take([0, 1]))
    panel = panel_of(explorer=explorer, epochs=1)
    panel.start()
    assert panel.error == explorer.error == ""
    assert "kd/seed0" in explorer.students
    explorer.close()


def test_what_an_explorer_refuses_is_a_sentence(panel_of):
    class Full:
        def add_student(self, name, student):
            raise ConfigError("one is enough")

    panel = panel_of(explorer=Full(), epochs=1)
    panel.start()
    assert (panel.state, panel.error, list(panel.students)) == ("finished", "one is enough", ["kd/seed0"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["kd", "kdd"]}, "unknown method 'kdd'"),
        ({"every": -1}, "every must be at least 0, got -1"),
        ({"images": 0}, "must be at least 1, got 0"),
        ({"images": "all"}, "images must be"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        (
            {
                "images": ImageSet(
                    torch.zeros(1, 3, 12, 12, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), ("a",), ("0",)
                )
            },
            "'a'",
        ),
        ({"explorer": 3}, "int takes no students"),
        ({"epochs": 0}, "epochs must be above 0"),
    ],
)
def test_a_panel_that_cannot_be_is_refused(panel_of, arguments, message):
    with pytest.raises(XaibenchError, match=message):
        panel_of(**arguments)


def test_a_task_of_other_classes_is_refused(tiny_pair, tiny_task):
    swapped = tiny_pair.create(
        tiny_pair.student, tiny_pair.student, classes=("a", "b", "c"), preprocessing=tiny_pair.preprocessing
    )
    with pytest.raises(ModelError, match="build the pair with the task's classes"):
        TrainingPanel(swapped, tiny_task)


def test_offered_methods_are_those_given_and_the_first_is_chosen(tiny_pair, tiny_task):
    panel = TrainingPanel(tiny_pair, tiny_task, ["fitnet:layer_weight=3", "kd"])
    assert panel.method == "fitnet:layer_weight=3"
    assert panel._settings.offered.options == (("FitNet (layer_weight=3)", "fitnet:layer_weight=3"), ("KD", "kd"))
    panel.close()


def test_in_a_notebook_training_has_a_thread_of_its_own_and_can_be_cancelled(tiny_pair, tiny_task):
    async def main():
        panel = TrainingPanel(tiny_pair, tiny_task, method="subdistill", epochs=400, recipe=PLAIN, every=50, images=4)
        here, threads = threading.get_ident(), set()
        panel.observe(lambda change: threads.add(threading.get_ident()), "epoch")
        panel.start()
        assert (panel.state, panel._start.disabled, panel._stop.layout.display) == ("training", True, None)
        with pytest.raises(ConfigError, match="a training is under way"):
            panel.start()
        while panel.epoch < 2:
            await asyncio.sleep(0)  # the notebook is free
        panel._stop.click()
        assert panel._stop.disabled
        await asyncio.wait_for(panel.settled(), 60)
        assert (panel.state, panel.error, threads) == ("cancelled", "", {here})
        assert 2 <= panel.epoch == len(panel.history) < 400
        assert panel._stop.layout.display == "none"
        panel.epochs, panel.method = 2, "kd"
        panel.start()
        await asyncio.wait_for(panel.settled(), 60)
        assert (panel.state, list(panel.students)) == ("finished", ["kd/seed0"])
        panel.close()

    asyncio.run(main())


@pytest.mark.slow
def test_an_explorer_of_the_same_pair_at_work_changes_nothing(tiny_pair, tiny_task):
    async def main():
        explorer = Explorer(tiny_pair, tiny_task.test.take(range(8)))
        panel = TrainingPanel(tiny_pair, tiny_task, method="kd", epochs=5, recipe=PLAIN, every=2, device="cpu")
        panel.start()
        looked = 0
        while panel.state == "training":
            explorer.image = tiny_task.test.keys[looked % 8]
            explorer.explainer = ("lrp", "ig")[looked // 8 % 2]
            await asyncio.wait_for(explorer.settled(), 60)
            assert explorer.error == ""
            looked += 1
        assert looked > 1
        student = panel.students["kd/seed0"]
        panel.close()
        explorer.close()
        return student

    before = tiny_pair.hashes()
    alone = distill(tiny_pair, tiny_task, "kd", PLAIN, epochs=5, device="cpu").student
    assert state_hash(asyncio.run(main())) == state_hash(alone)
    assert tiny_pair.hashes() == before


def test_a_damaged_state_is_a_sentence_and_start_begins_anew(panel_of, tmp_path):
    panel = panel_of(folder=tmp_path, epochs=1)
    panel.start()
    (state,) = tmp_path.glob("*/resume.pt")
    state.write_bytes(b"damaged")
    panel._resume.click()
    assert re.search(r"cannot read .*resume.pt .*: delete it to train from the start", panel.error)
    assert panel.state == "idle"
    panel._start.click()
    assert (panel.state, panel.error) == ("finished", "")


def test_a_folder_that_cannot_be_is_a_sentence(panel_of, tmp_path):
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    panel = panel_of(folder=tmp_path / "file", epochs=1)
    panel._start.click()
    assert (panel.state, panel.students) == ("idle", {})
    assert re.search(r"cannot write to .*file.*: choose another folder", panel.error)


def test_closing_frees_everything_also_while_it_trains(tiny_pair, tiny_task):
    before = set(_instances)

    async def main():
        panel = TrainingPanel(tiny_pair, tiny_task, method="subdistill", epochs=400, recipe=PLAIN, every=0)
        folder = panel._folder
        panel.start()
        while panel.epoch < 1:
            await asyncio.sleep(0)
        panel.close()
        epoch = panel.epoch
        with panel.worker._one_at_a_time:  # the thread has ended
            assert not folder.exists()
        await asyncio.sleep(0.01)
        assert panel.epoch == epoch

    asyncio.run(main())
    assert set(_instances) == before


def test_curves_of_losses_below_zero_and_of_many_terms_are_drawn():
    terms = {f"layer{i}.block.with.a.long.name:another{i}": -1.0 - i for i in range(14)}
    row = {"epoch": 0, "lr": 1.0, "loss": -1.0, **terms, "validation_accuracy": 0.5, "validation_ce": 1.0, "seconds": 1}
    drawn = curves_html(pd.DataFrame([row, {**row, "epoch": 1}]), None)
    assert len(re.findall("<img ", drawn)) == 2
    assert "agreement" not in drawn
