from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xaibench.errors import ModelError
from xaibench.models.architectures import build_model
from xaibench.models.class_slice import ClassSlice
from xaibench.models.layer_pairs import LayerPair, parse_layers, suggest_layers

Make = Callable[..., Tensor]


def texts(pairs: tuple[LayerPair, ...]) -> list[str]:
    return [str(pair) for pair in pairs]


def test_layer_specs() -> None:
    assert parse_layers(["layer1:blocks.0", "layer2"]) == (
        LayerPair("layer1", "blocks.0"),
        LayerPair("layer2", "layer2"),
    )
    for bad in (":layer1", "layer1:"):
        with pytest.raises(ModelError, match=f"layer pair '{bad}' is not of the form teacher:student"):
            parse_layers([bad])


@pytest.mark.parametrize(
    ("teacher", "student", "side"),
    [
        ("resnet18-cifar:6-8-10-12@4", "resnet18-cifar:4-4-4-4@4", 12),
        ("resnet18:8-8-8-8@8", "resnet18:4-4-4-4@4", 64),
        ("resnet18:8-16-32-64@8", "resnet18-cifar:4-4-4-4@4", 32),
        ("timm/resnet18", "resnet18-cifar:4-4-4-4@4", 32),
    ],
)
def test_resnets_are_paired_stage_by_stage(teacher: str, student: str, side: int, noise: Make) -> None:
    models = build_model(teacher, 5), build_model(student, 3)
    assert texts(suggest_layers(*models, noise(2, 3, side, side))) == [f"layer{i}:layer{i}" for i in (1, 2, 3, 4)]


def test_a_slice_around_the_teacher_changes_nothing(noise: Make) -> None:
    teacher, student = (build_model("resnet18-cifar:4-4-4-4@4", 3) for _ in range(2))
    x = noise(1, 3, 12, 12)
    assert suggest_layers(ClassSlice(teacher, (0, 2)), student, x) == suggest_layers(teacher, student, x)


@pytest.mark.parametrize("side", [32, 64])
def test_a_mobilenet_student_gives_its_stages_without_the_expansion_before_the_classifier(
    side: int, noise: Make
) -> None:
    models = build_model("resnet50", 5), build_model("timm/mobilenetv4_conv_small", 3)
    assert texts(suggest_layers(*models, noise(1, 3, side, side))) == [
        "layer1:blocks.0",
        "layer2:blocks.1",
        "layer3:blocks.2",
        "layer4:blocks.3",
    ]


def test_a_vit_teacher_is_cut_into_as_many_parts_as_the_student_has_stages(
    tiny_vit: Callable[..., nn.Module], noise: Make
) -> None:
    student = build_model("resnet18-cifar:4-4-8-8@4", 3)
    pairs = suggest_layers(tiny_vit(12), student, noise(1, 3, 16, 16))
    assert texts(pairs) == [
        f"encoder.layers.encoder_layer_{block}:layer{stage}" for block, stage in ((2, 1), (5, 2), (8, 3), (11, 4))
    ]
    three = suggest_layers(tiny_vit(3), student, noise(1, 3, 16, 16))
    assert texts(three) == [f"encoder.layers.encoder_layer_{i}:layer{i + 2}" for i in range(3)]


def test_two_vits_share_four_blocks(tiny_vit: Callable[..., nn.Module], noise: Make) -> None:
    pairs = suggest_layers(tiny_vit(8), tiny_vit(4), noise(1, 3, 16, 16))
    layer = "encoder.layers.encoder_layer_"
    assert texts(pairs) == [f"{layer}{t}:{layer}{s}" for t, s in ((1, 0), (3, 1), (5, 2), (7, 3))]


@pytest.mark.parametrize(
    ("name", "side", "layers"),
    [
        ("timm/tf_efficientnet_lite0", 64, ["blocks.1", "blocks.2", "blocks.4", "blocks.6"]),
        ("mobilenet_v2", 64, ["features.3", "features.6", "features.13", "features.17"]),
        ("swin_t", 64, ["features.1", "features.3", "features.5", "features.7"]),
        ("densenet121", 64, [f"features.denseblock{i}" for i in (1, 2, 3, 4)]),
    ],
)
def test_stages_of_other_architectures(name: str, side: int, layers: list[str], noise: Make) -> None:
    """Paired with itself, a model shows its stages."""
    model = build_model(name, 3)
    assert texts(suggest_layers(model, model, noise(1, 3, side, side))) == [f"{layer}:{layer}" for layer in layers]


class Stages(nn.Sequential):
    """Three stages of two convolutions each, with these channels."""

    def __init__(self, *channels: int) -> None:
        blocks: list[nn.Module] = []
        for i, (inner, outer) in enumerate(zip((3, *channels), channels)):
            blocks.append(nn.Conv2d(inner, outer, 3, stride=2 - i % 2, padding=1))
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 3))


def test_a_student_layer_has_no_more_channels_than_the_teachers(noise: Make, caplog: pytest.LogCaptureFixture) -> None:
    teacher, student = Stages(4, 4, 8, 8, 8, 8), Stages(4, 6, 9, 9, 8, 10)
    assert texts(suggest_layers(teacher, student, noise(1, 3, 16, 16))) == ["1:0", "5:4"]
    assert caplog.messages == ["teacher layer 3 with 8 channels is left unpaired: student layer 3 has 9"]
    assert suggest_layers(Stages(4, 4), Stages(9, 9), noise(1, 3, 16, 16)) == ()


def test_models_without_maps_have_nothing_to_pair(noise: Make) -> None:
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 3))
    x = noise(2, 3, 4, 4)
    assert suggest_layers(mlp, mlp, x) == ()
    assert suggest_layers(Stages(4, 4), mlp, x) == ()
    assert suggest_layers(mlp, Stages(4, 4), x) == ()


def test_the_models_are_left_as_they_were(noise: Make, footprint: Callable[[nn.Module], object]) -> None:
    student = build_model("resnet18-cifar:4-4-4-4@4", 3).train()
    student.layer1.eval()  # type: ignore[union-attr]
    before, state = footprint(student), torch.get_rng_state()
    suggest_layers(student, student, noise(1, 3, 12, 12))
    with pytest.raises(RuntimeError):
        suggest_layers(student, student, noise(1, 4, 12, 12))
    assert footprint(student) == before
    assert torch.equal(torch.get_rng_state(), state)
