"""What a relevance pass absorbs on its way to the input, image by image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from xaibench.attribution.targets import Target

__all__ = ["KINDS", "LOSSES", "Books", "Loss", "in_words", "share_of", "total"]

KINDS = ("convolution", "linear", "normalisation", "embedding", "constant", "softmax", "stabiliser", "missing_sign")
"""What absorbs relevance:

convolution, linear  biases of these layers, folded batch normalisations among them
normalisation        shifts of layer normalisations and of batch normalisations that are not folded
embedding            parameters that are added or joined: class tokens, position embeddings
constant             whatever else is added or joined and does not depend on the image: numbers, buffers, padding
softmax              the constant term of its Taylor expansion, where relevance passes through it
stabiliser           what is added to denominators
missing_sign         outputs without a contribution of the sign that the z+ and alpha-beta rules share out by
"""

_PARTS = {
    "biases": ("convolution", "linear", "normalisation"),
    "embeddings": ("embedding",),
    "constants": ("constant",),
    "softmax": ("softmax",),
    "stabilisers": ("stabiliser",),
    "nobody": ("missing_sign",),
}


class Loss(NamedTuple):
    """Relevance that a map must not lose much of: how its share is called, why it gets lost, what helps."""

    name: str
    reason: str
    remedy: str


LOSSES = {
    "missing_sign": Loss(
        "without a taker",
        "outputs have no contributions of a sign that the rule uses, as in depthwise convolutions",
        "use composite=epsilon-gamma-box",
    ),
    "stabiliser": Loss(
        "left to stabilisers",
        "outputs are as small as what is added to denominators",
        "use ig, or scale the network's weights so that its activations are larger",
    ),
}
"""Of KINDS, what says nothing about the image or the network."""


class Books:
    """The relevance that constants and stabilisers of a network absorb in one backward pass.

    An output that shares its relevance R out in proportion to contributions c_i gives a constant, say a bias, its part
    as to an input whose value is 1: c_0 R / (sum_i c_i + stabiliser). That part, and the stabiliser's, is entered here.
    So for each image sum R_input + everything absorbed = sum R_output, provided that each operation's rule holds.

    images  how many were explained. Activations have them in order in their first dimension, or a multiple of them
            (windows, patches); with one image everything belongs to it
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self._entries: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}

    def enter(self, absorbed: Mapping[str, Tensor]) -> None:
        """Add amounts (M,), by kind; NaN for each image if M is no multiple of their number."""
        for kind, amount in absorbed.items():
            fits = len(amount) % self.images == 0
            own = amount.view(self.images, -1).sum(1) if fits else amount.new_full((self.images,), torch.nan)
            self._entries[kind].append(own)

    @property
    def absorbed(self) -> dict[str, Tensor]:
        """kind -> (N,) float64 on the CPU, a line for each kind."""
        nothing = torch.zeros(self.images, dtype=torch.float64)
        return {
            kind: torch.stack(entries).double().sum(0).cpu() if entries else nothing
            for kind, entries in self._entries.items()
        }

    def balance(self, relevance: Tensor, logits: Tensor, target: Target) -> dict[str, Tensor]:
        """The books of each image, (N,) float64 on the CPU.

        explained     f = z_y - z_r
        absorbed_...  what each kind absorbs: sum R + all absorbed = f
        imbalance     |sum R + all absorbed - f| / (|z_y| + |z_r| + sum |R| + sum |absorbed|): relative to all that was
                      added up, so that rounding is what it measures

        relevance  R of the input, (N, C, H, W)
        logits     z, (N, K)
        """
        absorbed, z = self.absorbed, logits.cpu().double()
        explained = target.select(z)
        start = torch.stack([z.gather(1, c.cpu()[:, None])[:, 0] for c in (target.label, target.contrast)], dim=1)
        ended = torch.cat([relevance.flatten(1).cpu().double(), torch.stack(list(absorbed.values()), dim=1)], dim=1)
        defect = (ended.sum(1) - explained).abs()
        size = ended.abs().sum(1) + start.abs().sum(1)
        imbalance = torch.where(defect == 0, defect, defect / size)
        lines = {f"absorbed_{kind}": amount for kind, amount in absorbed.items()}
        return {"explained": explained, **lines, "imbalance": imbalance}


def share_of(kind: str, measured: Mapping[str, Tensor]) -> Tensor:
    """|absorbed_kind| / (|f| + sum |absorbed|) of each image (N,), from what `Books.balance` says."""
    amount = measured[f"absorbed_{kind}"].abs()
    size = measured["explained"].abs() + sum(measured[f"absorbed_{other}"].abs() for other in KINDS)
    return torch.where(amount > 0, amount / size, 0.0)


def in_words(measured: Mapping[str, Tensor]) -> str:
    """What `Books.balance` says, without parts below 0.5%; of several images each part's median, which need not add up.

    >>> one = {f"absorbed_{kind}": torch.zeros(1) for kind in KINDS} | {"absorbed_linear": torch.tensor([3.0])}
    >>> in_words(one | {"explained": torch.tensor([4.0])})
    'the map accounts for 25% of z_y - z_r, biases for 75%'
    """
    explained = measured["explained"]
    if not bool(explained.any()):
        return "z_y and z_r are equal, so that there is nothing to account for"
    nothing = torch.zeros_like(explained)  # for what maps of earlier versions do not tell
    parts = {
        name: sum(measured.get(f"absorbed_{kind}", nothing) for kind in kinds) / explained
        for name, kinds in _PARTS.items()
    }
    own = 1 - torch.stack(list(parts.values())).sum(dim=0)
    shares = {name: 100 * float(part.nanmedian()) for name, part in parts.items()}
    absorbed = "".join(f", {name} for {_percent(share)}" for name, share in shares.items() if not abs(share) < 0.5)
    told = f"the map accounts for {_percent(100 * float(own.nanmedian()))} of z_y - z_r{absorbed}"
    return told if len(explained) == 1 else f"in the median {told}"


def _percent(number: float) -> str:
    return f"{round(number)}%".replace("-", "−") if math.isfinite(number) else "nan%"


def total(value: Tensor) -> Tensor:
    """The sum over all dimensions but the first: (M, ...) -> (M,)."""
    return value.reshape(len(value), -1).sum(1)
