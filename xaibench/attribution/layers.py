"""Relevance at hidden layers, and heatmaps of directions in a layer's activation space."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaibench.attribution.batch_size import choose_points
from xaibench.attribution.checks import Validity
from xaibench.attribution.differentiation import derivative_checks
from xaibench.attribution.explain import check_explainable
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target
from xaibench.attribution.working_copy import Prepared, check_input, few_of, model_name, prepare
from xaibench.data.images import Preprocessing
from xaibench.errors import ConfigError, ExplanationError, ModelError
from xaibench.models.layer_outputs import forward_with_layers
from xaibench.models.predict import as_device
from xaibench.precision import full_precision
from xaibench.validation import checked

__all__ = ["LayerRelevance", "direction_heatmaps", "layer_relevance", "lrp_or_gradient"]

_INACTIVE = 1e-6
_LOST = 1e-3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LayerRelevance:
    """Relevance R_i = h_i c_i of a layer's channels at each location, for z_y - z_r.

    activation  h, (N, d, H, W), the layer's output; tokens as maps without their prefix tokens
    context     c, (N, d, H, W). LRP: R_i / h_i, and 0 at inactive channels, where |h_i| is at most 1e-6 of the image's
                largest and the quotient is undefined. Gradient x activation: the gradient
    """

    activation: Tensor
    context: Tensor

    @property
    def relevance(self) -> Tensor:
        """R = h c, (N, d, H, W), in units of logit differences."""
        return self.activation * self.context


@checked(error=ExplanationError)
def layer_relevance(
    model: nn.Module,
    x: Tensor,
    target: Target,
    explainer: LRP | None,
    preprocessing: Preprocessing,
    layers: Sequence[str],
    *,
    device: torch.device | str | None = None,
    memory: int | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> dict[str, LayerRelevance]:
    """Relevance of z_y - z_r at each of `layers`, from one forward and one backward pass a batch.

    explainer  an LRP, run back to the layer: sum_i R_i over channels and locations is z_y - z_r less what biases,
               stabilisers and class tokens (which are left out) absorb. None: gradient x activation, which conserves
               nothing, for networks that LRP is not valid on; see `lrp_or_gradient`
    layers     module names of the network (without its class slice)
    device     where a copy of the model works; None: where the model is
    memory     bytes that activations may take; None: 1 GiB
    on_batch   called after each batch with the number of images in it

    The result lies on the CPU, 2 N d H W numbers a layer: meant for hundreds of images. `model` is left as it is.
    Raises ExplanationError where LRP puts more than 0.1% of |R| on inactive channels, as rules do that spread
    relevance regardless of activation; ModelError for layers that give no maps.
    """
    if not layers:
        raise ConfigError("no layer is named: give at least one, as in ['layer4']")
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    with _batches(model, x, target, explainer, preprocessing, tuple(parts), device, memory, on_batch) as batches:
        for batch in batches:
            for layer, output, context in zip(parts, batch.outputs, batch.contexts):
                parts[layer].append((output.detach().cpu(), context.cpu()))
    return {
        layer: LayerRelevance(*(torch.cat(maps)[: len(x)] for maps in zip(*pieces))) for layer, pieces in parts.items()
    }


@checked(error=ExplanationError)
def direction_heatmaps(
    model: nn.Module,
    x: Tensor,
    target: Target,
    explainer: LRP | None,
    preprocessing: Preprocessing,
    layer: str,
    directions: Tensor,
    *,
    device: torch.device | str | None = None,
    memory: int | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> Tensor:
    """Input heatmaps of the relevance in single directions of a layer's space: (N, k, H, W), summed over channels.

    The part of the layer's relevance h_i c_i in direction u_j is R_i = h_i u_ij (u_j'c) at each location; it is
    propagated to the input by the same rules. Summed over the d directions of an orthonormal basis, the parts are
    h_i c_i, and their heatmaps the ordinary one.

    directions  u, (d, k) with orthonormal columns
    explainer   an LRP; None: input x gradient of (u_j'c)(u_j'h) with u_j'c held fixed, which also adds up

    One forward pass and k + 1 backward passes a batch. Other arguments and errors as in `layer_relevance`.
    """
    found = []
    if not bool(torch.isfinite(directions).all()):
        raise ConfigError("the directions hold NaN or infinite values: compute them again")
    with _batches(model, x, target, explainer, preprocessing, (layer,), device, memory, on_batch) as batches:
        for start, (output,), (context,) in batches:
            if directions.ndim != 2 or len(directions) != output.shape[1] or directions.shape[1] == 0:
                raise ConfigError(
                    f"directions of shape {tuple(directions.shape)} do not fit the {output.shape[1]} channels of layer "
                    f"'{layer}': give ({output.shape[1]}, k)"
                )
            # LRP carries relevance back, autograd a gradient: activation or input is multiplied at the other end.
            before, after = (output, 1) if explainer is not None else (1, start)
            maps = []
            for u in directions.T.to(output):
                share = torch.einsum("d,bdhw->bhw", u, context)[:, None] * u[:, None, None]
                (sent,) = torch.autograd.grad(output, start, (before * share).detach(), retain_graph=True)
                maps.append((after * sent).detach().sum(1).cpu())
            found.append(torch.stack(maps, dim=1))
    return torch.cat(found)[: len(x)]


@checked(error=ExplanationError)
def lrp_or_gradient(
    model: nn.Module,
    x: Tensor,
    target: Target,
    preprocessing: Preprocessing,
    explainer: LRP | None = None,
    *,
    device: torch.device | str | None = None,
) -> LRP | None:
    """The explainer for `layer_relevance`: LRP where its checks pass for this network, else None and a warning in the
    log. Arguments as in `explain_model`; up to 4 images of x are used.
    """
    explainer = explainer or LRP()
    try:
        check_explainable(model, x, target, explainer, preprocessing, device=device)
    except ExplanationError as error:
        _log.warning("gradient x activation instead of LRP: %s", error)
        return None
    return explainer


class _Batch(NamedTuple):
    start: Tensor  # the input, a leaf; an image by itself is there twice
    outputs: list[Tensor]  # of the layers, with their graph back to it
    contexts: list[Tensor]


@contextmanager
def _batches(
    model: nn.Module,
    x: Tensor,
    target: Target,
    explainer: LRP | None,
    preprocessing: Preprocessing,
    layers: tuple[str, ...],
    device: torch.device | str | None,
    memory: int | None,
    on_batch: Callable[[int], object] | None,
) -> Iterator[Iterator[_Batch]]:
    # Within the block autograd on the batches' graphs gives what `explainer` asks for. Results of all batches together
    # may have one row too many, at the end.
    check_input(model, x, target, preprocessing)
    if explainer is not None:
        explainer.check_input(x, preprocessing)
    with torch.inference_mode(False), full_precision():
        work = prepare(model, x, target, as_device(device))
        with _differentiated(work, x, target, explainer, preprocessing) as network:

            def batches() -> Iterator[_Batch]:
                for rows in torch.arange(len(x)).split(max(2, choose_points(work.image_bytes, memory))):
                    several = rows if len(rows) > 1 else rows.repeat(2)
                    yield _explain(
                        network, work.inputs(x[several]), target.take(several), layers, explainer is not None
                    )
                    if on_batch is not None:
                        on_batch(len(rows))

            yield batches()


def _differentiated(
    work: Prepared, x: Tensor, target: Target, explainer: LRP | None, preprocessing: Preprocessing
) -> AbstractContextManager[nn.Module]:
    if explainer is not None:
        return explainer.modified(work.model, preprocessing, work.device)
    few = few_of(len(x))
    checks = derivative_checks(work.model, work.inputs(x[few]), target.take(few))
    Validity(checks).require(f"the gradient of {model_name(work.model)}")
    return nullcontext(work.model)


def _explain(network: nn.Module, x: Tensor, target: Target, layers: tuple[str, ...], lrp: bool) -> _Batch:
    start = x.clone().requires_grad_()
    with torch.enable_grad():
        logits, found = forward_with_layers(network, start, layers)
    outputs = [found[layer] for layer in layers]
    for layer, output in zip(layers, outputs):
        if output.ndim != 4:
            raise ModelError(
                f"layer '{layer}' gives {tuple(output.shape)}, not maps (N, d, H, W): choose another layer"
            )
    k = logits.shape[1]
    begin = (F.one_hot(target.label, k) - F.one_hot(target.contrast, k)).to(logits)
    if lrp:
        begin = begin * logits.detach()
    gradients = torch.autograd.grad(logits, outputs, grad_outputs=begin, retain_graph=True)
    if not lrp:
        return _Batch(start, outputs, list(gradients))
    return _Batch(start, outputs, [_context(*values) for values in zip(layers, outputs, gradients)])


def _context(layer: str, output: Tensor, relevance: Tensor) -> Tensor:
    h, r = output.detach(), relevance.detach()
    active = h.abs() > _INACTIVE * h.abs().amax(dim=(1, 2, 3), keepdim=True)
    lost, total = ((part.abs().sum(dim=(1, 2, 3))) for part in (r * ~active, r))
    worst = float((lost / total.clamp(min=torch.finfo(r.dtype).tiny)).max())
    if not worst <= _LOST:
        raise ExplanationError(
            f"{worst:.1%} of an image's relevance at '{layer}' sits on inactive channels, at most {_LOST:.1%} "
            "may: take a composite that passes relevance on in proportion to activation, or explainer=None (gradients)"
        )
    return torch.where(active, r / torch.where(active, h, torch.ones_like(h)), torch.zeros_like(h))
