from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xaibench.data.images import Preprocessing
from xaibench.errors import DataError, ModelError, UnknownNameError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import state_hash
from xaibench.models.class_slice import ClassSlice, class_indices
from xaibench.models.layer_outputs import forward_with_layers
from xaibench.models.layer_pairs import LayerPair, parse_layers
from xaibench.models.pair import ModelPair

ABC = ("a", "b", "c")
PREPROCESSING = Preprocessing((0.5,) * 3, (0.25,) * 3, (12, 12))


@pytest.fixture
def teacher() -> nn.Module:
    return build_model("resnet18-cifar:6-6-6-6@4", 5)


@pytest.fixture
def student() -> nn.Module:
    return build_model("resnet18-cifar:4-4-4-4@4", 3, seed=1)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def create(teacher: nn.Module, student: nn.Module, **options: object) -> ModelPair:
    options = {"classes": ("d", "a", "b"), "teacher_classes": tuple("abcde"), "preprocessing": PREPROCESSING} | options
    return ModelPair.create(teacher, student, **options)  # type: ignore[arg-type]


def describe(model: nn.Module) -> tuple[object, ...]:
    """Everything that a pair must not change in a model that is given to it."""
    flags = [(name, p.requires_grad, p.grad is None) for name, p in model.named_parameters()]
    modes = [(name, m.training, getattr(m, "inplace", None)) for name, m in model.named_modules()]
    return state_hash(model), flags, modes, [len(m._forward_hooks) for m in model.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_the_given_modules_are_left_as_they_were(teacher: nn.Module, student: nn.Module, training: bool) -> None:
    teacher.train(training)
    student.train(training)
    teacher.fc.weight.requires_grad_(False)  # type: ignore[union-attr]
    before = describe(teacher), describe(student)
    pair = create(teacher, student)
    with torch.no_grad():
        for parameter in [*pair.teacher.parameters(), *pair.student.parameters()]:
            parameter.add_(1)
    assert (describe(teacher), describe(student)) == before
    with pytest.raises(ModelError):
        create(teacher, student, preprocessing=Preprocessing((0.5,), (0.5,), (12, 12)))
    assert (describe(teacher), describe(student)) == before


def test_the_teacher_is_frozen_and_its_logits_are_sliced(teacher: nn.Module, student: nn.Module, x: Tensor) -> None:
    pair = create(teacher.train(), student.train())
    assert not pair.teacher.training
    assert not any(p.requires_grad for p in pair.teacher.parameters())
    assert pair.student.training
    assert all(p.requires_grad for p in pair.student.parameters())
    expected = teacher.eval()(x)
    assert torch.equal(pair.teacher(x), torch.stack([expected[:, i] for i in (3, 0, 1)], dim=1))
    assert isinstance(pair.teacher, ClassSlice)
    assert pair.teacher_network is pair.teacher.network


def test_equal_classes_need_no_slice(teacher: nn.Module, x: Tensor) -> None:
    pair = create(teacher, build_model("resnet18-cifar:4-4-4-4@4", 5), classes=tuple("abcde"))
    assert not isinstance(pair.teacher, ClassSlice)
    assert torch.equal(pair.teacher(x), teacher.eval()(x))


def test_slices_select_in_the_order_given() -> None:
    net = ClassSlice(nn.Identity(), (2, 0))
    assert net(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[3.0, 1.0]]
    assert class_indices(ABC, ("c", "a")) == (2, 0)
    assert net.state_dict() == {}


def test_an_unknown_class_gets_a_suggestion(teacher: nn.Module, student: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match="unknown class of the teacher 'shrit': did you mean 'shirt'"):
        class_indices(("shirt", "coat"), ("shrit", "coat"))
    with pytest.raises(UnknownNameError, match="unknown class of the teacher 'z'"):
        create(teacher, student, classes=("a", "b", "z"))


def test_layers_are_read_through_the_slice(teacher: nn.Module, student: nn.Module, x: Tensor) -> None:
    pair = create(teacher, student)
    with torch.no_grad():
        outputs = forward_with_layers(pair.teacher, x, ("layer4", "layer1"))
        expected = outputs.layers["layer4"].mean((2, 3)) @ pair.teacher_network.fc.weight.T  # type: ignore[union-attr]
    assert outputs.layers["layer1"].shape == (3, 6, 12, 12)
    assert torch.allclose(outputs.logits, (expected + pair.teacher_network.fc.bias)[:, [3, 0, 1]], atol=1e-5)  # type: ignore[union-attr]


def test_a_read_layer_is_not_overwritten_by_an_activation_behind_it(
    teacher: nn.Module, student: nn.Module, x: Tensor
) -> None:
    pair = create(teacher, student)
    with torch.no_grad():
        outputs = forward_with_layers(pair.teacher, x, ("bn1",))
    assert outputs.layers["bn1"].min() < 0


@pytest.mark.parametrize("size", [(12, 12), None])
@pytest.mark.parametrize("layers", ["auto", None])
def test_layers_are_suggested(teacher: nn.Module, student: nn.Module, layers: str | None, size: object) -> None:
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, size)  # type: ignore[arg-type]
    pair = create(teacher, student, layers=layers, preprocessing=preprocessing)
    assert pair.layers == tuple(LayerPair(f"layer{i}", f"layer{i}") for i in (1, 2, 3, 4))
    assert "layers=[layer1:layer1, " in repr(pair)
    assert "\n" not in repr(pair)


def test_the_shapes_of_the_pairs(teacher: nn.Module, student: nn.Module) -> None:
    student.train()
    pair = create(teacher, student, layers=parse_layers(["layer2:layer1", "layer4"]))
    before = state_hash(pair.student)
    assert pair.layer_shapes((12, 12)) == {
        LayerPair("layer2", "layer1"): ((6, 6, 6), (4, 12, 12)),
        LayerPair("layer4", "layer4"): ((6, 2, 2), (4, 2, 2)),
    }
    assert pair.student.training
    assert state_hash(pair.student) == before
    with pytest.raises(DataError, match=r"size must be .* got \(0, 4\)"):
        pair.layer_shapes((0, 4))


@pytest.mark.parametrize(
    "layers", [["layer1"], "layer1", ("layer1:layer1",), [("layer1", "layer1")], LayerPair("layer1", "layer1")]
)
def test_layers_may_be_given_by_name(teacher: nn.Module, student: nn.Module, layers: object) -> None:
    assert create(teacher, student, layers=layers).layers == (LayerPair("layer1", "layer1"),)


def test_an_unknown_layer_gets_a_suggestion(teacher: nn.Module, student: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match="'layr2': did you mean 'layer2'"):
        create(teacher, student, layers=parse_layers(["layr2:layer2"]))
    with pytest.raises(UnknownNameError, match="'layer9': did you mean 'layer"):
        create(teacher, student, layers=parse_layers(["layer2:layer9"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("a", "a", "b")}, "is there twice: give each of the classes once"),
        ({"classes": ("a",)}, "at least 2 classes"),
        ({"classes": ("a", "b")}, "the student has 3 logits but there are 2 classes: give it 2 outputs"),
        (
            {"classes": ABC, "teacher_classes": None},
            "the teacher has 5 logits but there are 3 classes: give the list of all",
        ),
        ({"teacher_classes": tuple("abcd")}, "the teacher has 5 logits but there are 4 classes"),
        ({"classes": "abd"}, r"classes must be Sequence\[str\], got 'abd'"),
        ({"classes": (0, 1, 2)}, r"classes must be .* got \(0, 1, 2\) \(tuple\), where item 0 is 0"),
        ({"teacher_classes": "abcde"}, "teacher_classes must be .* got 'abcde'"),
        (
            {"layers": [("layer1", "layer1", "layer1")]},
            r"layers must be .*, where item 0 is \('layer1', 'layer1', 'layer1'\)",
        ),
        ({"layers": [1]}, "layers must be .*, where item 0 is 1"),
        ({"layers": parse_layers(["fc"])}, r"layer pair fc:fc has outputs of shape \(5,\) and \(3,\), but maps"),
        ({"preprocessing": Preprocessing((0.5,), (0.5,), (12, 12))}, "cannot process 12x12 images with 1 channels"),
    ],
)
def test_what_does_not_fit_is_refused(
    teacher: nn.Module, student: nn.Module, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        create(teacher, student, **options)
    assert "\n" not in str(caught.value)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).mean((2, 3))


def test_a_layer_that_does_not_run_is_refused(student: nn.Module) -> None:
    with pytest.raises(ModelError, match="layer 'spare' takes no part in the forward pass"):
        create(Unused(), student, classes=ABC, teacher_classes=ABC, layers=parse_layers(["spare:layer1"]))


@pytest.mark.parametrize(
    ("teacher", "student", "side", "layers"),
    [
        (
            "resnet18",
            "timm/mobilenetv4_conv_small",
            64,
            "layer1:blocks.0, layer2:blocks.1, layer3:blocks.2, layer4:blocks.3",
        ),
        (
            "vit_b_16",
            "timm/efficientformerv2_s0",
            224,
            ", ".join(f"encoder.layers.encoder_layer_{block}:stages.{i}" for i, block in enumerate((2, 5, 8, 11))),
        ),
    ],
)
def test_pairs_of_unlike_architectures(teacher: str, student: str, side: int, layers: str) -> None:
    """Teacher and student give maps at every pair, and none is overwritten by what follows it."""
    models = build_model(teacher, 5), build_model(student, 3)
    pair = create(*models, preprocessing=Preprocessing((0.5,) * 3, (0.25,) * 3, (side, side)))
    assert ", ".join(map(str, pair.layers)) == layers
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    own: dict[str, Tensor] = {}
    for name in pair.student_layers:
        pair.student.get_submodule(name).register_forward_hook(
            lambda _m, _x, y, name=name: own.__setitem__(name, y.detach().clone())
        )
    outputs = forward_with_layers(pair.student, x, pair.student_layers)
    loss = outputs.logits.square().sum() + sum(value.square().mean() for value in outputs.layers.values())
    loss.backward()
    assert all(torch.equal(value, own[name]) for name, value in outputs.layers.items())
    for (t, s), (a, b) in pair.layer_shapes((side, side)).items():
        assert len(a) == len(b) == 3, (t, s)
        assert a[0] >= b[0]
        assert a[1] == a[2]


class Asserting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] == 99
        return self.net(x).mean((2, 3))


def test_an_image_size_that_a_model_asserts_is_explained(student: nn.Module) -> None:
    for layers in (None, parse_layers(["net:layer1"])):
        with pytest.raises(ModelError, match=r"cannot process 12x12 images with 3 channels \(.+\): choose"):
            create(Asserting(), student, classes=ABC, teacher_classes=ABC, layers=layers)


class Overwriting(nn.Module):
    """Adds what its activation has overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return (self.b(self.relu(h)) + h).mean((2, 3))


def test_activations_in_place_stay_and_spoil_no_layer(teacher: nn.Module, x: Tensor) -> None:
    net = Overwriting()
    pair = create(net, net, classes=ABC, teacher_classes=ABC, layers=parse_layers(["a:a"]))
    for model in (pair.teacher, pair.student, pair.with_student(net).student):
        outputs = forward_with_layers(model, x, ("a",))
        assert torch.equal(outputs.logits, net(x))
        assert outputs.layers["a"].min() < 0


def test_with_student_keeps_the_rest_and_the_hashes_tell(teacher: nn.Module, student: nn.Module) -> None:
    pair = create(teacher, student)
    other = pair.with_student(build_model("resnet18-cifar:4-4-4-4@4", 3, seed=2))
    assert other.teacher is pair.teacher
    assert other.layers == pair.layers
    assert other.hashes()["teacher"] == pair.hashes()["teacher"]
    assert other.hashes()["student"] != pair.hashes()["student"]
