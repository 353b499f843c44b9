"""Peak memory of every explainer within a budget: is `memory=` kept, at 32 and at 224 pixels?

    python benchmarks/explain_memory.py --memory 512

Each measurement is a process of its own (Linux): the highest resident memory during `explain_model`, checks included,
less that before. Copies of the weights come on top of the budget. Networks with random weights explain `--images`
random images: a ResNet-18 by every explainer, and below by what asks for most memory beside a network's own passes:

light        a network of two layers (224 pixels), whose passes take less than the gradients that integrated gradients
             keep
transformer  a small ViT of 1025 tokens (224 pixels), whose attention weights take 90% of what a pass of AttnLRP writes
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from xaibench.attribution.explain import explain_model
from xaibench.attribution.explainers import EXPLAINERS, parse_explainer
from xaibench.attribution.targets import make_target
from xaibench.data.images import Preprocessing
from xaibench.models.architectures import build_model

# At 224 pixels covering methods would take hours in small steps; the memory of a pass does not depend on their number.
OPTIONS = {"shapley": {32: "shapley:samples=2", 224: "shapley:patch=56,samples=1"}}
OPTIONS["occlusion"] = {32: "occlusion", 224: "occlusion:patch=56,stride=56"}
FORMS = {32: "resnet18-cifar", 224: "resnet18"}
HARD = {
    "light": ("ig:tolerance=0.0005", "ig:baseline=uniform", "smoothgrad:samples=500"),
    "transformer": ("lrp:attention=attnlrp", "lrp", "ig"),
}
MIB = 2**20


def network(form: str) -> nn.Module:
    """A network of ten classes."""
    torch.manual_seed(0)
    if form == "transformer":
        return VisionTransformer(img_size=224, patch_size=7, embed_dim=48, depth=3, num_heads=3, num_classes=10)
    if form == "light":
        first, second = nn.Conv2d(3, 4, 7, stride=8), nn.Conv2d(4, 8, 3, stride=2)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 13 * 13, 10))
    return build_model(form, 10)


def peak() -> int:
    """Bytes of the highest resident memory since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(explainer: str, form: str, images: int, memory: int) -> None:
    """Print the bytes that explaining takes beyond what is there before."""
    size = 32 if form == FORMS[32] else 224
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, (size, size))
    model = network(form).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    x = preprocessing(torch.randint(0, 256, (images, 3, size, size), generator=generator, dtype=torch.uint8))
    with torch.no_grad():
        target = make_target(torch.cat([model(part) for part in x.split(1)]))
    for text in ("input-x-gradient", f"shapley:samples=1,patch={size}"):  # libraries wake up
        explain_model(model, x[:2], target.take([0, 1]), text, preprocessing, memory=1, check=False)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = peak()
    explain_model(model, x, target, parse_explainer(explainer), preprocessing, memory=memory, check=form not in HARD)
    print(peak() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=int, default=512, help="the budget in MiB")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.measure:
        measure(*options.measure, options.images, options.memory * MIB)
        return

    def taken(explainer: str, form: str) -> int:
        call = [sys.executable, __file__, "--measure", explainer, form]
        call += ["--images", str(options.images), "--memory", str(options.memory)]
        return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()[-1])

    weights = sum(value.nbytes for value in network("resnet18").state_dict().values())
    print(f"budget {options.memory} MiB, {options.images} images; MiB beyond what was there before")
    print(f"ResNet-18, whose weights take {weights / MIB:.0f} MiB\n{'':36s}{'32 pixels':>12s}{'224 pixels':>12s}")
    kept = True
    for name in EXPLAINERS:
        values = [taken(OPTIONS.get(name, {}).get(size, name), form) for size, form in FORMS.items()]
        kept &= max(values) <= options.memory * MIB + 2 * weights
        print(f"{name:36s}" + "".join(f"{value / MIB:12.0f}" for value in values), flush=True)
    for form, explainers in HARD.items():
        for explainer in explainers:
            value = taken(explainer, form)
            kept &= value <= options.memory * MIB
            print(f"{form + ', ' + explainer:36s}{'':12s}{value / MIB:12.0f}", flush=True)
    print("the budget, and two copies of a ResNet's weights, are " + ("kept by all" if kept else "NOT kept by all"))


if __name__ == "__main__":
    main()
