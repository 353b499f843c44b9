"""What stands in place of removed patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from xaibench.attribution.baselines import make_baselines
from xaibench.data.images import Preprocessing
from xaibench.errors import DataError, UnknownNameError
from xaibench.similarity.fills import FILLS, inpaint, make_fill

PREPROCESSING = Preprocessing((0.5, 0.45, 0.4), (0.25, 0.3, 0.2))


def holes(height: int, width: int, grid: int, seed: int, share: float = 0.5) -> Tensor:
    """A mask (1, 1, H, W) that leaves out about `share` of the patches of a grid, but never all."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(1, 1, grid, grid, generator=generator) >= share
    kept[0, 0, 0, 0] = True
    rows, columns = torch.arange(height) * grid // height, torch.arange(width) * grid // width
    return kept[:, :, rows][..., columns]


def images(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth colour images: low frequencies with random phases, float64."""
    generator = torch.Generator().manual_seed(seed)
    phase = 6.28 * torch.rand(n, 3, 1, 1, generator=generator, dtype=torch.float64)
    y, x = torch.linspace(0, 4, height)[:, None].double(), torch.linspace(0, 3, width).double()
    return torch.sin(y + phase) + torch.cos(x - 2 * phase)


@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=st.integers(0, 10**6), share=st.floats(0, 1))
@settings(deadline=None, max_examples=25)
def test_inpainting_keeps_what_is_kept_and_stays_between_its_extremes(
    height: int, width: int, seed: int, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    keep = (torch.rand(2, 1, height, width, generator=generator) >= share) | (torch.arange(width) == 0)
    filled = inpaint(x, keep)
    kept = keep.expand_as(x)
    assert torch.equal(filled[kept], x[kept])
    for image, mask, result in zip(x, keep, filled):
        known = image[:, mask[0]]
        assert (result.flatten(1) <= known.max(dim=1).values[:, None] + 1e-12).all()
        assert (result.flatten(1) >= known.min(dim=1).values[:, None] - 1e-12).all()
    torch.testing.assert_close(inpaint(3 * x - 2, keep), 3 * filled - 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(inpaint(x[1:], keep[1:]), filled[1:], rtol=0, atol=1e-13)
    torch.testing.assert_close(inpaint(torch.where(keep, x, torch.nan), keep), filled, rtol=0, atol=0)


def test_nothing_kept_becomes_the_mean_colour_and_a_constant_image_stays() -> None:
    x = torch.full((1, 3, 9, 7), 1.5)
    assert torch.equal(inpaint(x, torch.zeros(1, 1, 9, 7, dtype=torch.bool)), torch.zeros_like(x))
    torch.testing.assert_close(inpaint(x, holes(9, 7, 3, 0)), x)


def harmonic(image: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The exact solution for one channel: each hole pixel is the mean of its neighbours (fewer at the border)."""
    index = {tuple(place): i for i, place in enumerate(np.argwhere(~keep))}
    matrix, right = lil_matrix((len(index), len(index))), np.zeros(len(index))
    for (i, j), row in index.items():
        for a, b in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= a < image.shape[0] and 0 <= b < image.shape[1]:
                matrix[row, row] += 1
                if (a, b) in index:
                    matrix[row, index[a, b]] -= 1
                else:
                    right[row] += image[a, b]
    solved = image.copy()
    solved[~keep] = spsolve(matrix.tocsr(), right)
    return solved


@pytest.mark.parametrize(("side", "grid", "share"), [(28, 7, 0.3), (28, 7, 0.8), (32, 8, 0.5), (30, 7, 0.5)])
def test_inpainting_is_nearly_harmonic(side: int, grid: int, share: float) -> None:
    x, errors, changes = images(4, side, side), [], []
    for seed, image in enumerate(x):
        keep = holes(side, side, grid, seed, share)
        filled = inpaint(image[None], keep)[0].numpy()
        hole = ~keep[0, 0].numpy()
        exact = np.stack([harmonic(channel, ~hole) for channel in image.numpy()])
        spread = image.numpy().std()
        errors.append(np.sqrt(((filled - exact)[:, hole] ** 2).mean()) / spread)
        changes.append(np.sqrt(((image.numpy() - exact)[:, hole] ** 2).mean()) / spread)
    assert np.mean(errors) < (0.05 if share < 0.8 else 0.12)
    assert np.mean(errors) < 0.25 * np.mean(changes)


@pytest.mark.parametrize("name", ["mean", "black", "blur"])
def test_a_baseline_stands_in_the_hole(name: str) -> None:
    x = images(3, 12, 16).float()
    keep = torch.cat([holes(12, 16, 4, seed) for seed in range(2)])
    rows = torch.tensor([2, 0])
    filled = make_fill(name, x, PREPROCESSING)(rows, keep)
    base = make_baselines(name, x, PREPROCESSING)[0].expand_as(x)[rows]
    kept = keep.expand_as(filled)
    assert torch.equal(filled[kept], x[rows][kept])
    assert torch.equal(filled[~kept], base[~kept])
    assert not torch.equal(filled, x[rows])


def test_the_inpainting_fill_takes_the_chosen_images() -> None:
    x, rows, keep = images(3, 12, 12), torch.tensor([2, 2, 1]), holes(12, 12, 3, 1).expand(3, 1, 12, 12)
    assert torch.equal(make_fill("inpaint", x, PREPROCESSING)(rows, keep), inpaint(x[rows], keep))


def test_every_fill_depends_on_its_own_image_only() -> None:
    x = images(3, 12, 12).float()
    keep = holes(12, 12, 3, 0)
    for name in FILLS:
        alone = make_fill(name, x[1:2], PREPROCESSING)(torch.tensor([0]), keep)
        torch.testing.assert_close(alone, make_fill(name, x, PREPROCESSING)(torch.tensor([1]), keep), rtol=0, atol=1e-6)


def test_what_cannot_be_filled_is_refused() -> None:
    x = images(2, 8, 8)
    with pytest.raises(UnknownNameError, match="unknown fill 'blurr': did you mean 'blur'"):
        make_fill("blurr", x, PREPROCESSING)
    for mask in (torch.ones(2, 8, 8, dtype=torch.bool), torch.ones(2, 1, 8, 8)):
        with pytest.raises(DataError, match=r"the mask of images \(2, 3, 8, 8\) must be bool"):
            inpaint(x, mask)
