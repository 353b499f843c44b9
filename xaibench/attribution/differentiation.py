"""Gradients of what is explained, and whether they are right: backward passes are checked against forward ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xaibench.attribution.base import logits_of, reason
from xaibench.attribution.checks import Check, at_most
from xaibench.attribution.targets import Target
from xaibench.attribution.working_copy import model_name
from xaibench.errors import ExplanationError
from xaibench.models.copies import private_copy
from xaibench.models.logits import forward_logits

__all__ = [
    "alone_check",
    "checked_gradient",
    "derivative_checks",
    "explained_by",
    "gradient_checks",
    "input_gradient",
    "never_alone",
    "value_and_gradient",
]

# Float32 gradients are off by some 1e-6 of their length, by up to 5e-3 where units' signs are lost to rounding (26
# networks). The faults of backward kernels that were found are off by 0.4 and more.
DERIVATIVE_TOLERANCE = 0.05
FLOAT32_TOLERANCE = 0.1
ALONE_TOLERANCE = 0.01
_STEPS = (1e-6, 1e-8, 1e-4, 1e-3, 1e-2)
_NOISE = 0.05


def never_alone(model: nn.Module, x: Tensor) -> Tensor:
    """The logits (N, K) of x for a backward pass: an image by itself is run twice, and the second row left out.

    At batch size 1 the strides of a tensor do not tell its memory format, and backward kernels that go by them are
    wrong: batch normalisation of torch 2.14 on a CPU, where channels are moved last behind it.
    """
    if len(x) != 1:
        return forward_logits(model, x)
    return forward_logits(model, torch.cat([x, x]))[:1]


def explained_by(model: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(inputs, label, contrast) -> z_y - z_r (N,): the explained output in the form that captum takes."""

    def explained(inputs: Tensor, label: Tensor, contrast: Tensor) -> Tensor:
        return Target(label, contrast).select(never_alone(model, inputs))

    return explained


def value_and_gradient(model: nn.Module, x: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """f = z_y - z_r (N,) and df/dx (N, C, H, W)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        f = target.select(never_alone(model, x))
        (gradient,) = torch.autograd.grad(f.sum(), x)
    return f.detach(), gradient


def input_gradient(model: nn.Module, x: Tensor, target: Target) -> Tensor:
    """d(z_y - z_r)/dx: (N, C, H, W)."""
    return value_and_gradient(model, x, target)[1]


def checked_gradient(model: nn.Module, x: Tensor, target: Target) -> Tensor:
    """As `input_gradient`; ExplanationError where the network cannot be differentiated."""
    try:
        return input_gradient(model, x, target)
    except RuntimeError as error:
        raise ExplanationError(
            f"{model_name(model)} has no gradient with respect to its input ({reason(error)}): "
            "explain it with shapley or occlusion, which need none"
        ) from error


def gradient_checks(gradient: Tensor, where: str) -> tuple[Check, ...]:
    """The gradient (N, ...) is finite, and not zero everywhere on all of the images (a single one may be saturated).

    where  what it is a gradient with respect to, for the notes
    """
    n, flat = len(gradient), gradient.flatten(1)
    broken = int((~torch.isfinite(flat).all(dim=1)).sum())
    empty = int((flat == 0).all(dim=1).sum())
    note = f"of {n}: the output does not depend on {where}" if empty == n else f"of {n}, {where}"
    return (
        at_most("gradients with non-finite values", broken, 0, f"of {n}, {where}"),
        at_most("all-zero gradients", empty, n - 1, note),
    )


def derivative_checks(model: nn.Module, x: Tensor, target: Target) -> tuple[Check, ...]:
    """The gradient g of f = z_y - z_r is its derivative, and that of an image is the same alone and in a batch.

    gradient error           the largest |<g, v> - (f(x + h v) - f(x - h v)) / 2h| / |g| over the images, with f in
                             float64 (float32 for a network that cannot be run so; at most 10% may differ then)
    gradient of one image    |g alone - g in a batch| / |g|, of the first image

    The direction v = g / |g| + r, r normal with unit variance for each pixel, sees errors along g and across it. The
    step h is the best of five for each image: small ones drown in rounding where a network computes in float32
    regardless, large ones cross kinks and leave the linear range. Images are taken with noise of 5% of their range, so
    that max-pooling has no ties; one by itself is taken twice, with other noise.
    """
    if len(x) == 1:
        x, target = torch.cat([x, x]), target.take([0, 0])
    generator = torch.Generator().manual_seed(0)
    span = (x.amax() - x.amin()).clamp(min=torch.finfo(x.dtype).tiny)
    noise, random = (torch.randn(x.shape, generator=generator).to(x) for _ in range(2))
    x = x + _NOISE * span * noise
    g = checked_gradient(model, x, target)
    rows = (slice(None), *[None] * (x.ndim - 1))
    length = g.flatten(1).norm(dim=1)
    v = span * (g / length.clamp(min=torch.finfo(x.dtype).tiny)[rows] + random)
    error, tolerance = _derivative_error(model, x, target, v, (g * v).flatten(1).double().sum(dim=1), span * length)
    note = (
        "the backward pass does not give the derivative of the forward pass, as behind torch.no_grad or detach: "
        "explain it with shapley or occlusion"
        if not error <= tolerance
        else ""
    )
    alone = checked_gradient(model, x[:1], target.take([0]))
    return (
        at_most("gradient error against finite differences", error, tolerance, note),
        alone_check("gradient", alone, g[:1]),
    )


def alone_check(what: str, alone: Tensor, beside: Tensor) -> Check:
    """|alone - beside| / |beside| of one image, by itself and in a batch, may be 1% at most."""
    size = beside.norm().clamp(min=torch.finfo(beside.dtype).tiny)
    return at_most(f"change of one image's {what} in a batch", float((alone - beside).norm() / size), ALONE_TOLERANCE)


def _derivative_error(
    model: nn.Module, x: Tensor, target: Target, v: Tensor, slope: Tensor, size: Tensor
) -> tuple[float, float]:
    """The largest |slope - difference quotient along v| / size, and how large it may be."""
    tolerance = DERIVATIVE_TOLERANCE
    x, v = x.double(), v.double()
    try:
        twin = private_copy(model).double()
        logits = logits_of(twin, x)
    except (RuntimeError, TypeError):
        tolerance, twin = FLOAT32_TOLERANCE, model
        x, v = x.to(size.dtype), v.to(size.dtype)
        logits = logits_of(twin, x)
    # A slope that float32 logits would not show over the whole range of the images counts as none.
    size = size.cpu().double() + torch.finfo(torch.float32).eps * logits.abs().amax(dim=1).cpu().double()
    best = torch.full_like(size, torch.inf)
    for h in _STEPS:
        ahead, behind = (target.select(logits_of(twin, x + sign * h * v).cpu().double()) for sign in (1, -1))
        errors = (slope.cpu() - (ahead - behind) / (2 * h)).abs() / size
        best = torch.minimum(best, errors)  # NaN stays
        if not float(best.max()) > tolerance:
            break
    return float(best.max()), tolerance
