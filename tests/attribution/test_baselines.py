from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from torch import Tensor

from xaibench.attribution.baselines import BASELINES, as_reference, check_baseline, make_baselines
from xaibench.data.images import Preprocessing
from xaibench.errors import ExplanationError, UnknownNameError


def test_black_is_pixel_zero(x: Tensor, preprocessing: Preprocessing) -> None:
    wanted = preprocessing(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    assert torch.equal(make_baselines("black", x, preprocessing), wanted[None])


def test_mean_is_the_colour_that_the_preprocessing_subtracts(x: Tensor, preprocessing: Preprocessing) -> None:
    value = make_baselines("mean", x, preprocessing)
    assert value.shape == (1, 1, 3, 16, 16)
    pixels = preprocessing.invert(value[0])
    torch.testing.assert_close(pixels, torch.tensor(preprocessing.mean).view(1, 3, 1, 1).expand(1, 3, 16, 16))


@pytest.mark.parametrize("shape", [(16, 16), (12, 20), (5, 7)])
def test_blur_is_scipys_gaussian_without_what_lies_outside(shape, preprocessing: Preprocessing) -> None:
    x = torch.randn((2, 3, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = min(shape) / 8

    def spread(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, (0, 0, sigma, sigma), mode="constant", truncate=40)

    wanted = spread(x.numpy()) / spread(np.ones_like(x.numpy()))
    np.testing.assert_allclose(make_baselines("blur", x, preprocessing)[0], wanted, atol=1e-6)


def test_blur_is_each_images_own(x: Tensor, preprocessing: Preprocessing) -> None:
    together = make_baselines("blur", x, preprocessing)
    assert together.shape == (1, *x.shape)
    alone = torch.cat([make_baselines("blur", x[i : i + 1], preprocessing)[0] for i in range(len(x))])
    torch.testing.assert_close(together[0], alone, rtol=0, atol=1e-6)


def test_uniform_draws_are_shared_seeded_and_fill_the_range_of_pixels(x: Tensor, preprocessing: Preprocessing) -> None:
    draws = make_baselines("uniform", x, preprocessing, seed=3)
    assert draws.shape == (10, 1, 3, 16, 16)
    assert torch.equal(draws, make_baselines("uniform", x[:1], preprocessing, seed=3))
    assert not torch.equal(draws, make_baselines("uniform", x, preprocessing, seed=4))
    low, high = preprocessing.bounds()
    share = ((draws - low) / (high - low)).transpose(0, 2).flatten(1)  # a row a channel
    assert 0 <= float(share.min()) < 0.01
    assert 0.99 < float(share.max()) <= 1
    torch.testing.assert_close(share.mean(dim=1), torch.full((3,), 0.5), rtol=0, atol=4 * (1 / 12 / 2560) ** 0.5)
    torch.testing.assert_close(share.var(dim=1), torch.full((3,), 1 / 12), rtol=0.1, atol=0)
    assert len({float(value) for value in draws[:, 0, 0, 0, 0]}) == 10


@pytest.mark.parametrize("batched", [False, True])
def test_a_stored_baseline_is_taken_as_it_is(batched: bool, tmp_path: Path, x, preprocessing) -> None:
    path = tmp_path / "b.safetensors"
    save_file({"any": x[:1].clone() if batched else x[0].clone()}, path)
    assert torch.equal(make_baselines(str(path), x, preprocessing), x[None, :1])


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(BASELINES)), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_baselines_are_images(name: str, n: int, height: int, width: int, seed: int) -> None:
    preprocessing = Preprocessing((0.5, 0.2), (0.3, 0.1))
    generator = torch.Generator().manual_seed(seed)
    x = preprocessing(torch.randint(0, 256, (n, 2, height, width), generator=generator, dtype=torch.uint8))
    baselines = make_baselines(name, x, preprocessing, seed)
    low, high = preprocessing.bounds()
    assert baselines.shape[1:] in {(1, *x.shape[1:]), x.shape}
    assert bool(((baselines >= low - 1e-5) & (baselines <= high + 1e-5)).all())
    assert torch.equal(baselines, make_baselines(name, x, preprocessing, seed))


def test_references_have_an_entry_an_image_or_one_for_all(x: Tensor, preprocessing: Preprocessing) -> None:
    shapes = {name: tuple(as_reference(make_baselines(name, x, preprocessing)).shape) for name in BASELINES}
    image = (3, 16, 16)
    assert shapes == {"black": (1, *image), "mean": (1, *image), "blur": (5, *image), "uniform": (1, 10, *image)}


def test_unknown_baselines(x: Tensor, preprocessing: Preprocessing) -> None:
    for call in (lambda: check_baseline("blr"), lambda: make_baselines("blr", x, preprocessing)):
        with pytest.raises(UnknownNameError, match=r"unknown baseline 'blr': did you mean 'blur'.*FILE.safe"):
            call()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (None, "no baseline at .*: give a .safetensors file with one tensor, or one of black, mean, blur, uniform"),
        ({}, "holds 0 tensors: save exactly one"),
        ({"a": torch.zeros(3, 8, 8)}, r"has shape \(3, 8, 8\), the images \(3, 16, 16\)"),
        ({"a": torch.zeros(2, 3, 16, 16)}, r"has shape \(2, 3, 16, 16\), the images \(3, 16, 16\)"),
        ({"a": torch.full((3, 16, 16), torch.nan)}, "NaN or infinite"),
        (b"nonsense", "cannot read the baseline"),
    ],
)
def test_bad_stored_baselines(tensors, message: str, tmp_path: Path, x, preprocessing) -> None:
    path = tmp_path / "b.safetensors"
    if isinstance(tensors, bytes):
        path.write_bytes(tensors)
    elif tensors is not None:
        save_file(tensors, path)
    with pytest.raises(ExplanationError, match=message):
        make_baselines(str(path), x, preprocessing)
