from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric

from xaibench.data.tasks import Task
from xaibench.distill.criterion import Criterion, Setting
from xaibench.distill.distill import measure_moments
from xaibench.distill.losses.subdistill import CENTRINGS
from xaibench.distill.methods import KD, METHODS, Method, StudentOnly, SubDistill, method_name, parse_method
from xaibench.distill.recipe import Recipe, resolve_precision
from xaibench.errors import ConfigError, UnknownNameError, XaibenchError
from xaibench.models.pair import ModelPair, forward_with_layers, parse_layers
from xaibench.subspace import BASES, LayerMoments


@pytest.fixture(scope="module")
def moments(make_pair, tiny_task: Task, tiny_fabric: Fabric) -> dict[str, LayerMoments]:  # type: ignore[no-untyped-def]
    return measure_moments(make_pair(), tiny_task.train, tiny_fabric)


@pytest.fixture
def setting(tiny_pair: ModelPair, tiny_task: Task, moments: dict[str, LayerMoments]) -> Setting:
    return Setting(tiny_pair, tiny_pair.preprocessing(tiny_task.train.images[:2]), lambda: moments, seed=3)


weights = st.floats(0, 1e4)
methods = st.one_of(
    st.just(StudentOnly()),
    st.builds(KD, alpha=st.floats(0, 1), temperature=st.floats(0.01, 100)),
    st.builds(
        SubDistill,
        layer_weight=weights,
        kd_weight=weights,
        task_weight=weights,
        temperature=st.floats(0.01, 100),
        basis=st.sampled_from(sorted(BASES)),
        centring=st.sampled_from(CENTRINGS),
        beta=st.floats(0, 10),
    ),
)


@settings(deadline=None, max_examples=25)
@given(method=methods)
def test_text_and_repr_give_the_method_back(method: Method) -> None:
    assert parse_method(method_name(method)) == method
    assert eval(repr(method)) == method


def test_names_are_short() -> None:
    assert sorted(METHODS) == ["kd", "student-only", "subdistill"]
    assert method_name(SubDistill()) == "subdistill"
    assert parse_method("subdistill: centring=mean, layer_weight=50") == SubDistill(centring="mean", layer_weight=50.0)
    assert method_name(SubDistill(centring="mean")) == "subdistill:centring=mean"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("subdistil", UnknownNameError, "unknown method 'subdistil': did you mean 'subdistill'"),
        ("subdistill:basis=prca_pos", UnknownNameError, "unknown basis 'prca_pos': did you mean 'prcaposdef'|'prca"),
        ("subdistill:centring=peer", UnknownNameError, "unknown centring 'peer': did you mean 'peer_bn'"),
        ("subdistill:temperature=0", ConfigError, r"temperature must be above 0, got 0\.0"),
        ("subdistill:beta=-1", ConfigError, "beta must be at least 0, got -1"),
        ("kd:temperature=-2", ConfigError, r"temperature must be above 0, got -2\.0"),
        ("kd:temperature=nan", ConfigError, "temperature must be above 0, got nan"),
        ("kd:alpha=1.5", ConfigError, r"alpha must be between 0 and 1, got 1\.5"),
        ("student-only:alpha=1", ConfigError, "takes no options"),
    ],
)
def test_impossible_methods_are_refused(text: str, error: type[XaibenchError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        parse_method(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (SubDistill(layer_weight=-1), r"loss weights must be at least 0, got layer1:layer1=-1, layer2:layer2=-1"),
        (SubDistill(kd_weight=float("nan")), "loss weights must be at least 0, got kd=nan"),
        (SubDistill(0, 0, 0), "all loss weights are 0 .*: nothing would be learned"),
    ],
)
def test_impossible_weights_are_refused(setting: Setting, method: SubDistill, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method.build(setting)


def test_a_student_wider_than_the_teacher_is_refused(make_pair, setting: Setting) -> None:  # type: ignore[no-untyped-def]
    wide = dataclasses.replace(setting, pair=make_pair(widths="4-13-8-8@4"))
    with pytest.raises(ConfigError, match="a subspace of 13 dimensions does not fit into 12 teacher channels: choose"):
        SubDistill().build(wide)


def test_subdistill_without_layers_is_refused(tiny_pair: ModelPair, setting: Setting) -> None:
    bare = dataclasses.replace(setting, pair=dataclasses.replace(tiny_pair, layers=()))
    with pytest.raises(ConfigError, match="needs at least one layer pair: give layers"):
        SubDistill().build(bare)


def losses(criterion: Criterion, pair: ModelPair, task: Task) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    x, labels = pair.preprocessing(task.train.images[:8]), task.train.labels[:8]
    summary = {}
    if criterion.needs_teacher:
        summary = criterion.summarise(forward_with_layers(pair.teacher, x, criterion.teacher_layers))
    with torch.no_grad():
        student = forward_with_layers(pair.student, x, criterion.student_layers)
        total, terms = criterion(student, summary, labels, 0)
    return total, terms


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        (StudentOnly(), {"ce": 1.0}),
        (KD(), {"kd": 0.9, "ce": 0.1}),
        (KD(alpha=1), {"kd": 1.0}),
        (SubDistill(), {"kd": 1.0} | {f"layer{i}:layer{i}": 100.0 for i in (1, 2, 3, 4)}),
        (
            SubDistill(layer_weight=2, kd_weight=0, task_weight=0.5),
            {"ce": 0.5} | {f"layer{i}:layer{i}": 2.0 for i in (1, 2, 3, 4)},
        ),
    ],
)
def test_the_total_is_the_weighted_sum_of_the_terms(
    method: Method, weights: dict[str, float], setting: Setting, tiny_task: Task
) -> None:
    criterion = method.build(setting)
    assert criterion.weights == pytest.approx(weights)
    total, terms = losses(criterion, setting.pair, tiny_task)
    assert total.shape == (8,)
    want = sum(weight * terms[name] for name, weight in weights.items())
    assert torch.allclose(total, want)  # type: ignore[arg-type]


def test_without_layer_weight_no_layer_is_read_and_no_moment_measured(setting: Setting, tiny_task: Task) -> None:
    def refuse() -> dict[str, LayerMoments]:
        raise AssertionError("moments were measured")

    criterion = SubDistill(layer_weight=0).build(dataclasses.replace(setting, measure=refuse))
    assert criterion.teacher_layers == criterion.student_layers == ()
    assert list(criterion.parameters()) == []
    assert set(losses(criterion, setting.pair, tiny_task)[1]) == {"kd", "ce"}


def test_the_seed_decides_the_rotations_and_global_randomness_is_left_alone(setting: Setting) -> None:
    state = torch.get_rng_state()
    builds = [SubDistill().build(dataclasses.replace(setting, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = ([head.rotation.weight for head in c.heads] for c in builds)  # type: ignore[union-attr]
    assert all(torch.equal(a, b) for a, b in zip(first, same))
    assert not any(torch.equal(a, b) for a, b in zip(first, other))


def test_layers_may_differ_in_depth_and_size(setting: Setting, tiny_task: Task) -> None:
    pair = dataclasses.replace(setting.pair, layers=parse_layers(["layer3:layer1", "layer1:layer3"]))
    criterion = SubDistill().build(dataclasses.replace(setting, pair=pair))
    summary = criterion.summarise(forward_with_layers(pair.teacher, setting.sample, criterion.teacher_layers))
    assert summary["layer3:layer1"].shape == (2, 4, 3, 3)  # the teacher's is the smaller
    assert summary["layer1:layer3"].shape == (2, 8, 3, 3)  # the student's is the smaller
    assert torch.isfinite(losses(criterion, pair, tiny_task)[0]).all()


def test_a_teacher_as_its_own_student_has_no_kd_loss(setting: Setting, tiny_task: Task) -> None:
    pair = setting.pair.with_student(setting.pair.teacher)
    assert losses(KD(alpha=1).build(setting), pair, tiny_task)[0].abs().max() < 1e-6


@pytest.mark.parametrize("training", [True, False])
def test_looking_at_shapes_leaves_the_student_as_it_was(setting: Setting, training: bool) -> None:
    student = setting.pair.student.train(training)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert setting.student_shapes == {
        "layer1": (4, 12, 12),
        "layer2": (6, 6, 6),
        "layer3": (8, 3, 3),
        "layer4": (8, 2, 2),
    }
    assert student.training is training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ConfigError, "epochs must be above 0, got 0"),
        ({"lr": float("nan")}, ConfigError, "lr must be above 0, got nan"),
        ({"weight_decay": -1.0}, ConfigError, "weight_decay must be at least 0"),
        ({"views": -1}, ConfigError, "views must be at least 0"),
        ({"batch_size": 1}, ConfigError, "batch_size must be at least 2"),
        ({"schedule": "cosin"}, UnknownNameError, "unknown schedule 'cosin': did you mean 'cosine'"),
        ({"augment": "flip"}, UnknownNameError, "unknown augment 'flip': did you mean 'crop-flip'"),
        ({"precision": "bf16"}, UnknownNameError, "unknown precision 'bf16': did you mean 'bf16-mixed'"),
    ],
)
def test_impossible_recipes_are_refused(options: dict[str, object], error: type[XaibenchError], message: str) -> None:
    with pytest.raises(error, match=message):
        Recipe(**options)  # type: ignore[arg-type]


def test_views_say_which_pixels_an_epoch_shows() -> None:
    fresh, two, still = Recipe(), Recipe(views=2), Recipe(augment="none", views=5)
    assert (fresh.cached_views, two.cached_views, still.cached_views) == (0, 2, 1)
    assert [fresh.view(e) for e in range(4)] == [0, 1, 2, 3]
    assert [two.view(e) for e in range(4)] == [0, 1, 0, 1]
    assert [still.view(e) for e in range(4)] == [0, 0, 0, 0]
    assert Recipe(views=9, epochs=3).cached_views == 3
    assert resolve_precision("32-true") == "32-true"
    assert resolve_precision("auto") in ("32-true", "bf16-mixed", "16-mixed")
