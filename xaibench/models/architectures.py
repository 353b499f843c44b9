"""Model names -> torch modules.

Names
-----
``resnet18-cifar``              torchvision's ResNet-18 with a 3x3 stem of stride 1 and no max-pooling
``resnet18-cifar:56-56-40-40``  the same with these stage widths; the stem keeps 64 channels
``resnet18-cifar:16-32-64-128@16``  ... and a stem of 16 channels
``resnet18:W1-W2-W3-W4[@STEM]`` the ImageNet form (7x7 stem, max-pooling) with these widths
any torchvision classifier      ``resnet50``, ``vgg16_bn``, ``vit_b_16``, ...
``timm/NAME``                   any model of timm: ``timm/mobilenetv4_conv_small``, ``timm/efficientformerv2_s0``, ...
``file.py:Class``, ``module:Class``  the user's own model, called with num_classes=K, and in_channels=C if it takes that

GoogLeNet and Inception come without the auxiliary classifiers that torchvision gives them for training.
"""

from __future__ import annotations

import re

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from xaibench.errors import ConfigError, ModelError, unknown_name
from xaibench.models.own_models import build_own, find_own, is_own
from xaibench.validation import checked

__all__ = ["build_model", "known_models"]

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_AUXILIARY = {"aux_logits": False, "init_weights": True}
_OPTIONS = {"googlenet": _AUXILIARY, "inception_v3": _AUXILIARY}
_SCALED = re.compile(r"(?P<base>resnet18(?:-cifar)?)(?::(?P<widths>[^@]*))?(?:@(?P<stem>.*))?$")


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


def known_models() -> list[str]:
    """Names that `build_model` accepts, without the width suffix: ours, torchvision's, timm's."""
    import timm  # takes a second, and is needed for few names

    return ["resnet18-cifar", *_torchvision_models(), *(f"timm/{name}" for name in timm.list_models())]


@checked
def build_model(name: str, num_classes: int, in_channels: int = 3, *, seed: int = 0) -> nn.Module:
    """Build a classifier initialised from `seed`; its logits are (N, num_classes). Global random state is left alone.

    Nothing is ever downloaded.

    Raises UnknownNameError for an unknown name, ConfigError for widths that are not four positive integers,
    ModelError where the architecture does not take `in_channels` or the user's own code fails.
    """
    if in_channels < 1:
        raise ConfigError(f"images have at least 1 channel, got in_channels={in_channels}")
    if num_classes < 2:
        raise ConfigError(f"a classifier needs at least 2 classes, got {num_classes}")
    with torch.random.fork_rng(devices=[]):
        if is_own(name):
            find_own(name)  # it is imported before the seed is set: that may draw random numbers too
        torch.manual_seed(seed)
        return _build(name, num_classes, in_channels)


def _build(name: str, num_classes: int, in_channels: int) -> nn.Module:
    match = _SCALED.match(name)
    if match and (name != "resnet18"):
        small = match["base"] == "resnet18-cifar"
        widths = _integers(name, match["widths"], 4) if match["widths"] is not None else (64, 128, 256, 512)
        (stem,) = _integers(name, match["stem"], 1) if match["stem"] is not None else (64,)
        return ScaledResNet18(widths, stem, small, num_classes, in_channels)  # type: ignore[arg-type]
    if name.startswith("timm/"):
        return _timm(name, num_classes, in_channels)
    if is_own(name):
        return build_own(name, num_classes, in_channels)
    if name not in _torchvision_models():
        raise unknown_name("model", name, known_models())
    if in_channels != 3:
        raise ModelError(
            f"'{name}' takes 3 input channels, not {in_channels}: use resnet18-cifar:W1-W2-W3-W4 or timm/NAME"
        )
    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=num_classes, **_OPTIONS.get(name, {})
    )
    return model


def _timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    import timm

    short = name.removeprefix("timm/")
    if short not in timm.list_models():
        raise unknown_name("model", name, known_models())
    try:
        model: nn.Module = timm.create_model(short, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"timm builds no '{name}' with {num_classes} classes and {in_channels} input channels ({reason}): "
            "choose another model"
        ) from error
    return model


def _torchvision_models() -> list[str]:
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _integers(name: str, text: str, count: int) -> tuple[int, ...]:
    parts = text.split("-")
    if len(parts) != count or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise ConfigError(
            f"model '{name}': '{text}' must be {count} positive integer{'s' * (count > 1)}, as in "
            "resnet18-cifar:56-56-40-40 or resnet18-cifar:16-32-64-128@16"
        )
    return tuple(int(p) for p in parts)
