"""Seconds of every heatmap metric on 10,000 pairs of 14x14 maps, and of the earth mover's distance on 100.

    python benchmarks/metrics_speed.py

All metrics but the earth mover's distance together are to stay within 10 seconds on 2 cores.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np

from xaibench.similarity.metrics.table import METRICS

SECONDS = 10.0
SLOW = ("transport_positive", "transport_negative")  # POT solves one linear programme a pair


def peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if sys.platform == "darwin" else 1e3)


def seconds(name: str, a: np.ndarray, b: np.ndarray) -> float:
    """Time of one metric on all pairs, after a first call on a few."""
    METRICS[name](a[:2], b[:2])
    start = time.perf_counter()
    METRICS[name](a, b)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--slow-pairs", type=int, default=100)
    parser.add_argument("--grid", type=int, default=14)
    options = parser.parse_args()
    a, b = np.random.default_rng(0).standard_normal((2, options.pairs, options.grid, options.grid))
    b += 0.5 * a

    before, total = peak(), 0.0
    for name in METRICS:
        if name not in SLOW:
            spent = seconds(name, a, b)
            total += spent
            print(f"{name:24} {options.pairs:7} pairs {spent:8.2f} s")
    print(f"{'together':24} {options.pairs:7} pairs {total:8.2f} s (at most {SECONDS:g})")
    print(f"{'memory beside the maps':24} {peak() - before:13.0f} MB")
    for name in SLOW:
        spent = seconds(name, a[: options.slow_pairs], b[: options.slow_pairs])
        print(f"{name:24} {options.slow_pairs:7} pairs {spent:8.2f} s")
    if total > SECONDS:
        raise SystemExit(f"all metrics took {total:.1f} s, more than {SECONDS:g}")


if __name__ == "__main__":
    main()
