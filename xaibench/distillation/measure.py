"""Measure the moments of a pair's teacher, from which its subspaces are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lightning_fabric import Fabric
from torch import Tensor

from xaibench.data.images import ImageSet
from xaibench.distillation.devices import as_ever
from xaibench.errors import ConfigError
from xaibench.models.folding import folded
from xaibench.models.memory_format import memory_format
from xaibench.models.pair import ModelPair
from xaibench.progress import progress
from xaibench.subspace.moments import LayerMoments, collect_moments
from xaibench.validation import check_seed, checked

__all__ = ["measure_moments"]


@checked
@as_ever()
def measure_moments(
    pair: ModelPair,
    images: ImageSet,
    fabric: Fabric | None = None,
    *,
    layers: tuple[str, ...] | None = None,
    locations: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    on_batch: Callable[[int], object] = lambda _: None,
) -> dict[str, LayerMoments]:
    """The moments of the pair's teacher layers on unaugmented images: one pass, all layers.

    layers     of the teacher; None: those of the pair
    locations  drawn an image by `seed`; None takes all
    fabric     for its mixed precision; None computes in float32
    on_batch   called after each batch with the number of images in it
    """
    check_seed(seed)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    layers = layers or tuple(dict.fromkeys(pair.teacher_layers))
    device = next(pair.teacher.parameters()).device
    chunks = images.images.split(batch_size)
    teacher = folded(pair.teacher, pair.preprocessing(chunks[0][:2].to(device)), layers)
    form = memory_format(teacher)
    teacher = form(teacher)
    with progress("subspace moments", len(chunks)) as advance:

        def batches() -> Iterator[Tensor]:
            for chunk in chunks:
                yield form(pair.preprocessing(chunk.to(device)))
                advance()
                on_batch(len(chunk))

        autocast = fabric.autocast() if fabric is not None else None
        return collect_moments(teacher, layers, batches(), locations=locations, seed=seed, autocast=autocast)
