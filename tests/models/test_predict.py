from __future__ import annotations

import pytest
import torch

from xaibench.data.tasks import Task
from xaibench.errors import ConfigError, ModelError
from xaibench.models.pair import ModelPair
from xaibench.models.predict import as_device, predict_logits


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


def test_images_of_a_size_that_the_model_cannot_take_are_one_line(tiny_task: Task, tiny_pair: ModelPair) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(7, 3)).train()
    channels, height, width = tiny_task.test.shape
    with pytest.raises(ModelError, match=f"cannot process {height}x{width} images with {channels} channels") as caught:
        predict_logits(model, tiny_task.test, tiny_pair.preprocessing)
    assert "\n" not in str(caught.value)
    assert model.training


def test_a_lack_of_memory_is_not_blamed_on_the_size_of_the_images(tiny_task: Task, tiny_pair: ModelPair) -> None:
    class Hungry(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("no memory is left")

    with pytest.raises(torch.OutOfMemoryError, match="no memory is left"):
        predict_logits(Hungry(2, 2), tiny_task.test, tiny_pair.preprocessing)


@pytest.mark.parametrize(
    ("found", "device", "said"),
    [
        (0, "cuda", r"device 'cuda' is not there \(torch finds 0 GPUs\): write cpu"),
        (2, "cuda:2", r"device 'cuda:2' is not there \(torch finds 2 GPUs\): write cuda:0 to cuda:1, or cpu"),
    ],
)
def test_a_gpu_that_is_not_there(found: int, device: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    with pytest.raises(ConfigError, match=said):
        as_device(device)
    assert as_device("cpu") == torch.device("cpu")
