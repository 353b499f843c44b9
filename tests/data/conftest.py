"""Small image folders, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


def draw(seed: int, shape: tuple[int, ...] = (8, 8, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder(classes, per_class=3) -> PATH with PATH/{train,test}/CLASS/N.png"""

    def make(classes: Sequence[str] = ("ant", "bee"), per_class: int = 3) -> Path:
        root = tmp_path / "images"
        for s, split in enumerate(("train", "test")):
            for c, name in enumerate(classes):
                folder = root / split / name
                folder.mkdir(parents=True)
                for i in range(per_class):
                    Image.fromarray(draw(s * 10_000 + c * 100 + i)).save(folder / f"{i}.png")
        return root

    return make
