"""Which layers of teacher and student correspond: given by name, or suggested from their stages."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from xaibench.errors import ModelError
from xaibench.models.class_slice import unsliced
from xaibench.models.layer_outputs import observe, readable
from xaibench.validation import checked

__all__ = ["LayerPair", "parse_layers", "suggest_layers"]

_log = logging.getLogger(__name__)

_MOST_STAGES = 4


class LayerPair(NamedTuple):
    """A teacher layer and the student layer that is to match it, by module name."""

    teacher: str
    student: str

    def __str__(self) -> str:
        return f"{self.teacher}:{self.student}"


class _Block(NamedTuple):
    name: str
    channels: int


@checked(error=ModelError)
def parse_layers(specs: Sequence[str]) -> tuple[LayerPair, ...]:
    """["layer1:layer1", "layer2"] -> layer pairs; a name without a colon stands for both models."""
    pairs = []
    for spec in specs:
        teacher, _, student = spec.partition(":")
        if not teacher or (":" in spec and not student):
            raise ModelError(f"layer pair '{spec}' is not of the form teacher:student")
        pairs.append(LayerPair(teacher, student or teacher))
    return tuple(pairs)


@checked(error=ModelError)
def suggest_layers(teacher: nn.Module, student: nn.Module, x: Tensor) -> tuple[LayerPair, ...]:
    """Up to four layer pairs, early to late, found by running both models once on x (B, C, H, W).

    - A model's *trunk* is the module whose direct children give maps of the most sizes (then: the most children).
      Only children that can be blocks count: those with a convolution wider than 1x1, or, without any convolution, a
      linear layer. Norms, activations, pooling and 1x1 expansions before a classifier do not, nor what lies within
      attention or works on parts of an image.
    - A *stage* is the trunk's blocks of one map size. A trunk of one size only (a ViT) is cut into equal parts, as many
      as the other model has stages.
    - The last stages of both are paired by position. The teacher's layer is the last block of its stage, the student's
      the last one that has no more channels than that (a subspace of the teacher's must hold it); a stage without one
      is left out, with a warning in the log.

    () where nothing can be paired. ResNets give layer1 to layer4; ResNet and MobileNetV4 layer1:blocks.0 to
    layer4:blocks.3; ViT-B/16 and EfficientFormerV2 the teacher's blocks 2, 5, 8, 11 with stages.0 to stages.3.
    """
    if x.ndim != 4:
        raise ModelError(f"layers are found with images (B, C, H, W), got shape {tuple(x.shape)}")
    trunks = [_trunk(unsliced(model), x[:1]) for model in (teacher, student)]
    count = min(_MOST_STAGES, *(len(trunk[0]) if len(trunk) == 1 else len(trunk) for trunk in trunks))
    if count == 0:
        return ()
    pairs = []
    for own, other in zip(*(_last_stages(trunk, count) for trunk in trunks)):
        fitting = [block for block in other if block.channels <= own[-1].channels]
        if fitting:
            pairs.append(LayerPair(own[-1].name, fitting[-1].name))
        else:
            facts = (own[-1].name, own[-1].channels, other[-1].name, other[-1].channels)
            _log.warning("teacher layer %s with %d channels is left unpaired: student layer %s has %d", *facts)
    return tuple(pairs)


def _trunk(model: nn.Module, x: Tensor) -> list[list[_Block]]:
    """The stages of the module with the most of them, as lists of blocks; [] for a model without maps."""
    trunks: dict[str, dict[tuple[int, ...], list[_Block]]] = {name: {} for name, _ in model.named_modules()}
    for call in {call.name: call for call in readable(observe(model, x))}.values():
        if call.output is not None and call.output.ndim == 4 and _can_be_block(call.module):
            stages = trunks[call.name.rpartition(".")[0]]
            block = _Block(call.name, call.output.shape[1])
            stages.setdefault(tuple(call.output.shape[2:]), []).append(block)
    best = max(trunks.values(), key=lambda stages: (len(stages), sum(map(len, stages.values()))))
    return list(best.values())


def _can_be_block(module: nn.Module) -> bool:
    kernels = [m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)]
    if kernels:
        return any(max(kernel) > 1 for kernel in kernels)
    return any(isinstance(m, nn.Linear) for m in module.modules())


def _last_stages(trunk: list[list[_Block]], count: int) -> list[list[_Block]]:
    if len(trunk) != 1:
        return trunk[len(trunk) - count :]
    (blocks,) = trunk
    edges = [i * len(blocks) // count for i in range(count + 1)]
    return [blocks[low:high] for low, high in pairwise(edges)]
