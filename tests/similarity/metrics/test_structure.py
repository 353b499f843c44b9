from __future__ import annotations

import numpy as np

from xaibench.similarity.metrics.structure import ssim, ssim_window


def test_the_window_fits_the_map_and_tiny_maps_have_none() -> None:
    assert [ssim_window(s, s) for s in (14, 8, 7, 6, 5, 4, 3)] == [7, 7, 7, 5, 5, 3, 3]
    assert ssim_window(3, 14) == 3
    a, b = np.random.default_rng(0).standard_normal((2, 3, 2, 2))
    assert np.isnan(ssim(a, b)).all()


def test_maps_need_not_be_square() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 3, 5, 9))
    np.testing.assert_allclose(ssim(a.swapaxes(1, 2), b.swapaxes(1, 2)), ssim(a, b), rtol=1e-12)
