"""What each method adds up, and with which weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor

from xaibench.data.tasks import Task
from xaibench.distillation.criterion import Setting
from xaibench.distillation.losses.dkd import dkd
from xaibench.distillation.losses.kd import cross_entropy, kd, standardised
from xaibench.distillation.methods import (
    AT,
    CRD,
    DIST,
    DKD,
    E2KD,
    ICD,
    KD,
    RKD,
    SDDKD,
    SDKD,
    SDNKD,
    SPKD,
    VID,
    FitNet,
    LabelSmoothing,
    Method,
    ReviewKD,
    SemCKD,
    StudentOnly,
    SubDistill,
    VkD,
    parse_method,
)

Evaluate = Callable[..., tuple[Tensor, dict[str, Tensor]]]
STAGES = tuple(f"layer{i}:layer{i}" for i in (1, 2, 3, 4))


def stages(weight: float) -> dict[str, float]:
    return dict.fromkeys(STAGES, weight)


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        (StudentOnly(), {"ce": 1.0}),
        (LabelSmoothing(), {"ce": 1.0}),
        (KD(), {"kd": 0.9, "ce": 0.1}),
        (KD(alpha=1), {"kd": 1.0}),
        (DKD(), {"dkd": 1.0, "ce": 1.0}),
        (KD(standardise=True), {"kd": 0.9, "ce": 0.1}),
        (DKD(standardise=True, alpha=9, beta=81), {"dkd": 1.0, "ce": 1.0}),
        (DIST(), {"dist": 1.0, "ce": 1.0}),
        (DIST(beta=3, gamma=0, task_weight=0), {"dist": 1.0}),
        (SDKD(), {"sd-kd": 0.9, "ce": 0.1}),
        (SDDKD(), {"sd-dkd": 1.0, "ce": 1.0}),
        (SDNKD(), {"sd-nkd": 1.0, "ce": 1.0}),
        (ICD(), {"icd": 2.0, "sd-kd": 0.9, "ce": 0.1}),
        (ICD(base="sd-dkd", gamma=8), {"icd": 8.0, "sd-dkd": 1.0, "ce": 1.0}),
        (ICD(base="sd-nkd"), {"icd": 2.0, "sd-nkd": 1.0, "ce": 1.0}),
        (ICD(base="none"), {"icd": 2.0}),
        (FitNet(), {"kd": 1.0, **stages(100)}),
        (AT(), {"kd": 1.0, **stages(1000)}),
        (VID(), {"kd": 1.0, **stages(1)}),
        (SPKD(), {"kd": 1.0, "layer4:layer4": 3000}),
        (RKD(), {"kd": 1.0, "layer4:layer4": 1.0}),
        (VkD(), {"kd": 1.0, "layer4:layer4": 1.0}),
        (CRD(), {"kd": 1.0, "crd": 0.8}),
        (SemCKD(), {"kd": 1.0, "semckd": 400}),
        (ReviewKD(), {"kd": 1.0, "reviewkd": 5.0}),
        (ReviewKD(layers=("layer2", "layer4"), kd_weight=0, task_weight=1), {"ce": 1.0, "reviewkd": 5.0}),
        (E2KD(), {"kd": 1.0, "e2kd": 1.0}),
        (SubDistill(), {"kd": 1.0, **stages(100)}),
        (SubDistill(layer_weight=2, kd_weight=0, task_weight=0.5), {"ce": 0.5, **stages(2)}),
        (AT(layers=("layer2", "layer4")), {"kd": 1.0, "layer2:layer2": 1000, "layer4:layer4": 1000}),
        (FitNet(layers=("last",), kd_weight=0, task_weight=1), {"ce": 1.0, "layer4:layer4": 100}),
    ],
    ids=str,
)
def test_the_total_is_the_weighted_sum_of_the_terms(
    method: Method, weights: dict[str, float], setting: Setting, evaluate: Evaluate
) -> None:
    criterion = method.build(setting)
    assert criterion.weights == pytest.approx(weights)
    total, terms = evaluate(criterion, setting.pair)
    assert total.shape == (8,)
    assert all(term.shape == (8,) for term in terms.values())
    want = sum(weight * terms[name] for name, weight in weights.items())
    assert torch.allclose(total, want)  # type: ignore[arg-type]
    assert criterion.needs_teacher is (set(weights) != {"ce"})


def test_the_defaults_are_the_published_ones() -> None:
    assert (KD().temperature, KD().alpha, KD().standardise) == (4, 0.9, False)
    assert (DIST().beta, DIST().gamma, DIST().temperature) == (2, 2, 1)
    assert (RKD().distance_weight, RKD().angle_weight, RKD().layers) == (25, 50, ("last",))
    assert (ReviewKD().layer_weight, ReviewKD().warmup, ReviewKD().layers) == (5, 20, ())
    assert (DKD().alpha, DKD().beta, DKD().temperature, DKD().warmup) == (1, 8, 4, 20)
    assert (SDDKD().alpha, SDDKD().beta, SDDKD().warmup, SDNKD().gamma) == (1, 8, 20, 2)
    assert all(m.temperature == 4 and m.scales == (1, 2, 4) for m in (SDKD(), SDDKD(), SDNKD(), ICD()))
    assert (ICD().gamma, ICD().beta) == (2, 2)
    crd = CRD()
    assert (crd.negatives, crd.contrast_temperature, crd.momentum, crd.dimensions) == (16384, 0.07, 0.5, 128)
    assert (FitNet().variant, SPKD().variant, SDNKD().variant, VID().learned_scale) == (
        "mean",
        "squared",
        "paper",
        True,
    )
    subdistill = SubDistill()
    assert (subdistill.temperature, subdistill.basis, subdistill.centring) == (4, "prcaposdef", "peer_bn")


@pytest.mark.parametrize("cls", [FitNet, AT, VID, SPKD, RKD, VkD, CRD, SemCKD, ReviewKD, E2KD, SubDistill])
def test_twice_the_layer_weight_doubles_the_methods_part(
    cls: type[Method], setting: Setting, evaluate: Evaluate
) -> None:
    base = evaluate(KD(alpha=1).build(setting), setting.pair)[0]
    parts = []
    for factor in (1, 2):
        method = cls(layer_weight=factor * cls().layer_weight)  # type: ignore[attr-defined,call-arg]
        parts.append(evaluate(method.build(setting), setting.pair)[0] - base)
    assert torch.allclose(parts[1], 2 * parts[0], rtol=1e-4)
    assert parts[0].abs().max() > 0


def test_logit_terms_are_the_losses_at_the_methods_temperature(
    setting: Setting, evaluate: Evaluate, tiny_task: Task
) -> None:
    pair, labels = setting.pair, tiny_task.train.labels[:8]
    with torch.no_grad():
        x = pair.preprocessing(tiny_task.train.images[:8])
        student, teacher = pair.student(x), pair.teacher(x)
    terms = evaluate(KD(temperature=2.5).build(setting), pair)[1]
    assert torch.allclose(terms["kd"], kd(student, teacher, 2.5))
    assert torch.allclose(terms["ce"], cross_entropy(student, labels))
    for method in (AT(temperature=2.5), SubDistill(temperature=2.5), CRD(temperature=2.5)):
        assert torch.allclose(evaluate(method.build(setting), pair)[1]["kd"], terms["kd"])
    for method in (KD(standardise=True, temperature=2.5), DKD(standardise=True)):
        assert torch.allclose(evaluate(method.build(setting), pair)[1]["ce"], terms["ce"])  # of the logits as they are
    own = evaluate(KD(standardise=True, temperature=2.5).build(setting), pair)[1]["kd"]
    assert torch.allclose(own, kd(standardised(student), standardised(teacher), 2.5))
    decoupled = evaluate(DKD(standardise=True, warmup=0).build(setting), pair)[1]["dkd"]
    assert torch.allclose(decoupled, dkd(standardised(student), standardised(teacher), labels))
    smooth = evaluate(LabelSmoothing(0.3).build(setting), pair)[0]
    uniform = -student.log_softmax(1).mean(1)
    assert torch.allclose(smooth, 0.7 * terms["ce"] + 0.3 * uniform)


@pytest.mark.parametrize(
    ("method", "term"),
    [
        (DKD(), "dkd"),
        (SDDKD(), "sd-dkd"),
        (SDNKD(), "sd-nkd"),
        (ICD(base="sd-dkd"), "sd-dkd"),
        (SDKD(warmup=20), "sd-kd"),
        (ReviewKD(), "reviewkd"),
    ],
    ids=str,
)
def test_what_warms_up_does_so_over_twenty_epochs_and_the_rest_does_not(
    method: Method, term: str, setting: Setting, evaluate: Evaluate
) -> None:
    """As in the public code, whose epochs count from 1."""
    criterion = method.build(setting)
    full = evaluate(criterion, setting.pair, epoch=100)[1]
    for epoch, share in ((0, 1 / 20), (9, 0.5), (19, 1.0), (20, 1.0)):
        terms = evaluate(criterion, setting.pair, epoch=epoch)[1]
        assert torch.allclose(terms[term], share * full[term])
        assert all(torch.equal(terms[name], full[name]) for name in full if name != term)
    at_once = dataclasses.replace(method, warmup=0).build(setting)  # type: ignore[type-var]
    assert torch.equal(evaluate(at_once, setting.pair, epoch=0)[1][term], full[term])


@pytest.mark.parametrize("method", [SDKD(), ICD()], ids=str)
def test_nothing_else_warms_up(method: Method, setting: Setting, evaluate: Evaluate) -> None:
    criterion = method.build(setting)
    assert torch.equal(*(evaluate(criterion, setting.pair, epoch=epoch)[0] for epoch in (0, 50)))


def test_one_cell_that_is_the_whole_image_is_the_plain_method(setting: Setting, evaluate: Evaluate) -> None:
    local = SDKD(scales=(1,), exact_global=True).build(setting)
    pair = setting.pair.with_student(setting.pair.student.eval())
    assert torch.allclose(evaluate(local, pair)[0], evaluate(KD().build(setting), pair)[0], rtol=1e-4)
    decoupled = SDDKD(scales=(1,), exact_global=True).build(setting)
    assert torch.allclose(evaluate(decoupled, pair)[0], evaluate(DKD().build(setting), pair)[0], rtol=1e-4)


def test_e2kd_compares_captums_explanations_of_the_teachers_class(
    setting: Setting, evaluate: Evaluate, tiny_task: Task
) -> None:
    pair = setting.pair
    pair.student.eval()
    x = pair.preprocessing(tiny_task.train.images[:8])
    top = pair.teacher(x).argmax(1)
    assert (top != pair.student(x).argmax(1)).any()
    layers = pair.teacher_network.layer4, pair.student.layer4
    maps = [
        LayerGradCam(model, layer).attribute(x.requires_grad_(), target=top, relu_attributions=True).flatten(1)
        for model, layer in zip((pair.teacher, pair.student), layers)
    ]
    have = evaluate(E2KD().build(setting), pair)[1]["e2kd"]
    assert torch.allclose(have, 1 - torch.nn.functional.cosine_similarity(*maps), atol=1e-5)


@pytest.mark.parametrize("text", ["kd:alpha=1", "dist:task_weight=0", "at", "spkd", "rkd", "icd:base=none", "e2kd"])
def test_a_teacher_as_its_own_student_has_no_loss(text: str, setting: Setting, evaluate: Evaluate) -> None:
    pair = setting.pair.with_student(setting.pair.teacher)
    own = dataclasses.replace(setting, pair=pair)
    assert evaluate(parse_method(text).build(own), pair)[0].abs().max() < 1e-5
