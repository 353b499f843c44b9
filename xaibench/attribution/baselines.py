"""Images that stand for "nothing to see": what an explanation is measured against."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from xaibench.attribution.base import reason
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError, unknown_name

__all__ = ["BASELINES", "as_reference", "check_baseline", "make_baselines"]

BASELINES = {
    "black": "black pixels",
    "mean": "the data's mean colour (0 in normalised space)",
    "blur": "each image blurred by a Gaussian of an eighth of its shorter side",
    "uniform": "10 images of uniform noise in the range of pixels, over which explainers average",
}
"""Names of the baselines -> what they are. A file FILE.safetensors is one too."""

UNIFORM_DRAWS = 10
BLUR_SHARE = 1 / 8


def check_baseline(name: str) -> None:
    """Raise UnknownNameError unless `name` is in BASELINES or that of a .safetensors file."""
    if name not in BASELINES and not name.endswith(".safetensors"):
        raise unknown_name("baseline", name, [*BASELINES, "FILE.safetensors"])


def make_baselines(name: str, x: Tensor, preprocessing: Preprocessing, seed: int = 0) -> Tensor:
    """The baselines (S, M, C, H, W) of images x (N, C, H, W), both in normalised space: S alternatives, M = 1 or N.

    name  "black": pixel 0. "mean": 0 in normalised space, the colour that the preprocessing subtracts. "blur": each
          image under a Gaussian with a standard deviation of 1/8 of its shorter side, weights renormalised at the
          border (M = N). "uniform": S = 10 draws of independent uniform pixels, the same for all images. Or a
          .safetensors file that holds one tensor (C, H, W) or (1, C, H, W) in normalised space.
    seed  of the draws

    Raises UnknownNameError for another name, and ExplanationError for a file that cannot be read or does not fit.
    """
    check_baseline(name)
    low, high = (bound.to(x.dtype) for bound in preprocessing.bounds(x.device))
    shape = x.shape[1:]
    if name == "black":
        return low.expand(1, 1, *shape).contiguous()
    if name == "mean":
        return x.new_zeros(1, 1, *shape)
    if name == "blur":
        return _blurred(x)[None]
    if name == "uniform":
        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand((UNIFORM_DRAWS, 1, *shape), generator=generator).to(x)
        return low + draws * (high - low)
    return _stored(Path(name), tuple(shape)).to(x)


def as_reference(baselines: Tensor) -> Tensor:
    """Baselines (S, M, C, H, W) as they are stored with maps: (M, C, H, W), or (M, S, C, H, W) where S > 1."""
    return baselines[0] if len(baselines) == 1 else baselines.transpose(0, 1)


def _blurred(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    sigma = BLUR_SHARE * min(height, width)

    def smoothing(side: int) -> Tensor:
        place = torch.arange(side, dtype=torch.float64)
        weight = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
        return (weight / weight.sum(dim=1, keepdim=True)).to(x)

    return smoothing(height) @ x @ smoothing(width).T


def _stored(path: Path, shape: tuple[int, ...]) -> Tensor:
    if not path.is_file():
        raise ExplanationError(
            f"no baseline at {path}: give a .safetensors file with one tensor, or one of {', '.join(BASELINES)}"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ExplanationError(f"cannot read the baseline {path} ({reason(error)}): save it again") from error
    if len(tensors) != 1:
        raise ExplanationError(f"the baseline {path} holds {len(tensors)} tensors: save exactly one")
    (value,) = tensors.values()
    if tuple(value.shape) not in (shape, (1, *shape)):
        raise ExplanationError(
            f"the baseline {path} has shape {tuple(value.shape)}, the images {shape}: they must agree"
        )
    if not bool(torch.isfinite(value).all()):
        raise ExplanationError(f"the baseline {path} has NaN or infinite values: save it again")
    return value.reshape(1, 1, *shape)
