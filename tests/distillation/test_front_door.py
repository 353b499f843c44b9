"""What distill takes: texts, objects, fields of the recipe, devices; what it refuses, in one line."""

from __future__ import annotations

import dataclasses
import logging
import logging.handlers
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from xaibench.data.tasks import Task
from xaibench.distillation.devices import make_fabric
from xaibench.distillation.distill import distill
from xaibench.distillation.methods import KD, LabelSmoothing, method_name, parse_method
from xaibench.distillation.recipe import Recipe, parse_recipe, resolve_precision
from xaibench.errors import ConfigError, UnknownNameError, XaibenchError
from xaibench.models.checkpoints import state_hash
from xaibench.models.copies import untrained
from xaibench.models.pair import ModelPair


def test_texts_and_fields_train_what_objects_train(tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe) -> None:
    recipe = dataclasses.replace(tiny_recipe, epochs=1, lr=2e-3)
    objects = distill(tiny_pair, tiny_task, KD(temperature=2), recipe, device="cpu")
    text = "batch_size=16,padding=1,precision=32-true,lr=0.002"
    texts = distill(tiny_pair, tiny_task, "kd: temperature=2", text, device="cpu", epochs=1)
    assert texts.recipe == recipe
    assert state_hash(texts.student) == state_hash(objects.student)
    assert texts.pair.student is texts.student
    assert texts.pair.teacher is tiny_pair.teacher
    assert texts.pair.layers == tiny_pair.layers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": KD}, r"distill: method must be .*, got the class KD: write KD\(\)"),
        ({"method": "kdd"}, "unknown method 'kdd'"),
        ({"recipe": 3}, "recipe must be"),
        ({"epoch": 3}, "unknown option of a training 'epoch': did you mean 'epochs'"),
        ({"lr": "x"}, "lr must be a number, got 'x'"),
        ({"seed": -1}, "a seed must be between 0 and 2147483647, got -1"),
        ({"seed": 2**31}, "a seed must be between 0 and"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"device": "tpu9"}, "unknown device 'tpu9'"),
        ({"device": "mps"}, "device 'mps' has no float64, which checks need: write cpu, cuda or cuda:1"),
        ({"epochs": 10**9}, "epochs must be at most 1000000"),
        ({"lr": float("inf")}, "lr must be above 0 and finite"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"folder": 3}, "folder must be"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_one_line(
    arguments: dict[str, Any], message: str, tiny_pair: ModelPair, tiny_task: Task
) -> None:
    with pytest.raises(XaibenchError, match=message) as caught:
        distill(tiny_pair, tiny_task, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_there_is_said_to_be_missing(tiny_pair: ModelPair, tiny_task: Task) -> None:
    with pytest.raises(ConfigError, match=r"device 'cuda' is not there \(torch finds 0 GPUs\): write cpu"):
        distill(tiny_pair, tiny_task, "kd", device="cuda")
    with pytest.raises(ConfigError, match=r"accelerator 'cuda' \(torch finds none\): choose cpu, cuda or auto"):
        make_fabric(Recipe(), "cuda")


def test_a_fabric_is_made_without_notices_and_the_log_is_left_as_it_was() -> None:
    log, said = logging.getLogger("lightning_fabric"), logging.handlers.BufferingHandler(100)
    level = log.level
    log.addHandler(said)
    try:
        make_fabric(Recipe(precision="bf16-mixed"), "cpu")
        assert said.buffer == []
        Fabric(accelerator="cpu", precision="bf16-mixed")
        assert len(said.buffer) == 1  # what it would have said
    finally:
        log.removeHandler(said)
    assert log.level == level


def test_a_fabric_and_a_device_are_one_too_many(tiny_pair: ModelPair, tiny_task: Task) -> None:
    fabric = make_fabric(Recipe(precision="32-true"), "cpu")
    with pytest.raises(ConfigError, match="give device or fabric, not both"):
        distill(tiny_pair, tiny_task, "kd", device="cpu", fabric=fabric)


def test_equal_methods_have_one_repr_and_one_name() -> None:
    for same in (KD(temperature=2), KD(temperature=2.0), parse_method("kd: temperature = 2,alpha=0.9")):
        assert repr(same) == "KD(alpha=0.9, temperature=2.0, standardise=False)"
        assert method_name(same) == "kd:temperature=2"
        assert hash(same) == hash(KD(temperature=2.0))
    assert repr(LabelSmoothing(-0.0)) == repr(LabelSmoothing(0)) == "LabelSmoothing(epsilon=0.0)"
    assert repr(Recipe(lr=1)) == repr(Recipe(lr=1.0)) == repr(parse_recipe("lr=1"))
    with pytest.raises(ConfigError, match=r"KD\.temperature must be a number, got 'x'"):
        KD(temperature="x")  # type: ignore[arg-type]


def test_precision_is_that_of_the_chosen_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = resolve_precision("auto", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert resolve_precision("auto") == resolve_precision("auto", "cuda") == "16-mixed"
    assert resolve_precision("auto", "cpu") == on_cpu != "16-mixed"
    with pytest.raises(ConfigError, match="precision 16-mixed needs a GPU"):
        resolve_precision("16-mixed", "cpu")


def test_an_untrained_teacher_is_warned_about(
    tiny_pair: ModelPair, tiny_task: Task, tiny_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = untrained(tiny_pair.teacher, 3).eval()
    pair = dataclasses.replace(tiny_pair, teacher=fresh)

    def warnings(pair: ModelPair, method: str) -> list[str]:
        caplog.clear()
        distill(pair, tiny_task, method, tiny_recipe, device="cpu", epochs=1)
        return [record.message for record in caplog.records if record.levelno == logging.WARNING]

    (message,) = warnings(pair, "kd")
    assert "of 24 validation images, near chance (0.333)" in message
    assert not warnings(pair, "student-only")
    assert not warnings(tiny_pair, "kd")
    assert not warnings(tiny_pair, "untrained-teacher[kd]")


def test_unknown_fields_of_a_recipe_are_named() -> None:
    with pytest.raises(UnknownNameError, match="unknown option of recipe 'recipe' 'epoch'"):
        parse_recipe("epoch=3")
