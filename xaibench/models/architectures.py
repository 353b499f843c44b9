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

torchvision and timm take seconds to import: only what builds a model does so.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from xaibench.errors import ConfigError, ModelError, unknown_name
from xaibench.models.copies import INITIALISATIONS, reset_layers
from xaibench.models.own_models import build_own, find_own, is_own
from xaibench.validation import check_seed, checked

__all__ = ["build_model", "known_models"]

_AUXILIARY = {"aux_logits": False, "init_weights": True}
_OPTIONS = {"googlenet": _AUXILIARY, "inception_v3": _AUXILIARY}
_SCALED = re.compile(r"(?P<base>resnet18(?:-cifar)?)(?::(?P<widths>[^@]*))?(?:@(?P<stem>.*))?$")


def known_models() -> list[str]:
    """Names that `build_model` accepts, without the width suffix: ours, torchvision's, timm's."""
    import timm

    return ["resnet18-cifar", *_torchvision_models(), *(f"timm/{name}" for name in timm.list_models())]


@checked
def build_model(
    name: str, num_classes: int, in_channels: int = 3, *, seed: int = 0, init: str = "architecture"
) -> nn.Module:
    """Build a classifier initialised from `seed`; its logits are (N, num_classes). Global random state is left alone.

    init  "architecture": as the architecture's own code does it (torchvision's ResNets: convolutions from He's normal
          distribution, fan-out, of variance 2 / fan_out); "torch": every layer by PyTorch's default (`reset_layers`)

    Nothing is ever downloaded.

    Raises UnknownNameError for an unknown name or init, ConfigError for widths that are not four positive integers,
    ModelError where the architecture does not take `in_channels` or the user's own code fails.
    """
    if in_channels < 1:
        raise ConfigError(f"images have at least 1 channel, got in_channels={in_channels}")
    if num_classes < 2:
        raise ConfigError(f"a classifier needs at least 2 classes, got {num_classes}")
    if init not in INITIALISATIONS:
        raise unknown_name("init", init, INITIALISATIONS)
    with torch.random.fork_rng(devices=[]):
        if is_own(name):
            find_own(name)  # it is imported before the seed is set: that may draw random numbers too
        torch.manual_seed(check_seed(seed))
        model = _build(name, num_classes, in_channels)
        if init == "torch":
            reset_layers(model)
        return model


def _build(name: str, num_classes: int, in_channels: int) -> nn.Module:
    match = _SCALED.match(name)
    if match and (name != "resnet18"):
        small = match["base"] == "resnet18-cifar"
        widths = _integers(name, match["widths"], 4) if match["widths"] is not None else (64, 128, 256, 512)
        (stem,) = _integers(name, match["stem"], 1) if match["stem"] is not None else (64,)
        from xaibench.models.scaled_resnet import ScaledResNet18

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
    from torchvision import models

    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **_OPTIONS.get(name, {}))
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
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _integers(name: str, text: str, count: int) -> tuple[int, ...]:
    parts = text.split("-")
    if len(parts) != count or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise ConfigError(
            f"model '{name}': '{text}' must be {count} positive integer{'s' * (count > 1)}, as in "
            "resnet18-cifar:56-56-40-40 or resnet18-cifar:16-32-64-128@16"
        )
    return tuple(int(p) for p in parts)
