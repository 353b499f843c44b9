"""Teacher subspaces: streamed moments of activations and gradients, and the bases made from them."""

from xaibench.subspace.bases import BASES, Basis, make_basis
from xaibench.subspace.moments import LayerMoments, MomentAccumulator, collect_moments

__all__ = ["BASES", "Basis", "LayerMoments", "MomentAccumulator", "collect_moments", "make_basis"]
