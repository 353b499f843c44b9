"""Peak memory of every explainer within a budget: is `memory=` kept, at 32 and at 224 pixels?

    python benchmarks/explain_memory.py --memory 512

Each measurement is a process of its own (Linux): the highest resident memory during `explain_model` less that before.
Copies of the weights come on top of the budget. A ResNet-18 with random weights explains `--images` random images.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from xaibench.attribution.explain import explain_model
from xaibench.attribution.explainers import EXPLAINERS, parse_explainer
from xaibench.attribution.targets import make_target
from xaibench.data.images import Preprocessing
from xaibench.models.architectures import build_model

# At 224 pixels covering methods would take hours in small steps; the memory of a pass does not depend on their number.
OPTIONS = {"shapley": {32: "shapley:samples=2", 224: "shapley:patch=56,samples=1"}}
OPTIONS["occlusion"] = {32: "occlusion", 224: "occlusion:patch=56,stride=56"}
FORMS = {32: "resnet18-cifar", 224: "resnet18"}
MIB = 2**20


def peak() -> int:
    """Bytes of the highest resident memory since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(explainer: str, size: int, images: int, memory: int) -> None:
    """Print the bytes that explaining takes beyond what is there before."""
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, (size, size))
    model = build_model(FORMS[size], 10).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    x = preprocessing(torch.randint(0, 256, (images, 3, size, size), generator=generator, dtype=torch.uint8))
    with torch.no_grad():
        target = make_target(torch.cat([model(part) for part in x.split(1)]))
    explain_model(model, x[:2], target.take([0, 1]), "input-x-gradient", preprocessing, memory=1)  # libraries wake up
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = peak()
    explain_model(model, x, target, parse_explainer(explainer), preprocessing, memory=memory, check=False)
    print(peak() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, default=512, help="the budget in MiB")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.measure:
        explainer, size = options.measure
        measure(explainer, int(size), options.images, options.memory * MIB)
        return
    weights = sum(value.nbytes for value in build_model("resnet18", 10).state_dict().values())
    print(f"budget {options.memory} MiB, {options.images} images; the network's weights take {weights / MIB:.0f} MiB")
    print(f"{'explainer':18s}{'32 pixels':>12s}{'224 pixels':>12s}   MiB beyond what was there before")
    kept = True
    for name in EXPLAINERS:
        taken = []
        for size in FORMS:
            text = OPTIONS.get(name, {}).get(size, name)
            call = [sys.executable, __file__, "--measure", text, str(size)]
            call += ["--images", str(options.images), "--memory", str(options.memory)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            taken.append(int(done.stdout.split()[-1]))
        kept &= max(taken) <= options.memory * MIB + 2 * weights
        print(f"{name:18s}" + "".join(f"{value / MIB:12.0f}" for value in taken), flush=True)
    print("the budget and two copies of the weights are " + ("kept by all" if kept else "NOT kept by all"))


if __name__ == "__main__":
    main()
