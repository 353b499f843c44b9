"""A script that trains on one or two processes of the CPU: python two_processes.py DEVICES FOLDER METHOD ..."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from xaibench.data.images import ImageSet, Preprocessing
from xaibench.data.subtasks import Subtask
from xaibench.data.tasks import Task
from xaibench.distillation.devices import make_fabric
from xaibench.distillation.distill import distill
from xaibench.distillation.events import EpochState
from xaibench.distillation.recipe import Recipe
from xaibench.models.pair import ModelPair

CLASSES = ("dark", "bright")


class Net(nn.Module):
    """No batch normalisation, whose statistics are those of each process; no bias that centring takes out again."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, width, 3, padding=1, stride=2)
        self.last = nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.first(x).relu()).relu().mean((2, 3)))


def images(n: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    pixels = torch.randint(0, 100, (n, 3, 8, 8), generator=generator) + 120 * labels[:, None, None, None]
    return ImageSet(pixels.to(torch.uint8), labels, CLASSES, tuple(f"{seed}/{i}" for i in range(n)), "light")


def train(devices: int, folder: Path, method: str) -> None:
    """Train a student into the folder."""
    rank = os.environ.get("LOCAL_RANK", "0")
    task = Task(images(32, 0), images(16, 1), images(16, 2), Subtask("light", CLASSES), "light")
    preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, (8, 8))
    pair = ModelPair.create(
        Net(8, 1), Net(4, 2), classes=CLASSES, preprocessing=preprocessing, layers=["first:first", "last:last"]
    )

    def on_epoch(state: EpochState) -> None:
        with (folder / f"epochs-{rank}").open("a") as file:
            file.write(f"{state.epoch}\n")

    recipe = Recipe(epochs=3, batch_size=16, padding=1, precision="32-true")
    fabric = make_fabric(recipe, "cpu", devices)
    run = distill(pair, task, method, recipe, folder=folder, fabric=fabric, on_epoch=on_epoch)
    torch.save((run.history.to_dict("list"), run.student.state_dict()), folder / f"student-{rank}.pt")


if __name__ == "__main__":
    for number, method in enumerate(sys.argv[3:]):
        train(int(sys.argv[1]), Path(sys.argv[2]) / str(number), method)
