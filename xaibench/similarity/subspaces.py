"""Features and relevance within a teacher's subspace: what share it carries, and how alike a student's are to it.

A *frame* reads a layer in k directions. The teacher's are those of a subspace basis; the student's are fitted so that
its features turn into the teacher's coordinates. Relevance h'c goes with them: coordinate x context, direction by
direction. Relevance is extensive and coordinates are not, but all measures here are free of scale, so both are averaged
where maps of different sizes are brought to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xaibench.errors import ConfigError, DataError
from xaibench.models.maps import common_size, pool_to
from xaibench.similarity.intervals import Interval, ratio_interval
from xaibench.similarity.metrics.table import cosine
from xaibench.subspace.bases import Basis
from xaibench.subspace.moments import MomentAccumulator

__all__ = [
    "Frame",
    "FrameFit",
    "Projection",
    "at_one_size",
    "cosines",
    "direction_cosines",
    "locations",
    "random_rotation",
    "relevance_by_direction",
    "relevance_shares",
    "residuals",
]

Array = npt.NDArray[np.float64]


class Projection(NamedTuple):
    """A layer in the coordinates of a frame.

    activation  U'(h - mean), (N, k, H, W)
    context     U'c, (N, k, H, W)
    """

    activation: Tensor
    context: Tensor

    @property
    def relevance(self) -> Tensor:
        """What each direction carries at each location, (N, k, H, W)."""
        return self.activation * self.context


@dataclass(frozen=True, eq=False)
class Frame:
    """k orthonormal directions of a layer with d channels.

    directions  U, (d, k): coordinates are U'(h - mean), their contexts U'c
    mean        (d,), what is subtracted first. 0 leaves the relevance that LRP distributes, whose sum is the explained
                output; with the mean of a basis it is what the basis was made for, a'c with a = h - mu, and the
                constant part mu'c is left out
    """

    directions: Tensor
    mean: Tensor

    @classmethod
    def of_basis(cls, basis: Basis) -> Frame:
        """The frame of a teacher's subspace: U_k and mu."""
        return cls(basis.vectors, basis.mean)

    @property
    def uncentred(self) -> Frame:
        """The same directions, with nothing subtracted."""
        return replace(self, mean=torch.zeros_like(self.mean))

    def first(self, k: int | None) -> Frame:
        """Its k leading directions alone; None: all."""
        return replace(self, directions=self.directions[:, :k])

    def rotated(self, rotation: Tensor) -> Frame:
        """Coordinates turned by an orthogonal (k, k) matrix R: U R'."""
        return replace(self, directions=self.directions @ rotation.T.to(self.directions))

    def project(self, activation: Tensor, context: Tensor) -> Projection:
        """Maps (N, d, H, W) of a layer's activation and context -> their coordinates, in the maps' dtype.

        Raises DataError for maps of other shapes or channels than the frame's.
        """
        d = len(self.directions)
        if activation.shape != context.shape or activation.ndim != 4 or activation.shape[1] != d:
            raise DataError(
                f"activations {tuple(activation.shape)} and contexts {tuple(context.shape)} do not fit directions of "
                f"{d} channels: both must be (N, {d}, H, W), of the frame's layer"
            )
        centred = activation - self.mean.to(activation)[:, None, None]
        return Projection(
            *(torch.einsum("dk,ndhw->nkhw", self.directions.to(maps), maps) for maps in (centred, context))
        )


class FrameFit:
    """Finds the student's frame in one pass: the rotation Q that brings its features nearest the teacher's coordinates.

    k  the student's channels, and the directions of the teacher's subspace

    Q maximises tr(Q <s t'>), s the student's centred features, t the teacher's coordinates U_k'(h - mu): orthogonal
    Procrustes, Q = B A' from <s t'> = A S B'. It is the rotation that SubDistill learns, at its best for the weights as
    they are, and as it asks nothing of how a student was trained it serves students of every method. The frame's
    directions are Q'. Memory O(k^2). (That SubDistill's `peer_bn` z-scores the student's channels while training makes
    hardly a difference here: with z-scores the explained variance changed by 0.015 at most.)

    Source: Schönemann 1966, doi 10.1007/BF02289451.
    """

    def __init__(self, k: int) -> None:
        self._moments = MomentAccumulator(k)

    def update(self, student: Tensor, target: Tensor) -> None:
        """Add images, best training images: the student's maps (B, k, H, W) and the teacher's coordinates (B, k, h, w).

        Where sizes differ the larger maps are averaged down. Raises DataError for other shapes.
        """
        self._moments.update(*(locations(maps).cpu() for maps in at_one_size(student, target)))

    def result(self) -> Frame:
        """The frame for all images so far. Raises DataError for none and for features that are the same everywhere."""
        found = self._moments.result()
        if not bool(found.activation.any()):
            raise DataError("the student's features are the same everywhere: its layer is dead, choose another")
        left, _, right = torch.linalg.svd(found.cross)
        return Frame(left @ right, found.mean)


def random_rotation(k: int, seed: int = 0) -> Tensor:
    """A (k, k) float64 orthogonal matrix, uniformly distributed: what a rotation gives by chance."""
    if k < 1:
        raise ConfigError(f"a rotation needs at least 1 dimension, got {k}")
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def relevance_by_direction(projection: Projection) -> Array:
    """Relevance of each direction, summed over the locations of an image: (N, k).

    With a frame of all d directions the k sums add up to the relevance of the layer (of h - mean), (h - mean)'c summed
    over its locations: see `relevance_shares`.
    """
    return np.asarray(projection.relevance.double().sum(dim=(2, 3)).cpu().numpy())


def relevance_shares(parts: npt.ArrayLike, counts: Sequence[int], *, seed: int = 0) -> list[Interval]:
    """Share of the relevance that the first k directions carry, for each k of `counts`, with its 95% interval.

    sum_n sign(R_n) R_nk / sum_n |R_n|: R_nk what image n has in the first k directions, R_n in all d. Images count by
    the size of their relevance, whatever its sign, so that images for and against their class do not cancel out. Beyond
    [0, 1] where directions speak against each other; k/d on average with random directions.

    parts  `relevance_by_direction` of a frame of all d directions, (N, d)
    """
    sums = np.asarray(parts, dtype=np.float64).cumsum(axis=1)
    whole = np.abs(sums[:, -1])[None]
    return [ratio_interval((np.sign(sums[:, -1]) * sums[:, k - 1])[None], whole, seed=seed) for k in counts]


def cosines(a: Tensor, b: Tensor) -> Array:
    """Cosine of all coordinates and locations together, per image: maps (N, k, H, W) twice -> (N,).

    Larger maps are averaged down; NaN where one is all zero or not finite.
    """
    one, other = at_one_size(a, b)
    return cosine(one.flatten(2), other.flatten(2))


def direction_cosines(a: Tensor, b: Tensor) -> Array:
    """Cosine over locations of each direction: maps (N, k, H, W) twice -> (N, k); else as `cosines`."""
    one, other = at_one_size(a, b)
    return np.stack([cosine(one[:, j], other[:, j]) for j in range(one.shape[1])], axis=1)


def residuals(target: Tensor, estimate: Tensor) -> tuple[Array, Array]:
    """Of each image, ||t - b e||^2 and ||t||^2 summed over coordinates and locations: (N,), (N,).

    b = <t e> / <e e> over all images: coordinates are compared up to one common scale, which rotations leave open.
    1 - `ratio_interval` of the two is the explained variance where t is centred.
    """
    t, e = (maps.double() for maps in at_one_size(target, estimate))
    scale = (t * e).sum() / (e * e).sum() if bool(e.any()) else 0.0
    sums = ((t - scale * e).square(), t.square())
    error, energy = (np.asarray(part.sum(dim=(1, 2, 3)).cpu().numpy()) for part in sums)
    return error, energy


def locations(maps: Tensor) -> Tensor:
    """Maps (N, k, H, W) as one row a location, (N H W, k)."""
    return maps.movedim(1, -1).flatten(0, -2)


def at_one_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (N, k, H, W) of two models, the larger ones averaged down to the smaller height and width.

    Raises DataError for other numbers of images or directions.
    """
    if a.ndim != 4 or b.ndim != 4 or a.shape[:2] != b.shape[:2]:
        raise DataError(
            f"maps of shapes {tuple(a.shape)} and {tuple(b.shape)}: both must be (N, k, H, W), of the same images and "
            "as many directions"
        )
    size = common_size((a.shape[1], a.shape[2], a.shape[3]), (b.shape[1], b.shape[2], b.shape[3]))
    return pool_to(a, size), pool_to(b, size)
