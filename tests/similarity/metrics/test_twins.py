"""Every metric against a slow, obvious twin: one image, plain loops over Python floats."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import linprog

from xaibench.similarity.metrics.table import METRICS

Map = list[float]


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def magnitudes(a: Map) -> Map:
    return [abs(x) for x in a]


def cosine(a: Map, b: Map) -> float:
    return math.fsum(x * y for x, y in zip(a, b)) / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def pearson(a: Map, b: Map) -> float:
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    return cosine([x - mean_a for x in a], [y - mean_b for y in b])


def ranks(a: Map) -> Map:
    return [sum(y < x for y in a) + (sum(y == x for y in a) + 1) / 2 for x in a]


def spearman(a: Map, b: Map) -> float:
    return pearson(ranks(a), ranks(b))


def orders(a: Map) -> list[int]:
    return [sign(a[i] - a[j]) for i, j in itertools.combinations(range(len(a)), 2)]


def kendall(a: Map, b: Map) -> float:
    x, y = orders(a), orders(b)
    return sum(p * q for p, q in zip(x, y)) / math.sqrt(sum(map(abs, x)) * sum(map(abs, y)))


def pairwise_rank_agreement(a: Map, b: Map) -> float:
    x, y = orders(magnitudes(a)), orders(magnitudes(b))
    agreeing = [1 - abs(p - q) / 2 for p, q in zip(x, y) if p or q]
    return math.fsum(agreeing) / len(agreeing)


def ssim(a: Map, b: Map) -> float:
    side = math.isqrt(len(a))
    x, y = (np.reshape(v, (side, side)) / max(map(abs, v)) for v in (a, b))
    window = max(w for w in (1, 3, 5, 7) if w <= side)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    scores = []
    for i, j in itertools.product(range(side - window + 1), repeat=2):
        p, q = (v[i : i + window, j : j + window].ravel() for v in (x, y))
        cov = np.cov(p, q)
        numerator = (2 * p.mean() * q.mean() + c1) * (2 * cov[0, 1] + c2)
        scores.append(numerator / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)))
    return math.fsum(scores) / len(scores)


def on_places(a: Map) -> list[Map]:
    # [place][cell] -> the cell's share of this place; equal cells share theirs.
    descending = sorted(a, reverse=True)
    return [[(x == value) / descending.count(value) for x in a] for value in descending]


def within(a: Map, k: int) -> Map:
    return list(map(math.fsum, zip(*on_places(a)[:k])))


def top(a: Map) -> int:
    return max(1, round(0.1 * len(a)))


def topk_iou(a: Map, b: Map) -> float:
    w, v = within(a, top(a)), within(b, top(a))
    return math.fsum(map(min, w, v)) / math.fsum(map(max, w, v))


def topk_overlap(a: Map, b: Map) -> float:
    return math.fsum(map(min, within(a, top(a)), within(b, top(a)))) / top(a)


def sign_agreement(a: Map, b: Map) -> float:
    agreeing = [sign(x) == sign(y) for x, y in zip(a, b) if x or y]
    return sum(agreeing) / len(agreeing)


def feature_agreement(a: Map, b: Map) -> float:
    return topk_overlap(magnitudes(a), magnitudes(b))


def topk_sign_agreement(a: Map, b: Map) -> float:
    w, v = within(magnitudes(a), top(a)), within(magnitudes(b), top(a))
    return math.fsum(min(w[i], v[i]) for i in range(len(a)) if sign(a[i]) == sign(b[i])) / top(a)


def rank_agreement(a: Map, b: Map) -> float:
    places = zip(on_places(magnitudes(a))[: top(a)], on_places(magnitudes(b)))
    return math.fsum(math.fsum(map(min, p, q)) for p, q in places) / top(a)


def signed_rank_agreement(a: Map, b: Map) -> float:
    places = zip(on_places(magnitudes(a))[: top(a)], on_places(magnitudes(b)))
    same = [sign(x) == sign(y) for x, y in zip(a, b)]
    return math.fsum(math.fsum(s * min(p, q) for s, p, q in zip(same, *pair)) for pair in places) / top(a)


def rank_biased_overlap(a: Map, b: Map) -> float:
    n, p = len(a), 0.9
    w, v = (list(itertools.accumulate(on_places(x), lambda s, t: list(map(sum, zip(s, t))))) for x in (a, b))
    shared = [math.fsum(map(min, *tops)) for tops in zip(w, v)]
    tail = math.fsum(p**d * x / d for d, x in enumerate(shared, start=1))
    return shared[-1] / n * p**n + (1 - p) / p * tail


def transport(a: Map, b: Map) -> float:
    side, n = math.isqrt(len(a)), len(a)
    mass = [max(x, 0) / math.fsum(max(y, 0) for y in v) for v in (a, b) for x in v]
    cells = list(itertools.product(range(side), repeat=2))
    cost = [math.dist(p, q) for p in cells for q in cells]
    flows = np.arange(n * n).reshape(n, n)
    sums = np.zeros((2 * n, n * n))
    for i in range(n):
        sums[i, flows[i]] = sums[n + i, flows[:, i]] = 1
    least = linprog(cost, A_eq=sums[:-1], b_eq=mass[:-1], method="highs").fun
    return 1 - least / math.dist(cells[0], cells[-1])


TWINS: dict[str, Callable[[Map, Map], float]] = {
    "cosine": cosine,
    "pearson": pearson,
    "spearman": spearman,
    "kendall": kendall,
    "ssim": ssim,
    "topk_iou": topk_iou,
    "topk_overlap": topk_overlap,
    "sign_agreement": sign_agreement,
    "feature_agreement": feature_agreement,
    "topk_sign_agreement": topk_sign_agreement,
    "rank_agreement": rank_agreement,
    "signed_rank_agreement": signed_rank_agreement,
    "pairwise_rank_agreement": pairwise_rank_agreement,
    "rank_biased_overlap": rank_biased_overlap,
    "transport_positive": transport,
    "transport_negative": lambda a, b: transport([-x for x in a], [-x for x in b]),
}


def test_every_metric_has_a_twin() -> None:
    assert set(TWINS) == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("side", [4, 6, 8])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_its_slow_twin(name: str, side: int, ties: bool) -> None:
    a, b = np.random.default_rng(side).standard_normal((2, 3, side, side))
    b = 0.5 * a + b
    if ties:
        a, b = np.round(a), np.round(b)
    expected = [TWINS[name](x.ravel().tolist(), y.ravel().tolist()) for x, y in zip(a, b)]
    np.testing.assert_allclose(METRICS[name](a, b), expected, rtol=1e-9 if name.startswith("transport") else 1e-12)
