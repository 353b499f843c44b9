import pytest
import torch
from torch import nn

from xaibench.models.architectures import build_model
from xaibench.models.class_slice import ClassSlice
from xaibench.models.folding import folded


def _network(name: str) -> nn.Module:
    """In float64, with batch-norm statistics as after training."""
    torch.manual_seed(0)
    model = build_model(name, 6, seed=0).double().eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 2)
            module.bias.normal_()
    return model


def _norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18-cifar:6-6-8-8@6", "resnet50", "mobilenet_v2", "vgg11_bn"])
def test_computes_the_same_without_batch_norm(name):
    model, x = _network(name), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert _norms(model)
    quick = folded(model, x)
    assert not _norms(quick)
    torch.testing.assert_close(quick(x), model(x), rtol=1e-10, atol=1e-10)


def test_leaves_the_model_and_its_layer_names_alone():
    model, x = _network("resnet18-cifar:6-6-8-8@6"), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    quick = folded(model, x)
    assert model.training
    assert not quick.training
    assert [name for name, _ in quick.named_modules()] == [name for name, _ in model.named_modules()]
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_inputs_stay_what_they_are_where_a_network_works_in_place():
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    nn.init.constant_(network[2].weight, 3.0)
    x = torch.randn(2, 3, 8, 8)
    before = x.clone()
    quick = folded(network, x)
    assert torch.equal(x, before)
    assert not _norms(quick)
    torch.testing.assert_close(quick(x.clone()), network(x.clone()))


def test_kept_layers_give_what_they_gave():
    model, x = _network("resnet18-cifar:6-6-8-8@6"), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    sliced = ClassSlice(model, (2, 4)).eval()
    quick = folded(sliced, x, keep=("layer1.0.conv1",))
    assert _norms(quick) == ["network.layer1.0.bn1"]
    torch.testing.assert_close(quick(x), sliced(x), rtol=1e-10, atol=1e-10)


def test_normalisation_before_convolution_stays():
    model, x = _network("densenet121"), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    quick = folded(model, x)
    assert 0 < len(_norms(quick)) < len(_norms(model))
    torch.testing.assert_close(quick(x), model(x), rtol=1e-10, atol=1e-10)


class _Twice(nn.Module):
    """Reads the convolution's output besides the batch norm: cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.weight, 3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return (self.norm(y) + y).mean((2, 3))


def test_an_output_that_is_read_twice_is_not_folded():
    model = _Twice().eval()
    assert _norms(folded(model, torch.randn(2, 3, 8, 8))) == ["norm"]


class _Scaled(nn.BatchNorm2d):
    """Depends on more than its parameters and statistics, which no trace of a forward pass shows."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.constant_(self.weight, 3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1 if self.eps else 5)


@pytest.mark.parametrize("hooked", [False, True])
def test_a_copy_that_would_compute_something_else_is_not_folded(hooked):
    norm = nn.BatchNorm2d(4) if hooked else _Scaled(4)
    if hooked:
        norm.register_forward_hook(lambda _module, _x, y: 2 * y)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), norm).eval(), torch.randn(2, 3, 8, 8)
    quick = folded(model, x)
    assert _norms(quick) == ["1"]
    assert torch.equal(quick(x), model(x))
    assert quick is not model
