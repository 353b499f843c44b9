"""Make a teacher: train a classifier on all classes of a dataset and store it with its accuracy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from xaibench.data.datasets import preprocessing_for
from xaibench.data.tasks import load_task
from xaibench.distillation.devices import make_fabric
from xaibench.distillation.distill import train_classifier
from xaibench.distillation.recipe import parse_recipe
from xaibench.errors import ConfigError
from xaibench.models.architectures import build_model
from xaibench.models.checkpoints import ModelCard, load_checkpoint, save_checkpoint
from xaibench.models.predict import predict_logits
from xaibench.validation import checked

__all__ = ["make_teacher"]


@checked
def make_teacher(
    out: Path,
    model: str,
    *,
    dataset: str = "fashion-mnist",
    root: Path | None = None,
    recipe: str = "",
    validation: float = 0.1,
    seed: int = 0,
    half: bool = False,
    accelerator: str = "auto",
    command: str = "",
) -> dict[str, Any]:
    """Train `model` and write `out` (.safetensors); a killed training resumes from the folder OUT.partial beside it.

    model       architecture for `build_model`, initialised from `seed`
    dataset     whose classes it learns; root: folder of the images, where the dataset is not embedded
    recipe      fields of `Recipe` as text: "epochs=10,lr=2e-3"
    validation  share of the training images, drawn by `seed`, that choose the epoch which is kept
    half        store the weights in float16; the accuracy is that of the weights as stored
    accelerator "cpu", "cuda" or "auto"
    command     what to note as the way it was made

    Returns checkpoint, test accuracy, number of test images, seconds. Raises ConfigError where `out` exists already or
    is no .safetensors file.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out} must end in .safetensors")
    if out.exists():
        raise ConfigError(f"{out} exists already: delete it or choose another name")
    settings = parse_recipe(recipe)
    task = load_task(dataset, "all", root=root, validation=validation, seed=seed)
    preprocessing = preprocessing_for(dataset)
    network = build_model(model, len(task.train.classes), task.train.shape[0], seed=seed)
    folder = out.with_suffix(".partial")
    result = train_classifier(
        network,
        task.train,
        task.validation,
        preprocessing,
        settings,
        seed=seed,
        folder=folder,
        fabric=make_fabric(settings, accelerator),
    )
    notes: dict[str, Any] = {"dataset": dataset, "command": command, "seed": seed, "recipe": repr(settings)}
    notes |= {"train_images": len(task.train), "best_epoch": result.best_epoch}
    notes |= {"validation_accuracy": round(result.validation_accuracy, 4)}
    dtype = torch.float16 if half else None
    card = ModelCard(model, task.train.classes, preprocessing, notes)
    trained = folder / "trained.safetensors"
    save_checkpoint(trained, result.student, card, dtype)
    stored, _ = load_checkpoint(trained)
    correct = predict_logits(stored, task.test, preprocessing).argmax(1) == task.test.labels
    accuracy = correct.double().mean().item()
    notes["test_accuracy"] = round(accuracy, 4)
    save_checkpoint(out, result.student, card, dtype)
    shutil.rmtree(folder)
    return {
        "checkpoint": str(out),
        "test accuracy": accuracy,
        "test images": len(task.test),
        "seconds": result.seconds,
    }
