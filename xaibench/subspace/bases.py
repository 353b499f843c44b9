"""Bases of a teacher layer's subspace, from its moments.

``prcaposdef``   (C_ac + C_ac') + 2 sqrt(t_c/t_a) C_a + 2 beta sqrt(t_a/t_c) C_c, positive semi-definite; the default
``pca``          C_a                        ``pca_reversed``  C_a, least variance first
``gradpca``      C_c                        ``random``        a seeded orthogonal matrix
``prca``         C_ac + C_ac', by value     ``identity``      the first k channels
``prca_abs``     C_ac + C_ac', by magnitude

t_a = tr C_a, t_c = tr C_c. Source: SubDistill, arXiv 2601.05913.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xaibench.errors import ConfigError, ModelError, unknown_name
from xaibench.subspace.moments import LayerMoments

__all__ = ["BASES", "Basis", "make_basis", "prcaposdef_matrix"]


@dataclass(frozen=True, eq=False)
class Basis:
    """k orthonormal directions of a layer with d channels.

    vectors  U, (d, k) float64, columns ordered from most to least important
    mean     mu, (d,): what is subtracted before projecting
    energy   sum_j u_j' C_a u_j, the mean squared length of the projected activation
    share    energy / tr C_a, the share of the activation's variance inside the subspace
    kind     the name in `BASES`
    """

    vectors: Tensor
    mean: Tensor
    energy: float
    share: float
    kind: str

    def __repr__(self) -> str:
        d, k = self.vectors.shape
        return f"Basis({self.kind}, d={d}, k={k}, share of variance={self.share:.3f})"

    def project(self, h: Tensor) -> Tensor:
        """U'(h - mu): (B, d, H, W) -> (B, k, H, W), in the dtype of `h`."""
        weight = self.vectors.T.to(h.device, h.dtype)[:, :, None, None]
        bias = -(self.vectors.T @ self.mean).to(h.device, h.dtype)
        return torch.nn.functional.conv2d(h, weight, bias)


def prcaposdef_matrix(moments: LayerMoments, beta: float = 1.0) -> Tensor:
    """beta (C_ac + C_ac') + 2 sqrt(t_c/t_a) C_a + 2 beta^2 sqrt(t_a/t_c) C_c: (d, d) float64, PSD.

    With s^2 = sqrt(t_c/t_a) it is <(s a + beta c/s)(s a + beta c/s)'> + s^2 C_a + beta^2 C_c / s^2, a sum of PSD terms.
    beta scales the gradient c; beta -> 0 is PCA, beta = 1 the method's default.
    """
    t_a, t_c = moments.activation.trace(), moments.gradient.trace()
    if t_a <= 0 or t_c <= 0:
        zero = "activations" if t_a <= 0 else "gradients"
        raise ModelError(
            f"the layer's {zero} do not vary over the images: the teacher is dead there; pair another layer"
        )
    cross = beta * (moments.cross + moments.cross.T)
    return cross + 2 * (t_c / t_a).sqrt() * moments.activation + 2 * beta**2 * (t_a / t_c).sqrt() * moments.gradient


def _top(matrix: Tensor) -> Tensor:
    return torch.linalg.eigh((matrix + matrix.T) / 2).eigenvectors.flip(1)


def _by_magnitude(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors[:, values.abs().argsort(descending=True)]


def _random(moments: LayerMoments, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    d = moments.channels
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).to(moments.mean.device)


BASES: dict[str, Callable[[LayerMoments, float, int], Tensor]] = {
    "prcaposdef": lambda m, beta, seed: _top(prcaposdef_matrix(m, beta)),
    "pca": lambda m, beta, seed: _top(m.activation),
    "pca_reversed": lambda m, beta, seed: _top(m.activation).flip(1),
    "gradpca": lambda m, beta, seed: _top(m.gradient),
    "prca": lambda m, beta, seed: _top(m.cross + m.cross.T),
    "prca_abs": lambda m, beta, seed: _by_magnitude(m.cross + m.cross.T),
    "random": lambda m, beta, seed: _random(m, seed),
    "identity": lambda m, beta, seed: torch.eye(m.channels, dtype=torch.float64, device=m.mean.device),
}


def make_basis(moments: LayerMoments, kind: str, k: int, *, beta: float = 1.0, seed: int = 0) -> Basis:
    """The k leading directions of `kind`.

    Raises UnknownNameError for an unknown kind, ConfigError for k outside 1..d or beta < 0.

    >>> m = LayerMoments(9, torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 3.0])).double(),
    ...                  torch.eye(2).double(), torch.zeros(2, 2).double())
    >>> make_basis(m, "pca", 1)
    Basis(pca, d=2, k=1, share of variance=0.750)
    """
    if kind not in BASES:
        raise unknown_name("basis", kind, BASES)
    d = moments.channels
    if not 1 <= k <= d:
        raise ConfigError(
            f"a subspace of {k} dimensions does not fit into {d} teacher channels: "
            f"choose a student layer with at most {d} channels or another teacher layer"
        )
    if not beta >= 0:
        raise ConfigError(f"beta must be at least 0, got {beta}")
    vectors = BASES[kind](moments, beta, seed)[:, :k]
    energy = torch.einsum("dk,de,ek->", vectors, moments.activation, vectors).item()
    total = moments.activation.trace().item()
    if not energy > 1e-12 * total or total <= 0:
        raise ModelError(f"the {kind} subspace of {k} dimensions holds no activation: choose another basis or layer")
    return Basis(vectors.contiguous(), moments.mean, energy, energy / total, kind)
