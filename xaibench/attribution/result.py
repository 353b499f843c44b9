"""The result of an explanation: maps with everything needed to reproduce and to doubt them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from xaibench.attribution.base import Explainer, reason
from xaibench.attribution.checks import Validity
from xaibench.attribution.explainers import parse_explainer
from xaibench.attribution.store.sealed_files import load_sealed, save_sealed
from xaibench.attribution.targets import Target
from xaibench.data.images import chosen_rows
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError
from xaibench.options import format_options

__all__ = ["Attribution"]

_FORMAT = "xaibench-attribution-3"


@dataclass(frozen=True, eq=False)
class Attribution:
    """Signed relevance of N images under one model and one explainer.

    relevance   (N, C, H, W) float32 on the CPU, in units of logit differences
    target      what was explained
    explainer   the method with its options
    validity    the checks that were made, and their numbers
    model_hash  content hash of the model's weights
    input_hash  content hash of the normalised images
    versions    library name -> version
    references  tensors in normalised input space that the maps are relative to (baseline, or low and high):
                (1, ...) for all images or (N, ...)
    measured    what the method tells about each image's map, name -> (N,) float64; see its `attribute`
    """

    relevance: Tensor
    target: Target
    explainer: Explainer
    validity: Validity
    model_hash: str
    input_hash: str
    versions: dict[str, str] = field(default_factory=dict)
    references: dict[str, Tensor] = field(default_factory=dict)
    measured: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.relevance.ndim != 4 or len(self.relevance) != len(self.target):
            raise ExplanationError(
                f"relevance of shape {tuple(self.relevance.shape)} does not fit {len(self.target)} targets"
                ": it must be (N, C, H, W) with one target an image"
            )

    def __len__(self) -> int:
        return len(self.relevance)

    def __repr__(self) -> str:
        n, c, h, w = self.relevance.shape
        verdict = "valid" if self.validity.valid else "NOT valid"
        flagged = f", {len(self.validity.flagged)} flagged" if self.validity.flagged else ""
        shape = f"{n} maps {c}x{h}x{w}"
        method = format_options(self.explainer)
        return f"Attribution({method}, {shape}, {verdict}{flagged}, model {self.model_hash})"

    @property
    def heatmaps(self) -> Tensor:
        """(N, H, W): relevance summed over the input channels, sign kept."""
        return self.relevance.sum(dim=1)

    def in_words(self) -> str:
        """What the method tells about the maps, in the median over the images: "estimated error 1.3% of a map, ..."."""
        return self.explainer.in_words(self.measured) if self.measured else ""

    @property
    def scored_heatmaps(self) -> Tensor:
        """As `heatmaps`, NaN for images that the validity checks flagged: no score may be taken of those."""
        maps = self.heatmaps.clone()
        maps[list(self.validity.flagged)] = torch.nan
        return maps

    def take(self, indices: Sequence[int] | Sequence[bool] | Tensor) -> Attribution:
        """The maps of the images at `indices` (see `data.images.chosen_rows`), in that order.

        A real choice gets its own `input_hash`.
        """
        index = chosen_rows(indices, len(self))
        chosen = index.tolist()
        everything = chosen == list(range(len(self)))
        part_hash = hashlib.sha256(f"{self.input_hash}{chosen}".encode()).hexdigest()[:16]
        return Attribution(
            self.relevance[index],
            self.target.take(index),
            self.explainer,
            self.validity.take(chosen),
            self.model_hash,
            self.input_hash if everything else part_hash,
            self.versions,
            {name: value[index] if len(value) > 1 else value for name, value in self.references.items()},
            {name: value[index] for name, value in self.measured.items()},
        )

    def save(self, path: Path | str) -> Path:
        """Write a .safetensors file, atomically; `Attribution.load` gives the same back."""
        tensors = {"relevance": self.relevance, "label": self.target.label, "contrast": self.target.contrast}
        tensors |= {f"reference.{name}": value for name, value in self.references.items()}
        tensors |= {f"measured.{name}": value for name, value in self.measured.items()}
        metadata = {
            "format": _FORMAT,
            "explainer": format_options(self.explainer, full=True),
            "rule": self.target.rule,
            "model_hash": self.model_hash,
            "input_hash": self.input_hash,
            "versions": json.dumps(self.versions),
            "validity": json.dumps(self.validity.to_dict()),
        }
        return save_sealed(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path | str) -> Attribution:
        """Read what `save` wrote; ExplanationError for a file that is missing, corrupt or something else."""
        tensors, metadata = load_sealed(path, _FORMAT)
        try:
            return cls(
                tensors["relevance"],
                Target(tensors["label"], tensors["contrast"], metadata["rule"]),
                parse_explainer(metadata["explainer"]),
                Validity.from_dict(json.loads(metadata["validity"])),
                metadata["model_hash"],
                metadata["input_hash"],
                json.loads(metadata["versions"]),
                _of_kind("reference.", tensors),
                _of_kind("measured.", tensors),
            )
        except (KeyError, ConfigError, UnknownNameError) as error:
            raise ExplanationError(f"{path} is of another version ({reason(error)}): explain again") from error


def _of_kind(kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(kind): value for key, value in tensors.items() if key.startswith(kind)}
