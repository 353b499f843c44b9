"""The private copy of a model that an explanation works on, and the checks of model and images before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from xaibench.attribution.base import logits_of, reason
from xaibench.attribution.batch_size import observed_forward
from xaibench.attribution.targets import Target
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError, ModelError, XaibenchError
from xaibench.models.copies import private_copy, uncompiled
from xaibench.models.logits import logits_in
from xaibench.validation import require

__all__ = ["CHECK_IMAGES", "Prepared", "check_input", "few_of", "model_name", "prepare"]

CHECK_IMAGES = 4
SAME_TOLERANCE = 1e-3


class Prepared(NamedTuple):
    """A copy of a model in evaluation mode, whose weights need no gradients, with what its inputs must be.

    dtype        of its weights: float32 or float64
    image_bytes  what one forward pass writes for one image
    """

    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    image_bytes: int

    def inputs(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) on the copy's device and in its type, detached."""
        return x.detach().to(self.device, self.dtype)


def prepare(model: nn.Module, x: Tensor, target: Target, device: torch.device | None = None) -> Prepared:
    """Copy the model to `device`, switch in-place activations off in the copy, and try it on up to 4 images of x.

    x       (N, C, H, W)
    device  None: the model's own; the CPU for a model on mps, which has no float64

    Raises ExplanationError for a model that

    - cannot be copied, cannot take the images, does not return finite logits (N, K), lacks classes of `target`
    - is no function of a single image: its logits are random, depend on the other images of the batch, or change when
      in-place activations are switched off (by more than 0.1% of the largest logit)
    """
    model = uncompiled(model)
    device, dtype = device or _device(model), _dtype(model)
    work = _working_copy(model, device)
    few = x[few_of(len(x))].detach().to(device, dtype)
    _settle(work, model, few[:1])
    _, image_bytes = _run(work, few[:1], observed_forward)
    logits, _ = _run(work, few)
    _check_classes(work, logits, target)
    return Prepared(work, device, dtype, image_bytes)


def few_of(n: int, most: int = CHECK_IMAGES) -> Tensor:
    """Up to 4 indices spread over 0..n-1, `most` at most."""
    return torch.linspace(0, n - 1, min(CHECK_IMAGES, n, most)).long()


def model_name(model: nn.Module) -> str:
    """The class of the model, or of the network that its class slice holds."""
    inner = getattr(model, "network", None)
    return type(inner if isinstance(inner, nn.Module) else model).__name__


def check_input(model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> None:
    """Raise ExplanationError for what can be told without running the model."""
    require(model, nn.Module, "the explained model", ExplanationError)
    require(x, Tensor, "the images", ExplanationError)
    require(target, Target, "the target", ExplanationError)
    require(preprocessing, Preprocessing, "the preprocessing", ExplanationError)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ExplanationError(
            "a scripted or traced model shows nothing of what it computes: explain the Python model it was made from"
        )
    _device(model)
    _dtype(model)
    if x.ndim != 4 or not x.is_floating_point():
        raise ExplanationError(
            f"explain wants normalised images (N, C, H, W), got {x.dtype} {tuple(x.shape)}: "
            "apply the preprocessing first"
        )
    if len(x) == 0:
        raise ExplanationError("there are no images to explain: give at least one")
    if x.layout != torch.strided:
        raise ExplanationError(f"the images are a tensor of layout {x.layout}: give x.to_dense()")
    if x.is_meta:
        raise ExplanationError("the images are on the meta device, which holds no values: load them on a real one")
    if x.shape[1] != preprocessing.channels:
        raise ExplanationError(
            f"images have {x.shape[1]} channels but the preprocessing has {preprocessing.channels}: "
            "use images and preprocessing of the same dataset"
        )
    if len(target) != len(x):
        raise ExplanationError(f"{len(x)} images but {len(target)} targets: give one target an image")
    broken = ~torch.isfinite(x).flatten(1).all(dim=1)
    if bool(broken.any()):
        raise ExplanationError(
            f"input {int(broken.nonzero()[0])} has NaN or infinite values "
            f"({int(broken.sum())} of {len(x)} images do): check the image files and the preprocessing"
        )


def _device(model: nn.Module) -> torch.device:
    """Where the model's copy works."""
    devices = {value.device for value in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        listed = " and ".join(sorted(map(str, devices)))
        raise ExplanationError(f"{model_name(model)} lies on {listed}: move it to one device with model.to(DEVICE)")
    device = devices.pop() if devices else torch.device("cpu")
    if device.type == "meta":
        raise ExplanationError(f"{model_name(model)} lies on the meta device and has no weights: load them first")
    return torch.device("cpu") if device.type == "mps" else device


def _dtype(model: nn.Module) -> torch.dtype:
    """The type of the model's weights, float32 for one without; ExplanationError for less than 32 bits."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and torch.finfo(value.dtype).bits < 32:
            raise ExplanationError(
                f"{model_name(model)} computes in {str(value.dtype).removeprefix('torch.')} ({name}), whose rounding "
                "hides what an explanation measures: convert it with model.float()"
            )
    return next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)


def _working_copy(model: nn.Module, device: torch.device) -> nn.Module:
    try:
        work = private_copy(model).eval().requires_grad_(False)
    except (RuntimeError, TypeError) as error:
        raise ExplanationError(
            f"{model_name(model)} cannot be copied ({reason(error)}): remove what it keeps of earlier passes"
        ) from error
    try:
        work.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ExplanationError(f"cannot compute on {device} ({reason(error)}): choose another device") from error
    for module in work.modules():
        module._backward_hooks.clear()  # they see gradients, and have no part in what the model computes
        module._backward_pre_hooks.clear()
    return work


def _settle(work: nn.Module, model: nn.Module, x: Tensor) -> None:
    """Switch off what works in place in `work`, a copy of `model`; one image x (1, C, H, W) has the same logits on."""
    name = model_name(model)
    with _Apart(model):
        first, _ = _run(work, x)
    _check_same(
        first,
        _run(work, x)[0],
        f"{name} gives an image other logits each time",
        "switch off the noise or dropout in it",
    )
    in_place = [module for module in work.modules() if getattr(module, "inplace", False) is True]
    for module in in_place:
        module.inplace = False  # type: ignore[assignment]
    if in_place:
        found = f"{name} reads again what an activation has overwritten in place"
        _check_same(first, _run(work, x)[0], found, "set inplace=False there and write h = relu(h) in its forward")
    together, _ = _run(work, torch.cat([x, 1 - x]))
    found = f"{name} gives an image other logits beside another image than alone"
    _check_same(first, together[:1], found, "give its batch normalisation running statistics")


def _check_same(first: Tensor, second: Tensor, found: str, remedy: str) -> None:
    precision, largest = torch.finfo(first.dtype), torch.stack([first, second]).abs().max()
    difference = float((second - first).abs().max() / largest.clamp(min=precision.tiny))
    if not difference <= SAME_TOLERANCE:
        raise ExplanationError(f"{found} (the logits differ by {difference:.2g} of the largest): {remedy}")


class _Apart(TorchFunctionMode):
    """Within the block, nothing is computed with the weights and buffers of `model`: ExplanationError."""

    def __init__(self, model: nn.Module) -> None:
        self.name = model_name(model)
        self.own = {id(value) for value in (*model.parameters(), *model.buffers())}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(id(value) in self.own for value in tree_leaves((args, kwargs))):
            raise ExplanationError(
                f"a copy of {self.name} still runs the original, as a forward or hook set to a function does: "
                "define it as a method of a subclass"
            )
        return func(*args, **(kwargs or {}))


def _logits(model: nn.Module, x: Tensor) -> tuple[object, int]:
    return logits_of(model, x.clone()), 0


def _run(
    model: nn.Module, x: Tensor, forward: Callable[[nn.Module, Tensor], tuple[object, int]] = _logits
) -> tuple[Tensor, int]:
    """What `forward` gives for images x, after a look at the logits."""
    try:
        output, image_bytes = forward(model, x)
        logits = logits_in(output, model)
    except ModelError as error:
        raise ExplanationError(str(error)) from error
    except XaibenchError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        raise ExplanationError(
            f"{model_name(model)} cannot process images of shape {tuple(x.shape[1:])} ({reason(error)}): "
            "choose images that fit the model"
        ) from error
    if not logits.is_floating_point():
        raise ExplanationError(f"{model_name(model)} returns {logits.dtype}, not logits: explain what it decides by")
    if not bool(torch.isfinite(logits).all()):
        raise ExplanationError(f"{model_name(model)} gives NaN or infinite logits: check its weights")
    return logits, image_bytes


def _check_classes(model: nn.Module, logits: Tensor, target: Target) -> None:
    classes = torch.cat([target.label, target.contrast])
    low, high, k = int(classes.min()), int(classes.max()), logits.shape[1]
    if low < 0 or high >= k:
        wrong = low if low < 0 else high
        raise ExplanationError(
            f"target class {wrong} is not among the {k} classes of {model_name(model)}: use 0..{k - 1}"
        )
