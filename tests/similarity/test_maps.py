from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from xaibench.errors import ConfigError, DataError, UnknownNameError
from xaibench.similarity import maps
from xaibench.similarity.maps import default_grid, pool, scored, varies, with_sign
from xaibench.similarity.metrics.table import METRICS


def test_default_grid() -> None:
    assert [default_grid(s, s) for s in (224, 64, 32, 28, 12, 8, 4, 1)] == [14, 14, 8, 7, 3, 2, 2, 1]
    assert default_grid(32, 224) == 8


def test_pool_averages_blocks() -> None:
    maps = np.random.default_rng(0).standard_normal((2, 32, 32))
    expected = maps.reshape(2, 8, 4, 8, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(pool(maps), expected, rtol=1e-12)
    np.testing.assert_allclose(pool(torch.tensor(maps)), expected, rtol=1e-12)
    assert pool(maps.astype(np.float32), 5).dtype == np.float64
    assert not np.shares_memory(pool(maps, 32), maps)
    maps.flags.writeable = False
    np.testing.assert_allclose(pool(maps[:, ::-1]), expected[:, ::-1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("grid", [0, 7, -1])
def test_pool_refuses_a_grid_that_does_not_fit(grid: int) -> None:
    with pytest.raises(ConfigError, match=f"grid {grid} does not fit 6x9 heatmaps: choose 1 to 6"):
        pool(np.zeros((1, 6, 9)), grid)


@pytest.mark.parametrize("shape", [(6, 6), (2, 3, 6, 6), (2, 0, 6)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"must have the shape \(N, H, W\), got .*: sum over the channels first"):
        pool(np.zeros(shape))


def test_sign_modes() -> None:
    maps = np.array([[-2.0, 0.0, 3.0]])
    assert with_sign(maps, "signed").tolist() == [[-2, 0, 3]]
    assert with_sign(maps, "absolute").tolist() == [[2, 0, 3]]
    assert with_sign(maps, "positive").tolist() == [[0, 0, 3]]
    with pytest.raises(UnknownNameError, match="did you mean 'positive'"):
        with_sign(maps, "positiv")


def test_only_defined_pairs_are_scored_each_divided_by_its_peak() -> None:
    a = np.array([[[4.0, -2.0]], [[0.0, 0.0]], [[1.0, np.nan]], [[3.0, 3.0]], [[1.0, 0.0]]])
    seen = []

    def score(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        seen.append((x.tolist(), y.tolist()))
        return x.sum(axis=1)

    scores = scored(a, a[::-1], score, varies)
    np.testing.assert_array_equal(scores, [0.5, np.nan, np.nan, np.nan, 1])
    assert seen == [([[1, -0.5], [1, 0]], [[1, 0], [1, -0.5]])]


@pytest.mark.parametrize("name", METRICS)
def test_chunks_change_no_score(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(1).standard_normal((2, 7, 6, 6))
    a[3] = 0
    whole = METRICS[name](a, b)
    monkeypatch.setattr(maps, "_CHUNK", 2 * 36)
    np.testing.assert_array_equal(METRICS[name](a, b), whole)


@pytest.mark.parametrize("name", [name for name in METRICS if not name.startswith("transport")])
def test_memory_does_not_grow_with_the_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_CHUNK", 100 * 36)
    a, b = np.random.default_rng(2).standard_normal((2, 1000, 6, 6))

    def peak(n: int) -> int:
        tracemalloc.start()
        METRICS[name](a[:n], b[:n])
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(1000) < 1.2 * peak(300) + 8 * 1000


def test_means_that_are_rounding_noise_are_zero() -> None:
    cells = torch.tensor([0.1, 0.2, -0.3, 0.0], dtype=torch.float64).reshape(2, 2).repeat(4, 4)[None]
    assert not pool(cells, 4).any()
    tiny = torch.full((1, 4, 4), 1e-200, dtype=torch.float64)
    np.testing.assert_array_equal(pool(tiny, 2), np.full((1, 2, 2), 1e-200))


def test_every_float_type_is_read() -> None:
    maps = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        np.testing.assert_allclose(pool(maps.to(dtype), 2), pool(maps, 2), atol=0.02)
        assert METRICS["cosine"](maps.to(dtype), maps)[0] > 0.99


@pytest.mark.parametrize("grid", [2.0, 2.5, "4"])
def test_a_grid_is_a_whole_number(grid: object) -> None:
    with pytest.raises(ConfigError, match="does not fit 8x8 heatmaps: choose 1 to 8"):
        pool(np.zeros((1, 8, 8)), grid)
