"""ResNet-18 with chosen widths: torchvision's own where the widths are its own."""

import pytest
import torch
from torchvision.models import resnet18

from xaibench.models.scaled_resnet import ScaledResNet18


def test_with_its_own_widths_it_is_torchvisions():
    torch.manual_seed(0)
    ours = ScaledResNet18((64, 128, 256, 512), stem=64, small=False, num_classes=7, in_channels=3).eval()
    theirs = resnet18(num_classes=7).eval()
    assert [str(module) for module in ours.modules()][1:] == [str(module) for module in theirs.modules()][1:]
    theirs.load_state_dict(ours.state_dict())  # the same names and shapes
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("small", [True, False])
def test_widths_stem_and_strides(small):
    model = ScaledResNet18((4, 6, 8, 10), stem=5, small=small, num_classes=3, in_channels=1).eval()
    shapes = {}
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        getattr(model, name).register_forward_hook(
            lambda module, x, out, name=name: shapes.update({name: tuple(out.shape[1:])})
        )
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 3)
    sides = (32, 32, 16, 8, 4) if small else (16, 8, 4, 2, 1)
    assert shapes == {
        name: (width, side, side) for name, width, side in zip(shapes, (5, 4, 6, 8, 10), sides, strict=True)
    }


def test_convolutions_begin_as_torchvisions_do():
    torch.manual_seed(0)
    model = ScaledResNet18((64, 64, 64, 64), stem=64, small=True, num_classes=2, in_channels=3)
    weight = model.layer1[0].conv1.weight  # Kaiming, fan out: variance 2 / (64 * 9)
    assert float(weight.detach().var()) == pytest.approx(2 / (64 * 9), rel=0.05)
    assert torch.equal(model.bn1.weight, torch.ones(64))
