"""How long and in what way a student is trained; the same for every method that is to be compared."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from xaibench.errors import ConfigError, unknown_name
from xaibench.options import parse_options, plain_numbers
from xaibench.validation import checked

__all__ = ["PRECISIONS", "Recipe", "parse_recipe", "resolve_precision"]

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
AUGMENTATIONS = ("crop-flip", "crop", "none")
SCHEDULES = ("step", "cosine")
MOST_STEPS = 10**6


@checked
@dataclass(frozen=True)
class Recipe:
    """AdamW with the defaults of SubDistill's experiments (arXiv 2601.05913)."""

    epochs: int = 100
    """Passes over the training images; the epoch of the best validation accuracy is kept."""
    batch_size: int = 64
    """Images a step, at least 2."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    schedule: str = "step"
    """ "step": lr * gamma^(epoch // step_size); "cosine": down to 0 over the epochs."""
    step_size: int = 25
    """Epochs between two steps of the schedule "step"."""
    gamma: float = 0.5
    """Factor of each step of the schedule "step"."""
    augment: str = "crop-flip"
    """ "crop-flip" (random crop with `padding` zeros, horizontal flip), "crop" or "none"."""
    padding: int = 4
    """Zeros around an image before it is cropped, in pixels."""
    views: int = 0
    """0: fresh pixels every epoch; n: each image has n augmented views, epoch e shows view e mod n, so that the
    teacher's outputs can be cached."""
    precision: str = "auto"
    """ "32-true", "bf16-mixed", "16-mixed", or "auto": bf16 where the hardware multiplies it natively, else float32."""
    cache_gb: float = 2.0
    """Largest teacher cache in GB; above it the teacher runs at every step."""
    drop_last: bool = False
    """Leave out an epoch's last batch where it is smaller than the others, as the `drop_last` of PyTorch's loaders."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        for name in ("epochs", "batch_size", "lr", "step_size", "gamma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("weight_decay", "views", "padding", "cache_gb"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        for name, most in (
            ("epochs", 10**6),
            ("batch_size", 10**6),
            ("step_size", 10**6),
            ("views", 10**6),
            ("padding", 256),
        ):
            if getattr(self, name) > most:
                raise ConfigError(f"{name} must be at most {most}, got {getattr(self, name)}")
        for name in ("epochs", "batch_size", "views", "padding"):
            if getattr(self, name) > MOST_STEPS:
                raise ConfigError(f"{name} must be at most {MOST_STEPS}, got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ConfigError("batch_size must be at least 2: batch normalisation needs more than one sample")
        for name, known in (("schedule", SCHEDULES), ("augment", AUGMENTATIONS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)

    @property
    def smallest_batch(self) -> int:
        """The fewest images that make a step: batch normalisation needs two."""
        return self.batch_size if self.drop_last else 2

    @property
    def cached_views(self) -> int:
        """Number of different versions of each image that training shows; 0 when they never repeat."""
        return 1 if self.augment == "none" else min(self.views, self.epochs)

    def view(self, epoch: int) -> int:
        """The number of the augmented version of each image that `epoch` (from 0) shows; it seeds the augmentation."""
        return epoch % self.cached_views if self.cached_views else epoch


def resolve_precision(precision: str, accelerator: str = "auto") -> str:
    """What a recipe's precision is on an accelerator ("cpu", "cuda" or "auto"): "auto" becomes the best one there.

    Raises ConfigError for float16 on a CPU.
    """
    cuda = accelerator == "cuda" or (accelerator == "auto" and torch.cuda.is_available())
    if precision == "16-mixed" and not cuda:
        raise ConfigError("precision 16-mixed needs a GPU: choose auto, 32-true or bf16-mixed")
    if precision != "auto":
        return precision
    if cuda:
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"


@checked
def parse_recipe(text: str) -> Recipe:
    """The recipe with the fields in a text: "epochs=10,lr=2e-3"; the others are at their defaults."""
    recipe: Recipe = parse_options(f"recipe:{text}" if text.strip() else "recipe", {"recipe": Recipe}, "recipe")
    return recipe
