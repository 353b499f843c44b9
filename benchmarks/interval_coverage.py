"""How often the 95% intervals of xaibench.similarity.intervals hold the truth, in simulated worlds.

    python benchmarks/interval_coverage.py --worlds 2000

Values of 100 images for 3, 5 and 10 seeds: a part of the seed, a part of the image (SD 1), a rest (SD 0.5, 1 and 2; 1
for ratios), all normal. "seed SD / image SE" is the standard deviation of the seeds' parts in standard errors of a
seed's mean over the images. Subtasks differ by standard normal variables, their seeds by "seed SD".
"""

from __future__ import annotations

import argparse

import numpy as np

from xaibench.similarity.intervals import (
    Interval,
    bootstrap_mean,
    mean_interval,
    ratio_interval,
    seed_interval,
    subtask_interval,
)

IMAGES, SEEDS, SPREADS, RESTS, TRUTH = 100, (3, 5, 10), (0.0, 1.0, 4.0), (0.5, 1.0, 2.0), 0.4


def scores(rng: np.random.Generator, seeds: int, spread: float, rest: float = 1.0) -> np.ndarray:
    """(S, N) with mean 0."""
    by_seed = spread * np.sqrt((1 + rest**2) / IMAGES) * rng.normal(size=(seeds, 1))
    return by_seed + rng.normal(size=IMAGES) + rest * rng.normal(size=(seeds, IMAGES))


def ratio(x: np.ndarray, rng: np.random.Generator) -> Interval:
    below = rng.uniform(1, 3, IMAGES) * rng.uniform(0.9, 1.1, (len(x), 1))
    return ratio_interval((TRUTH + 0.1 * x) * below, below)


def cover(intervals: list[Interval], truth: float = 0.0) -> float:
    return float(np.mean([one.low <= truth <= one.high for one in intervals]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, worlds = np.random.default_rng(options.seed), range(options.worlds)
    for images in (20, 50, 100, 300):
        plain = cover([bootstrap_mean(rng.normal(size=images), resamples=2000) for _ in worlds])
        print(f"bootstrap over {images} images: {plain:.3f}")
    print("| seeds, subtasks | seed SD / image SE | two-way t, rest 0.5 / 1 / 2 | ratio | over seeds | over subtasks |")
    print("|---|---|---|---|---|---|")
    for seeds in SEEDS:
        for spread in SPREADS:
            both = [cover([mean_interval(scores(rng, seeds, spread, rest)) for _ in worlds]) for rest in RESTS]
            ratios = cover([ratio(scores(rng, seeds, spread), rng) for _ in worlds], TRUTH)
            alone = cover([seed_interval(rng.normal(size=seeds)) for _ in worlds])
            tasks = [rng.normal(size=(seeds, 1)) + spread * rng.normal(size=(seeds, 3)) for _ in worlds]
            over = cover([subtask_interval(x) for x in tasks])
            two_way = " / ".join(f"{one:.3f}" for one in both)
            print(f"| {seeds} | {spread:g} | {two_way} | {ratios:.3f} | {alone:.3f} | {over:.3f} |", flush=True)


if __name__ == "__main__":
    main()
