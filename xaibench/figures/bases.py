"""How bases of a subspace are written and drawn, and an axis of their dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from xaibench.figures.style import MUTED, MethodStyle, method_styles

__all__ = ["basis_label", "basis_styles", "dimension_axis"]

_LABELS = {
    "prcaposdef": "PRCA (positive definite)",
    "prca": "PRCA",
    "prca_abs": "PRCA (by magnitude)",
    "pca": "PCA",
    "pca_reversed": "PCA, reversed",
    "gradpca": "gradient PCA",
    "random": "random",
    "identity": "channels",
}
_STYLES = {
    "prcaposdef": MethodStyle("#D55E00", "o"),
    "pca": MethodStyle("#0072B2", "s"),
    "random": MethodStyle(MUTED, "^"),
}


def basis_label(basis: str, names: Mapping[str, str] | None = None) -> str:
    """How a basis is written; `names` overrides, basis -> what to write.

    >>> basis_label("gradpca"), basis_label("pca", {"pca": "ours"}), basis_label("mine")
    ('gradient PCA', 'ours', 'mine')
    """
    return (names or {}).get(basis, _LABELS.get(basis, basis))


def basis_styles(bases: Iterable[str]) -> dict[str, MethodStyle]:
    """Colour and marker of each basis; PRCA, PCA and random keep theirs whatever else is shown."""
    names = list(dict.fromkeys(bases))
    return method_styles(names) | {basis: style for basis, style in _STYLES.items() if basis in names}


def dimension_axis(axes: Axes, most: int) -> None:
    """A logarithmic axis of 1 to `most` directions, with a grid."""
    axes.set_xscale("log")
    axes.set_xlim(0.8, most * 1.25)
    axes.set_xticks(ticks := [tick for tick in (1, 10, 100, 1000) if tick <= most], map(str, ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
