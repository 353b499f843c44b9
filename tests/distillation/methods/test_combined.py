from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xaibench.distillation.criterion import Setting, TrainingState
from xaibench.distillation.methods import KD, SDKD, Combined, StudentOnly, SubDistill, parse_method
from xaibench.distillation.methods.wrapped import Wrapped

Evaluate = Callable[..., tuple[Tensor, dict[str, Tensor]]]


@pytest.mark.parametrize(
    "text",
    [
        "kd+subdistill:kd_weight=0",
        "kd+kd:temperature=2+student-only",
        "at+fitnet:layers=layer1+layer2+spkd:layers=layer3",
        "sd-kd:scales=1+2+icd:scales=1+4,base=none+e2kd",  # each with local logits of its own
        "crd+semckd+vid:learned_scale=false+vkd",
        "dkd+sd-dkd+sd-nkd+label-smoothing",
    ],
)
def test_a_sum_is_the_sum_of_its_parts(text: str, setting: Setting, evaluate: Evaluate) -> None:
    method = parse_method(text)
    assert isinstance(method, Combined)
    for epoch in (0, 7):
        criterion = method.build(setting)
        total, terms = evaluate(criterion, setting.pair, epoch=epoch)
        parts = [evaluate(part.build(setting), setting.pair, epoch=epoch) for part in method.methods]
        assert torch.allclose(total, sum(part for part, _ in parts), rtol=1e-5)  # type: ignore[arg-type]
        assert len(terms) == sum(len(own) for _, own in parts)
        assert torch.allclose(total, sum(w * terms[name] for name, w in criterion.weights.items()))  # type: ignore[arg-type]


def test_terms_carry_the_name_of_their_method(setting: Setting) -> None:
    criterion = (KD() + KD(temperature=2) + SubDistill(kd_weight=0, layers=("layer2",))).build(setting)
    assert criterion.weights == pytest.approx(
        {"kd1.kd": 0.9, "kd1.ce": 0.1, "kd2.kd": 0.9, "kd2.ce": 0.1, "subdistill.layer2:layer2": 100.0}
    )
    assert criterion.teacher_layers == criterion.student_layers == ("layer2",)


def test_a_layer_that_several_read_is_asked_for_once(setting: Setting) -> None:
    criterion = parse_method("at:layers=layer4+fitnet:layers=last+e2kd").build(setting)
    assert criterion.student_layers == ("layer4",)


def test_a_sum_needs_a_teacher_where_a_part_does(setting: Setting) -> None:
    assert (StudentOnly() + KD()).build(setting).needs_teacher
    assert not (StudentOnly() + StudentOnly()).build(setting).needs_teacher


def test_every_part_hears_of_a_new_epoch(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = (KD() + SDKD()).build(setting)
    heard: list[int] = []
    for part in criterion.criteria:  # type: ignore[union-attr]
        monkeypatch.setattr(part, "start_epoch", lambda epoch, state: heard.append(epoch))
    state = TrainingState(setting.pair.student, *[lambda *a: None] * 2, setting.labels, 0, lambda: ())  # type: ignore[arg-type,list-item,return-value]
    criterion.start_epoch(4, state)
    assert heard == [4, 4]


def test_a_wrapper_passes_on_what_its_method_changes(setting: Setting) -> None:
    for name in ("influence", "random-control"):
        order, start = (parse_method(f"{name}[{inner}]") for inner in ("siddo", "disdo"))
        assert isinstance(order, Wrapped)
        assert order.data_seed(5) == parse_method("siddo").data_seed(5) != 5
        assert start.data_seed(5) == 5
        assert start.prepare(setting.pair, 5).student is not setting.pair.student
