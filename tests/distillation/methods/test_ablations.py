"""SubDistill with one of its parts left out or replaced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xaibench.distillation.criterion import Setting
from xaibench.distillation.losses.subdistill import CENTRINGS
from xaibench.distillation.methods import SubDistill
from xaibench.subspace import BASES, make_basis

Evaluate = Callable[..., tuple[Tensor, dict[str, Tensor]]]
ONLY = SubDistill(kd_weight=0)


def vary(**options: object) -> SubDistill:
    return dataclasses.replace(ONLY, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("basis", sorted(BASES)),
        ("centring", CENTRINGS),
        ("normalise", (True, False)),
        ("dimension", ("student", "full")),
    ],
)
def test_each_choice_gives_another_loss(
    field: str, values: tuple[object, ...], setting: Setting, evaluate: Evaluate
) -> None:
    totals = set()
    for value in values:
        criterion = vary(**{field: value}).build(setting)
        modes = (evaluate(criterion.train(training), setting.pair)[0] for training in (True, False))
        totals.add(tuple(round(loss.mean().item(), 3) for loss in modes))
    assert len(totals) == len(values)


@pytest.mark.parametrize("dimension", ["student", "full"])
def test_without_normalisation_each_layer_counts_by_its_teachers_energy(
    dimension: str, setting: Setting, evaluate: Evaluate
) -> None:
    with_, without = (
        evaluate(vary(dimension=dimension, normalise=flag).build(setting), setting.pair)[1] for flag in (True, False)
    )
    for pair in setting.pair.layers:
        moments = setting.moments[pair.teacher]
        k = setting.student_shapes[pair.student][0] if dimension == "student" else moments.channels
        energy = make_basis(moments, "prcaposdef", k).energy
        assert torch.allclose(without[str(pair)], energy * with_[str(pair)], rtol=1e-4)


def test_the_full_dimension_keeps_all_of_the_teacher(setting: Setting) -> None:
    for loss, channels in zip(vary(dimension="full").build(setting).losses, (8, 12, 16, 16)):  # type: ignore[arg-type]
        assert loss.basis.vectors.shape == (channels, channels)  # type: ignore[union-attr]
        assert loss.basis.share == pytest.approx(1)  # type: ignore[union-attr]


@pytest.mark.parametrize("mapping", ["soft-singular", "soft-frobenius"])
def test_soft_orthogonality_is_a_term_of_its_own(mapping: str, setting: Setting, evaluate: Evaluate) -> None:
    criterion = vary(mapping=mapping).build(setting)
    assert criterion.weights["orthogonality"] == 1000
    total, terms = evaluate(criterion, setting.pair)
    assert terms["orthogonality"].shape == (8,)
    assert terms["orthogonality"].abs().max() < 1e-9  # the maps start orthonormal
    plain = evaluate(ONLY.build(setting), setting.pair)[0]
    assert torch.allclose(total, plain, rtol=1e-4)
    for loss in criterion.losses:  # type: ignore[union-attr]
        torch.nn.init.eye_(loss.rotation.weight)  # type: ignore[union-attr,arg-type]
        with torch.no_grad():
            loss.rotation.weight[0, 0] = 3.0  # type: ignore[index,union-attr]
    one = (3 - 1) ** 2 if mapping == "soft-singular" else (9 - 1) ** 2
    terms = evaluate(criterion, setting.pair)[1]
    assert torch.allclose(terms["orthogonality"], torch.full((8,), 4.0 * one))  # four layers


@pytest.mark.parametrize("method", [ONLY, vary(mapping="linear"), vary(mapping="soft-singular", orthogonality=0)])
def test_other_mappings_have_no_such_term(method: SubDistill, setting: Setting, evaluate: Evaluate) -> None:
    assert "orthogonality" not in evaluate(method.build(setting), setting.pair)[1]
    no_layers = vary(mapping="soft-singular", layer_weight=0, kd_weight=1).build(setting)
    assert set(no_layers.weights) == {"kd"}


def test_only_the_chosen_layers_are_read(setting: Setting, evaluate: Evaluate) -> None:
    whole = evaluate(ONLY.build(setting), setting.pair)[1]
    for chosen, want in ((("layer2", "layer4"), {"layer2", "layer4"}), (("last",), {"layer4"})):
        criterion = vary(layers=chosen).build(setting)
        assert set(criterion.student_layers) == set(criterion.teacher_layers) == want
        assert set(criterion.weights) == {f"{name}:{name}" for name in want}
    first = vary(layers=("layer1",)).build(setting)
    assert torch.allclose(evaluate(first, setting.pair)[1]["layer1:layer1"], whole["layer1:layer1"])
