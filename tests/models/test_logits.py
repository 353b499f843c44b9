"""Which part of what a model returns are its logits."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.models.googlenet import GoogLeNetOutputs
from torchvision.models.inception import InceptionOutputs

from xaibench.errors import ModelError
from xaibench.models.logits import forward_logits, logits_in

LOGITS, OTHER, MAPS = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 5, 4, 4)
MODEL = nn.Identity().eval()


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        (LOGITS,),
        [LOGITS, MAPS],
        (LOGITS, None, (OTHER, OTHER)),
        (LOGITS, OTHER[:, :2]),
        {"logits": LOGITS, "auxiliary": OTHER},
        OrderedDict(loss=OTHER, logits=LOGITS),
        UserDict(logits=LOGITS),
        SimpleNamespace(logits=LOGITS, hidden_states=(MAPS,)),
        GoogLeNetOutputs(LOGITS, OTHER, OTHER),
        InceptionOutputs(LOGITS, OTHER),
    ],
    ids=lambda output: type(output).__name__,
)
def test_logits_are_the_output_what_it_names_so_or_its_first_item(output: object) -> None:
    assert logits_in(output, MODEL) is LOGITS


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "returns None, not"),
        ("cat", "returns str, not"),
        (OTHER[0], r"returns a tensor of shape \(3,\), not"),
        (MAPS, r"returns a tensor of shape \(2, 5, 4, 4\), not"),
        ((), "returns tuple, not"),
        ((OTHER.sum(), LOGITS), r"returns tuple with a tensor of shape \(\) for logits, not"),
        ([None, LOGITS], "returns list with None for logits, not"),
        (((LOGITS,), MAPS), "returns tuple with tuple with a tensor"),
        ((LOGITS, OTHER), r"returns tuple of 2 tensors of shape \(2, 3\), not .*: build it with aux_logits=False, or"),
        ([LOGITS, MAPS, OTHER, OTHER], r"returns list of 3 tensors of shape \(2, 3\), not"),
        ({}, r"returns dict without 'logits' \(empty\), not"),
        (
            OrderedDict(last_hidden_state=MAPS, pooled=OTHER),
            r"returns OrderedDict without 'logits' \(last_hidden_state, pooled\), not",
        ),
        ({"logits": None}, "returns dict with None for logits, not"),
        ({"logits": MAPS}, r"returns dict with a tensor of shape \(2, 5, 4, 4\) for logits, not"),
        (SimpleNamespace(logits=(LOGITS, OTHER)), r"returns SimpleNamespace with tuple of 2 tensors"),
    ],
)
def test_anything_else_is_refused_by_name_with_the_remedy(output: object, message: str) -> None:
    with pytest.raises(ModelError, match=f"^Identity {message}") as caught:
        logits_in(output, MODEL)
    assert "wrap it so that it does" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_training_mode_is_named() -> None:
    with pytest.raises(ModelError, match=r"Flatten returns a tensor of shape \(1, 2, 9\) in training mode, not logits"):
        forward_logits(nn.Flatten(2).train(), torch.zeros(1, 2, 3, 3))
