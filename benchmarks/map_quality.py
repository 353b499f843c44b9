"""What LRP's maps account for, and what the measure of faithfulness owes to its settings.

    make demo
    python benchmarks/map_quality.py --run runs/demo
    python benchmarks/map_quality.py --teacher cifar100_resnet18.pth --data imagefolder:CIFAR100
    python benchmarks/map_quality.py --installed

--run        pixel flipping of the run's teacher in the order of its LRP maps: the mean gap over a random order for each
             fill in as many steps as the grid has rows and in one step a patch, how both go together over the images,
             and the standard deviation over 20 random orders of the area, forwards alone and forwards and backwards
--teacher    the books of LRP for a CIFAR-100 teacher on 40 test images of the superclass people
--installed  the same for the ImageNet networks of `xaibench info` on 20 photographs of the package foolbox
"""

from __future__ import annotations

import argparse
import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from xaibench.attribution.explain import explain_model
from xaibench.attribution.targets import Target, make_target
from xaibench.data.folders import pixels_of
from xaibench.data.images import Preprocessing
from xaibench.models.checkpoints import load_checkpoint
from xaibench.models.imagenet import INSTALLED
from xaibench.models.predict import predict_logits
from xaibench.run.config import DataConfig, RunConfig, TeacherConfig
from xaibench.run.folder import open_run
from xaibench.run.inputs import load_assets
from xaibench.similarity.faithfulness import random_area
from xaibench.similarity.fills import FILLS
from xaibench.similarity.flipping import flip_curve
from xaibench.similarity.patch_order import patch_order, patch_side, random_order

ORDERS = 20


def of_run(folder: str) -> None:
    """Gaps of the run's teacher by fill and steps, and the noise of a random order."""
    run = open_run(folder)
    pair = load_assets(run.config).pair
    x = pair.preprocessing(run.images.images)
    maps = run.attribution("teacher", "lrp")
    order = patch_order(maps.scored_heatmaps)
    side = patch_side(*x.shape[2:])

    def area(order: np.ndarray, fill: str = "inpaint", steps: int = side) -> np.ndarray:
        return flip_curve(pair.teacher, x, order, maps.target, pair.preprocessing, fill=fill, steps=steps).auc

    for fill in FILLS:
        areas = [partial(area, fill=fill, steps=steps) for steps in (side, side**2)]
        few, all_ = (random_area(one, len(x), side**2) - one(order) for one in areas)
        print(
            f"{fill:8s} gap {few.mean():+.3f} in {side} steps, {all_.mean():+.3f} in {side**2}, "
            f"correlation over images {np.corrcoef(few, all_)[0, 1]:.3f}"
        )
    single = [area(random_order(len(x), side**2, seed)) for seed in range(ORDERS)]
    both = [random_area(area, len(x), side**2, seed) for seed in range(ORDERS)]
    spread = (float(np.std(values, axis=0, ddof=1).mean()) for values in (single, both))
    print("SD of a random order's area: {:.2f} forwards, {:.2f} forwards and backwards".format(*spread))


def books(name: str, model: nn.Module, x: Tensor, target: Target, preprocessing: Preprocessing) -> None:
    """One line: what the maps of a network account for."""
    found = explain_model(model, x, target, "lrp", preprocessing)
    print(f"{name}, {len(x)} images: {found.in_words()}; imbalance at most {found.measured['imbalance'].max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a finished run with LRP")
    parser.add_argument("--teacher", help="a CIFAR-100 checkpoint of a ResNet-18")
    parser.add_argument("--data", help="images for it, as imagefolder:PATH")
    parser.add_argument("--installed", action="store_true")
    options = parser.parse_args()
    if options.run:
        of_run(options.run)
    if options.teacher:
        config = RunConfig(
            data=DataConfig(dataset=options.data, subtask="people"),
            teacher=TeacherConfig(checkpoint=options.teacher, architecture="resnet18-cifar", classes="cifar100"),
        )
        assets = load_assets(config)
        images, preprocessing = assets.task.test.sample(40), assets.pair.preprocessing
        target = make_target(predict_logits(assets.pair.teacher, images, preprocessing), images.labels)
        books("CIFAR-100 teacher", assets.pair.teacher, preprocessing(images.images), target, preprocessing)
    if options.installed:
        (folder,) = importlib.util.find_spec("foolbox").submodule_search_locations
        paths = sorted((Path(folder) / "data").glob("imagenet_*.jpg"))
        pixels = [torch.from_numpy(pixels_of(Image.open(path), path.name, (224, 224)).copy()) for path in paths]
        for name in INSTALLED:
            model, card = load_checkpoint(f"installed:{name}")
            x = card.preprocessing(torch.stack(pixels))
            with torch.no_grad():
                target = make_target(torch.cat([model(part) for part in x.split(4)]))
            books(name, model, x, target, card.preprocessing)


if __name__ == "__main__":
    main()
