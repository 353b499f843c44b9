"""ResNet-18 with chosen widths."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

__all__ = ["ScaledResNet18"]

_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ScaledResNet18(ResNet):
    """torchvision's ResNet-18 (its blocks, names and initialisation) with chosen stage widths and stem.

    widths  channels of the four stages; (64, 128, 256, 512) is ResNet-18 itself
    stem    channels of the first convolution
    small   True: 3x3 stem of stride 1, no max-pooling (images of 28 to 64 pixels)
    """

    def __init__(
        self, widths: tuple[int, int, int, int], stem: int, small: bool, num_classes: int, in_channels: int
    ) -> None:
        nn.Module.__init__(self)
        self._norm_layer = nn.BatchNorm2d
        self.inplanes, self.dilation, self.groups, self.base_width = stem, 1, 1, 64
        if small:
            self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=3, stride=1, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        for stage, width in enumerate(widths):
            layer = self._make_layer(BasicBlock, width, 2, stride=1 if stage == 0 else 2)
            setattr(self, _STAGES[stage], layer)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
