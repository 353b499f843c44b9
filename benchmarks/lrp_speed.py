"""LRP by xaibench and by zennit called directly, side by side: seconds a batch, and how far the maps are apart.

    python benchmarks/lrp_speed.py [--teacher cifar100_resnet18.pth]

ResNet-18 with a 3x3 stem on 32x32 images, random weights with settled batch norms or those of --teacher. Both sides
get the same images and the same question, in turn, in one process:

as is   zennit as its documentation shows: EpsilonGammaBox with ResNetCanonizer on the network as it comes, whose
        batch norms it merges less exactly (it keeps their eps); ours folds them itself
folded  the same, but zennit gets a network whose batch norms torch has fused in float64, so that both compute one and
        the same; ours gets the plain network
live    one image as the explorer asks for it: logits, checks and maps of this network and of a student, by ours
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from zennit.composites import EpsilonGammaBox
from zennit.torchvision import ResNetCanonizer

from xaibench.attribution.batch_size import Room
from xaibench.attribution.explain import explain_model
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.targets import Target, make_target
from xaibench.data.datasets import CLASS_LISTS, preprocessing_for
from xaibench.data.images import Preprocessing
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import load_checkpoint


def settled(images: Tensor) -> nn.Module:
    """A network of random weights whose batch norms have the statistics of `images`."""
    model = build_model("resnet18-cifar", 100, seed=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images)
    return model


def fused(model: nn.Module) -> nn.Module:
    """`model` with each batch norm fused into the convolution registered before it."""
    model = copy.deepcopy(model).double()
    before = ""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            before = name
        elif isinstance(module, nn.BatchNorm2d):
            model.set_submodule(before, fuse_conv_bn_eval(model.get_submodule(before), module))
            model.set_submodule(name, nn.Identity())
    return model.float().requires_grad_(False)


def by_zennit(model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> Tensor:
    """zennit's relevance (N, C, H, W)."""
    low, high = preprocessing.bounds()
    composite = EpsilonGammaBox(low=low, high=high, epsilon=1e-6, gamma=1.0, canonizers=[ResNetCanonizer()])
    x = x.clone().requires_grad_()
    with composite.context(model) as modified:
        logits = modified(x)
        mask = torch.zeros_like(logits)
        mask.scatter_(1, target.label[:, None], 1.0).scatter_(1, target.contrast[:, None], -1.0)
        return torch.autograd.grad(logits, x, grad_outputs=logits.detach() * mask)[0]


def seconds(*sides: Callable[[], Tensor], repeats: int) -> list[float]:
    """The median seconds of each side; the sides take turns."""
    taken: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, own in zip(sides, taken):
            started = time.perf_counter()
            side()
            own.append(time.perf_counter() - started)
    return [median(own) for own in taken]


def asked_live(models: Sequence[nn.Module], x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """What one look at an image x (1, C, H, W) takes; the last model's map."""
    with torch.no_grad():
        logits = [model(x) for model in models]
    target = make_target(logits[0])
    return [explain_model(model, x, target, LRP(), preprocessing).relevance for model in models][-1]


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of an image's maps relative to the maximum of its map."""
    return float(((ours - theirs).abs().amax((1, 2, 3)) / theirs.abs().amax((1, 2, 3))).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", help="state dict of a CIFAR-stem ResNet-18 on CIFAR-100's classes")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    preprocessing = preprocessing_for("cifar100")
    generator = torch.Generator().manual_seed(0)
    # Smooth pictures rather than noise: 4x4 colours, scaled up.
    small = torch.rand(args.batch, 3, 4, 4, generator=generator)
    images = (nn.functional.interpolate(small, size=32, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    x = preprocessing(images)
    if args.teacher:
        model, _ = load_checkpoint(args.teacher, "resnet18-cifar", CLASS_LISTS["cifar100"], preprocessing)
    else:
        model = settled(x)
    model = model.eval().requires_grad_(False)
    with torch.no_grad():
        target = make_target(model(x))
    plain, folded = copy.deepcopy(model), fused(model)

    def ours() -> Tensor:
        return LRP().attribute(model, x, target, preprocessing, Room(args.batch)).relevance

    sides: dict[str, nn.Module] = {"as is": plain, "folded": folded}
    print(
        f"ResNet-18 (3x3 stem), {args.batch} images of 32x32, {args.threads} threads, {os.cpu_count()} x "
        f"{platform.machine()}, torch {torch.__version__}, {args.repeats} repeats, medians"
    )
    for name, network in sides.items():

        def theirs(network: nn.Module = network) -> Tensor:
            return by_zennit(network, x, target, preprocessing)

        difference = apart(ours(), theirs())  # and a round to warm up
        own, other = seconds(ours, theirs, repeats=args.repeats)
        print(
            f"zennit {name:7s} {other:6.2f} s   ours {own:6.2f} s   {other / own:.2f} times as fast   "
            f"largest relative difference of the maps {difference:.1e}"
        )
    student = build_model("resnet18-cifar:56-56-40-40", 100, seed=0).eval()
    asked_live([model, student], x[:1], preprocessing)
    (live,) = seconds(lambda: asked_live([model, student], x[:1], preprocessing), repeats=args.repeats)
    print(f"live, one image under it and a student of widths 56-56-40-40: {live:.2f} s")


if __name__ == "__main__":
    main()
