"""Does influence find training images with a wrong label, early and late in a training?

    python benchmarks/flipped_labels.py --seeds 0 1 2

1000 training images of Fashion-MNIST's tops, a fifth of them with the label of another class; a student learns from the
labels alone (`influence[student-only]`). After 3 and after 12 epochs the influence of its training images is measured:
the mean weight of mislabelled images, 1 being that of all, and the area under the ROC curve by which influence tells
them from the others, 0.5 being chance. The seed draws images, wrong labels and student.
"""

from __future__ import annotations

import argparse
from statistics import fmean

import numpy as np

from xaibench.data.tasks import Task, load_task
from xaibench.distillation.distill import distill
from xaibench.models.pair import ModelPair

IMAGES, SHARE, AFTER = 1000, 0.2, (3, 12)


def area(influence: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve: how often an image of `wrong` has more influence (on the loss) than one of the rest."""
    above = influence[wrong][:, None] - influence[~wrong]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def tasks(seed: int, images: int = IMAGES) -> tuple[Task, np.ndarray]:
    """The task with wrong labels, and which of its training images have one."""
    options = {"fraction": images / 3200, "seed": seed}
    clean = load_task("fashion-mnist", "tops", **options)
    noisy = load_task("fashion-mnist", "tops", label_noise=SHARE, **options)
    return noisy, (clean.train.labels != noisy.train.labels).numpy()


def found(seed: int, after: int, images: int = IMAGES) -> tuple[float, float]:
    """Mean weight of the mislabelled images after so many epochs, and the area."""
    task, wrong = tasks(seed, images)
    teacher, student = "embedded:fashion-mnist/teacher.safetensors", "resnet18-cifar:16-16-16-16@16"
    pair = ModelPair.load(teacher, student, task, seed=seed)
    method = f"influence[student-only]:refresh={after}"
    table = distill(pair, task, method, epochs=after + 1, lr=2e-3, augment="crop", seed=seed).influence
    assert table is not None
    return float(table["weight"][wrong].mean()), area(table["influence"].to_numpy(), wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    for after in AFTER:
        weights, areas = zip(*(found(seed, after) for seed in options.seeds))
        each = "; ".join(f"{weight:.2f}, {one:.2f}" for weight, one in zip(weights, areas))
        print(
            f"after {after} epochs: mean weight {fmean(weights):.2f}, area {fmean(areas):.2f} (by seed {each})",
            flush=True,
        )


if __name__ == "__main__":
    main()
