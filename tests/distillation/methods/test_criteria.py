"""What every method's criterion keeps to: whose losses it mixes, what it reads, what it draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xaibench.distillation.criterion import Setting
from xaibench.distillation.methods import (
    AT,
    CRD,
    DIST,
    KD,
    METHODS,
    RKD,
    SPKD,
    VID,
    FitNet,
    Method,
    ReviewKD,
    SemCKD,
    SubDistill,
    VkD,
    parse_method,
)
from xaibench.models.layer_pairs import parse_layers
from xaibench.models.pair import ModelPair
from xaibench.subspace import LayerMoments

Evaluate = Callable[..., tuple[Tensor, dict[str, Tensor]]]


@pytest.mark.parametrize("text", sorted(set(METHODS) - {"crd", "dist", "rkd", "spkd", "semckd", "random-control"}))
def test_a_samples_loss_is_its_own_where_the_method_says_so(text: str, setting: Setting, evaluate: Evaluate) -> None:
    """In evaluation mode the others of a batch change nothing."""
    method = parse_method(text)
    criterion = method.build(setting).eval()
    assert criterion.coupling == ""
    pair = setting.pair
    pair.student.eval()
    want = evaluate(criterion, pair)[0]
    have = evaluate(criterion, pair, rows=(6, 1))[0]
    assert torch.allclose(have, want[[6, 1]], rtol=1e-3, atol=1e-5)


def test_methods_that_couple_samples_say_so(setting: Setting) -> None:
    for method in (SPKD(), RKD(), DIST(), SemCKD(), KD() + SPKD()):
        assert "compares the samples of a batch" in method.build(setting).coupling
    assert DIST(gamma=0).build(setting).coupling == ""
    assert "contrasts a sample with a memory" in CRD().build(setting).coupling


@pytest.mark.parametrize("cls", [FitNet, AT, VID, SPKD, RKD, VkD, ReviewKD, SubDistill])
def test_without_layer_weight_no_layer_is_read_and_no_moment_measured(
    cls: type[Method], setting: Setting, evaluate: Evaluate
) -> None:
    def refuse() -> dict[str, LayerMoments]:
        raise AssertionError("moments were measured")

    bare = dataclasses.replace(setting, measure=refuse)
    criterion = cls(layer_weight=0).build(bare)  # type: ignore[call-arg]
    assert criterion.teacher_layers == criterion.student_layers == ()
    assert list(criterion.parameters()) == []
    assert set(evaluate(criterion, setting.pair)[1]) == {"kd", "ce"}


@pytest.mark.parametrize(
    "text", ["subdistill", "subdistill:dimension=full", "fitnet", "vid", "vkd", "crd", "semckd", "reviewkd"]
)
def test_the_seed_decides_what_is_learned_and_global_randomness_is_left_alone(text: str, setting: Setting) -> None:
    state = torch.get_rng_state()
    builds = [parse_method(text).build(dataclasses.replace(setting, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (torch.cat([v.flatten() for v in c.state_dict().values()]) for c in builds)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_layers_may_differ_in_depth_and_size(setting: Setting, evaluate: Evaluate, tiny_pair: ModelPair) -> None:
    pair = dataclasses.replace(tiny_pair, layers=parse_layers(["layer3:layer1", "layer1:layer3"]))
    for method in (SubDistill(), AT(), FitNet(), VID(), SPKD(), RKD(), VkD(), CRD(), SemCKD(), ReviewKD()):
        criterion = method.build(dataclasses.replace(setting, pair=pair))
        assert torch.isfinite(evaluate(criterion, pair)[0]).all()


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
    assert setting.teacher_shapes["layer4"] == (16, 2, 2)
    assert setting.heads[0].weight.shape == (3, 16)  # type: ignore[union-attr]
    assert student.training is training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
