"""Methods combined with a pair that they cannot serve."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xaibench.distillation.criterion import Batch, Criterion, Setting
from xaibench.distillation.methods import METHODS, parse_method
from xaibench.errors import ConfigError, ModelError, XaibenchError
from xaibench.models.layer_outputs import Outputs
from xaibench.models.layer_pairs import parse_layers
from xaibench.models.pair import ModelPair


class Flat(nn.Sequential):
    """A classifier that reads its last map place by place, as VGG does."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3))


class Deep(nn.Sequential):
    """Global average pooling and two linear layers."""

    def __init__(self) -> None:
        pooling = nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        super().__init__(*pooling, nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def with_student(setting: Setting, student: nn.Module, *layers: str) -> Setting:
    pair = dataclasses.replace(setting.pair, student=student.eval(), layers=parse_layers(layers))
    return dataclasses.replace(setting, pair=pair)


@pytest.mark.parametrize("text", ["sd-kd", "sd-dkd", "sd-nkd", "icd", "e2kd", "kd+icd", "influence[sd-kd]"])
def test_a_head_without_global_pooling_is_refused(text: str, setting: Setting) -> None:
    with pytest.raises(ModelError, match=r"Flat has no global average pooling followed by a linear head .*: use") as e:
        parse_method(text).build(with_student(setting, Flat()))
    assert "\n" not in str(e.value)


def test_e2kd_needs_a_single_linear_layer_where_local_logits_do_not(
    setting: Setting, evaluate: Callable[..., tuple[Tensor, dict[str, Tensor]]]
) -> None:
    deep = with_student(setting, Deep())
    with pytest.raises(ModelError, match="single linear layer behind the student's global pooling: use another method"):
        parse_method("e2kd").build(deep)
    criterion = parse_method("icd").build(deep)
    assert torch.isfinite(evaluate(criterion, deep.pair)[0]).all()


@pytest.mark.parametrize(
    "text", ["fitnet", "at", "vid", "spkd", "rkd", "vkd", "crd", "semckd", "reviewkd", "subdistill"]
)
def test_a_pair_without_layers_is_refused(text: str, setting: Setting) -> None:
    bare = dataclasses.replace(setting, pair=dataclasses.replace(setting.pair, layers=()))
    with pytest.raises(ConfigError, match="needs at least one layer pair: give layers"):
        parse_method(text).build(bare)


@pytest.mark.parametrize("text", ["fitnet", "at", "vid", "spkd", "rkd", "vkd", "reviewkd", "subdistill"])
def test_a_layer_of_no_pair_is_refused(text: str, setting: Setting) -> None:
    with pytest.raises(ConfigError, match=r"'layer9' is no student layer of a pair: choose from layer1, .*, or last"):
        parse_method(f"{text}:layers=layer1+layer9").build(setting)


def test_a_student_wider_than_the_teacher_is_refused_where_it_cannot_be_embedded(
    setting: Setting, make_pair: Callable[..., ModelPair]
) -> None:
    pair = dataclasses.replace(make_pair(widths="4-6-8-17@4"), layers=parse_layers(["layer4"]))
    wide = dataclasses.replace(setting, pair=pair)
    with pytest.raises(ModelError, match="student channels as teacher channels, got 17 for 16: pair other layers"):
        parse_method("vkd").build(wide)
    with pytest.raises(ConfigError, match="a subspace of 17 dimensions does not fit into 16 teacher channels: choose"):
        parse_method("subdistill").build(wide)
    with pytest.raises(ConfigError, match="17 student channels do not fit into 16 directions"):
        parse_method("subdistill:dimension=full").build(wide)
    for text in ("fitnet", "vid", "at", "semckd", "crd", "reviewkd"):
        parse_method(text).build(wide)


def test_training_images_of_one_class_cannot_be_contrasted(setting: Setting, evaluate) -> None:  # type: ignore[no-untyped-def]
    criterion = parse_method("crd").build(dataclasses.replace(setting, labels=torch.zeros(48, dtype=torch.long)))
    with pytest.raises(ConfigError, match="contrasts classes but all training images have one label: train on several"):
        evaluate(criterion, setting.pair)


def test_a_batch_larger_than_semckd_was_made_for_is_refused(setting: Setting, evaluate) -> None:  # type: ignore[no-untyped-def]
    criterion = parse_method("semckd").build(dataclasses.replace(setting, batch_size=4))
    with pytest.raises(ConfigError, match="made for batches of at most 4 samples, got 8"):
        evaluate(criterion, setting.pair)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"student-only", "label-smoothing", "siddo", "disdo"}))
def test_a_summary_of_another_batch_is_refused(name: str, setting: Setting, evaluate) -> None:  # type: ignore[no-untyped-def]
    if name == "random-control":
        name = "random-control[kd]"
    criterion: Criterion = parse_method(name).build(setting)
    seen: list[dict[str, Tensor]] = []
    original = criterion.summarise
    criterion.summarise = lambda teacher: seen.append(original(teacher)) or seen[0]  # type: ignore[method-assign]
    evaluate(criterion, setting.pair)
    shorter = {key: value[:5] for key, value in seen[0].items()}
    with pytest.raises(XaibenchError, match=r"must agree|must both give|needs the same samples"):
        evaluate(criterion, setting.pair, summary=shorter)


def test_weights_below_zero_are_refused_by_every_criterion() -> None:
    with pytest.raises(ConfigError, match="loss weights must be at least 0, got kd=-1, ce=nan"):
        Criterion({"kd": -1, "at": 2, "ce": float("nan")})
    with pytest.raises(ConfigError, match=r"all loss weights are 0 \(kd, ce\): nothing would be learned"):
        Criterion({"kd": 0, "ce": 0})
    with pytest.raises(TypeError, match="Criterion defines no terms"):
        Criterion({"kd": 1})(Outputs(torch.zeros(1, 2), {}), {}, Batch(torch.zeros(1), torch.zeros(1), 0))
