"""Trial passes: whether models take the images and give logits and maps, before anything is trained or explained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xaibench.errors import ModelError, XaibenchError
from xaibench.models.copies import private_copy
from xaibench.models.layer_outputs import Outputs, evaluating, forward_with_layers, observe
from xaibench.models.logits import forward_logits

__all__ = [
    "check_classes",
    "check_classifier",
    "check_free",
    "check_training",
    "check_weights",
    "explained",
    "outputs",
    "trial_images",
    "usual_size",
    "warn_of_softmax",
]

_USUAL_SIZES = ((224, 224), (64, 64), (32, 32), (28, 28))

_log = logging.getLogger(__name__)


def check_weights(role: str, model: nn.Module, *, trained: bool) -> None:
    """ModelError for TorchScript, for weights that are not float32, have no values or values that are not finite.

    trained  whether the model is to be trained: then it needs weights
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ModelError(
            f"the {role} holds TorchScript code, whose layers cannot be read: give the module that it was made from"
        )
    for name, value in model.state_dict().items():
        if is_lazy(value):
            raise ModelError(f"the {role}'s {name} has no values yet: run the model once on a batch")
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32:
            raise ModelError(
                f"the {role}'s weights must be torch.float32, but {name} is {value.dtype}: give model.float()"
            )
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"the {role}'s {name} holds NaN or infinite values: load its weights again")
    if trained and next(model.parameters(), None) is None:
        raise ModelError(f"the {role} has no parameters, so that nothing can be trained: give another model")


def check_free(role: str, model: nn.Module) -> None:
    """ModelError for a model in which no weight may change."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"nothing of the {role} can be trained, as requires_grad is False for all its weights: "
            f"call {role}.requires_grad_(True)"
        )


def check_classifier(model: nn.Module, classes: int, channels: int, size: tuple[int, int]) -> None:
    """ModelError for a model that cannot be trained to tell so many classes of images apart."""
    check_weights("model", model, trained=True)
    check_free("model", model)
    check_classes("model", outputs(model, (), channels, size).logits, classes)
    check_training(model, classes, channels, size, "model")


def usual_size(models: Iterable[nn.Module], channels: int) -> tuple[int, int]:
    """The first of some usual image sizes that all models take; ModelError if there is none."""
    models, reason = tuple(models), ""
    for size in _USUAL_SIZES:
        try:
            for model in models:
                with torch.no_grad(), evaluating(model), explained(size, channels):
                    model(trial_images(model, channels, size))
        except ModelError as error:
            reason = first_line(error.__cause__ or error)
        else:
            return size
    tried = ", ".join(f"{h}x{w}" for h, w in _USUAL_SIZES)
    raise ModelError(
        f"the models take no images with {channels} channels of a usual size ({tried}; {reason}): "
        "give input_size=(H, W), or the size in Preprocessing"
    )


def trial_images(model: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    """Two images of noise (2, C, H, W), where the model's weights are."""
    home = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, *size, generator=generator, dtype=torch.float32, device="cpu").to(home)


def outputs(model: nn.Module, layers: tuple[str, ...], channels: int, size: tuple[int, int]) -> Outputs:
    """Logits and layers of trial images in evaluation mode; ModelError, with the reason, where the model fails."""
    with torch.no_grad(), evaluating(model), explained(size, channels):
        return forward_with_layers(model, trial_images(model, channels, size), layers)


def check_training(model: nn.Module, classes: int, channels: int, size: tuple[int, int], role: str = "student") -> None:
    """ModelError for a model that gives no logits in training mode. It is left as it was."""
    copy = private_copy(model).cpu().train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), explained(size, channels, "in training mode "):
        logits = forward_logits(copy, trial_images(copy, channels, size))
    check_classes(role, logits, classes, " in training mode")


def check_classes(role: str, logits: Tensor, classes: int, when: str = "") -> None:
    """ModelError for logits (N, K) of another number of classes."""
    if logits.shape[1] != classes:
        remedy = "give the list of all its classes, in order" if role == "teacher" else f"give it {classes} outputs"
        raise ModelError(f"the {role} has {logits.shape[1]} logits{when} but there are {classes} classes: {remedy}")


def warn_of_softmax(role: str, model: nn.Module, logits: Tensor, images: Tensor) -> None:
    """Warn in the log of a model that gives (log-)probabilities, and say how its logits are had."""
    sums = logits.sum(dim=1) if (logits >= 0).all() else logits.exp().sum(dim=1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return
    layers = [
        call.name
        for call in observe(model, images)
        if isinstance(call.module, (nn.Softmax, nn.LogSoftmax)) and call.output is not None
        if call.output.shape == logits.shape and torch.equal(call.output, logits)
    ]
    remedy = (
        f"replace it: model.set_submodule({layers[0]!r}, torch.nn.Identity())"
        if layers and layers[0]
        else "return from its forward what it gives to softmax"
    )
    _log.warning(
        "the %s gives probabilities (it ends in softmax), not logits, so that distillation and explanations are about "
        "another function: %s",
        *(role, remedy),
    )


@contextmanager
def explained(size: tuple[int, int], channels: int, when: str = "") -> Iterator[None]:
    """Within the block, whatever a model raises, but for a lack of memory, becomes a ModelError with the images."""
    try:
        yield
    except (XaibenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"the models cannot process {size[0]}x{size[1]} images with {channels} channels {when}"
            f"({first_line(error)}): choose data or an architecture that fits"
        ) from error


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
