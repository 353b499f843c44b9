from __future__ import annotations

import pytest
import torch

from xaibench.data.tasks import Task
from xaibench.errors import ConfigError, ModelError
from xaibench.models.pair import ModelPair
from xaibench.models.predict import predict_logits


def test_predictions_do_not_depend_on_the_batch_size_and_restore_the_mode(
    tiny_pair: ModelPair, tiny_task: Task
) -> None:
    model = tiny_pair.student.train()
    model.layer1.eval()  # type: ignore[union-attr,operator]
    modes = [module.training for module in model.modules()]
    whole = predict_logits(model, tiny_task.test, tiny_pair.preprocessing)
    parts = predict_logits(model, tiny_task.test, tiny_pair.preprocessing, batch_size=5)
    assert torch.allclose(whole, parts, atol=1e-5)
    assert [module.training for module in model.modules()] == modes
    with torch.no_grad():
        model.fc.bias[0] = torch.nan  # type: ignore[union-attr,index]
    with pytest.raises(ModelError, match="the model's logits hold NaN or infinite values"):
        predict_logits(model, tiny_task.test, tiny_pair.preprocessing)
    assert [module.training for module in model.modules()] == modes


def test_another_device_is_reached_by_a_copy_and_an_unknown_one_is_refused(
    tiny_pair: ModelPair, tiny_task: Task
) -> None:
    model = tiny_pair.student
    before = [value.data_ptr() for value in model.parameters()]
    with pytest.raises(ModelError, match="batch_size must be at least 1, got 0"):
        predict_logits(model, tiny_task.test, tiny_pair.preprocessing, 0)
    for device in ("cpu", torch.device("cpu"), None):
        predict_logits(model, tiny_task.test, tiny_pair.preprocessing, device=device)
    with pytest.raises(ConfigError, match="device 'meta' holds no values: write cpu, cuda or cuda:1"):
        predict_logits(model, tiny_task.test, tiny_pair.preprocessing, device="meta")
    assert [value.data_ptr() for value in model.parameters()] == before
    with pytest.raises(ConfigError, match="device 'mps' has no float64, which checks need: write cpu, cuda or cuda:1"):
        predict_logits(model, tiny_task.test, tiny_pair.preprocessing, device="mps")
    for device in ("gpu", "", "cuda:x"):
        with pytest.raises(ConfigError, match=f"unknown device '{device}': write cpu, cuda"):
            predict_logits(model, tiny_task.test, tiny_pair.preprocessing, device=device)
