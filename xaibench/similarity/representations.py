"""How alike two sets of features are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xaibench.errors import ConfigError, DataError
from xaibench.similarity.fills import inpaint
from xaibench.validation import checked

__all__ = ["distance_correlation", "feature_similarity_score", "linear_cka", "relevant_part"]


@checked(error=DataError)
def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment ||A'B||_F^2 / (||A'A||_F ||B'B||_F), columns centred, in float64; in [0, 1].

    a, b  features of the same N samples, (N, d) or (N, C, H, W); maps are flattened to (N, C*H*W). (To take locations
          as samples, pass `h.movedim(1, -1).flatten(0, -2)`.)

    1 where one is a rotation, scaling or shift of the other; NaN where features are constant over samples. Computed
    from whichever is smaller, the d x d or the N x N products. Raises DataError for other shapes, different N, N < 2,
    or values that are not finite. Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    x, y = _same_samples("CKA", a, b)
    if len(x) < max(x.shape[1], y.shape[1]):
        k, m = x @ x.T, y @ y.T
        shared, own = (k * m).sum(), k.norm() * m.norm()
    else:
        shared, own = (x.T @ y).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
    return float(shared / own) if own > 0 else float("nan")


@checked(error=DataError)
def distance_correlation(a: Tensor, b: Tensor, *, corrected: bool = False, unit_rows: bool = False) -> float:
    """Squared distance correlation <A, B> / sqrt(<A, A> <B, B>), A and B the doubly centred matrices of the Euclidean
    distances between samples, in float64.

    a, b       features of the same N samples, (N, d) or (N, C, H, W); maps are flattened to (N, C*H*W)
    corrected  False: A_ij = |a_i - a_j| - row mean - column mean + mean, in [0, 1], 0 only for independent features
               as N grows: with more features than samples it is near 1 whatever they are. True: the unbiased form
               (U-centring, diagonal left out), in [-1, 1] and 0 on average for independent features; it needs N >= 4
    unit_rows  True: each sample's features are divided by their length first, as UniCAM does

    1 where one is a rotation or scaling of the other, or a shift (not with `unit_rows`); NaN where features are
    constant over samples. Memory O(N^2), time O(N^2 d). Like UniCAM's code it takes no root: the distance correlation
    of Székely et al. is the root of the uncorrected form. Raises DataError as `linear_cka`.

    Source: Székely, Rizzo & Bakirov 2007, doi 10.1214/009053607000000505; corrected: Székely & Rizzo 2014, doi
    10.1214/14-AOS1255; UniCAM, arXiv 2412.13943.
    """
    if unit_rows:
        a, b = (F.normalize(_flat(features)) for features in (a, b))
    x, y = _same_samples("distance correlation", a, b)
    if corrected and len(x) < 4:
        raise DataError(f"the corrected distance correlation needs at least 4 samples, got {len(x)}: give more images")
    left, right = (_centred_distances(features, corrected) for features in (x, y))
    own = left.norm() * right.norm()
    return float((left * right).sum() / own) if own > 0 else float("nan")


@checked(error=DataError)
def feature_similarity_score(teacher: Tensor, student: Tensor) -> float:
    """UniCAM's FSS: `distance_correlation` with unit rows of what two models see in what matters to each; in [0, 1].

    teacher, student  features (N, d) or (N, C, H, W) of a layer of each model, computed not from the N images but from
                      the `relevant_part` of each under that very model's explanation of that layer

    After the authors' public code, which explains with HiResCAM (gradient x activation of the layer, summed over its
    channels), keeps the 20% most relevant pixels and fills the others by ROAD's imputation; whether the paper's formula
    differs could not be read. As every uncorrected distance correlation it is high by chance alone where features
    outnumber samples: in the last layer on CIFAR-100 people an untrained student scores 0.64, one distilled by
    SubDistill 0.64 too. Hold it against mismatched images, and prefer `distance_correlation(corrected=True)` (0.08 and
    0.74 there). Source: arXiv 2412.13943.
    """
    return distance_correlation(teacher, student, unit_rows=True)


@checked(error=DataError)
def relevant_part(x: Tensor, heatmaps: Tensor, share: float = 0.2) -> Tensor:
    """Images of which the most relevant pixels are kept and the others continued from them: (N, C, H, W).

    x         images (N, C, H, W) in normalised space
    heatmaps  (N, h, w) signed relevance, brought to H x W bilinearly
    share     of the pixels is kept, at least one: those of the largest relevance

    The others are filled by `fills.inpaint`. Raises DataError for shapes that do not match, ConfigError for a share
    outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share must be above 0 and at most 1, got {share}: 0.2 keeps a fifth of the pixels")
    if x.ndim != 4 or heatmaps.ndim != 3 or len(x) != len(heatmaps):
        raise DataError(
            f"images of shape {tuple(x.shape)} and heatmaps of shape {tuple(heatmaps.shape)}: "
            "give (N, C, H, W) and (N, h, w) of the same images"
        )
    size = (x.shape[2], x.shape[3])
    maps = F.interpolate(heatmaps[:, None].double(), size, mode="bilinear", align_corners=False).flatten(1)
    order = maps.argsort(dim=1, descending=True, stable=True)[:, : max(1, round(share * maps.shape[1]))]
    keep = torch.zeros_like(maps, dtype=torch.bool).scatter_(1, order, True)
    return inpaint(x, keep.view(len(x), 1, *size).to(x.device))


def _centred_distances(x: Tensor, corrected: bool) -> Tensor:
    gram, n = x @ x.T, len(x)
    lengths = gram.diagonal()
    distances = (lengths[:, None] + lengths - 2 * gram).clamp(min=0).sqrt().fill_diagonal_(0)
    rows, total = distances.sum(dim=0), distances.sum()
    if not corrected:
        return distances - rows / n - rows[:, None] / n + total / n**2
    centred = distances - (rows + rows[:, None]) / (n - 2) + total / ((n - 1) * (n - 2))
    return centred.fill_diagonal_(0)


def _same_samples(what: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    x, y = _centred(a), _centred(b)
    if len(x) != len(y):
        raise DataError(f"features of {len(x)} and {len(y)} samples: {what} needs the same samples in both")
    return x, y


def _flat(features: Tensor) -> Tensor:
    if features.ndim not in (2, 4) or len(features) < 2:
        raise DataError(f"features must have shape (N, d) or (N, C, H, W) with N >= 2, got {tuple(features.shape)}")
    return features.detach().double().flatten(1)


def _centred(features: Tensor) -> Tensor:
    x = _flat(features)
    if not bool(torch.isfinite(x).all()):
        raise DataError("features contain NaN or infinite values: check the model and its input")
    peak = x.abs().max()
    x = x - x.mean(dim=0)
    # What remains of a constant column after rounding is not variation.
    return torch.where(x.abs() > 1e-14 * peak, x, torch.zeros_like(x)) / peak if peak > 0 else x
