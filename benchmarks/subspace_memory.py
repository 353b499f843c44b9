"""Peak memory of the subspace step against the number of images: streamed moments and the plain way, which stores.

    python benchmarks/subspace_memory.py

Each row is a process of its own. Images are random and made batch by batch, so that they take no room themselves; the
teacher is a CIFAR-stem ResNet-18. The plain way keeps 20 locations an image of one layer (the widest) at a time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from plain_recipe import prca_basis, sample_layer
from torch import Tensor

from xaibench.files import write_json
from xaibench.models.architectures import build_model
from xaibench.subspace import collect_moments, make_basis

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def batches(n: int, size: int) -> Iterator[Tensor]:
    """n images (3, size, size) of noise, in batches of 64."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, n, 64):
        yield torch.randn(min(64, n - start), 3, size, size, generator=generator)


def peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if sys.platform == "darwin" else 1e3)


def measure(way: str, n: int, model: str, size: int) -> dict[str, float]:
    teacher = build_model(model, 100).eval().requires_grad_(False)
    before, started = peak(), time.perf_counter()
    if way == "streamed":
        for moments in collect_moments(teacher, LAYERS, batches(n, size)).values():
            make_basis(moments, "prcaposdef", 8)
    else:
        prca_basis(*sample_layer(teacher, LAYERS[-1], batches(n, size), torch.arange(5)), 8)
    return {"peak": peak(), "before": before, "seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+", type=int, default=[500, 2000, 5000, 20000])
    parser.add_argument("--model", default="resnet18-cifar")
    parser.add_argument("--size", type=int, default=32, help="height and width of an image")
    parser.add_argument("--out", type=Path, help="write the numbers there, as JSON")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], int(args.measure[1]), args.model, args.size)))
        return
    rows = []
    print(f"{'images':>8s}{'streamed, 4 layers [MB]':>26s}{'stored, 1 layer [MB]':>24s}")
    for n in args.images:
        row: dict[str, float] = {"images": n}
        for way in ("streamed", "stored"):
            options = ["--model", args.model, "--size", str(args.size), "--measure", way, str(n)]
            done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True)
            row |= {f"{way} {key}": value for key, value in json.loads(done.stdout).items()}
        rows.append(row)
        print(f"{n:8d}{row['streamed peak']:26.0f}{row['stored peak']:24.0f}", flush=True)
    growth = {way: rows[-1][f"{way} peak"] - rows[0][f"{way} peak"] for way in ("streamed", "stored")}
    print(
        f"growth from {args.images[0]} to {args.images[-1]} images: "
        + ", ".join(f"{k} {v:+.0f} MB" for k, v in growth.items())
    )
    if args.out:
        write_json(args.out, rows)


if __name__ == "__main__":
    main()
