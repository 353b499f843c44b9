"""A teacher is fed as it was trained, whatever dataset it is asked about."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from xaibench.data.datasets import CLASS_LISTS, preprocessing_for
from xaibench.errors import ConfigError
from xaibench.models.architectures import build_model
from xaibench.run.config import TeacherConfig
from xaibench.run.inputs import load_teacher

ARCHITECTURE = "resnet18-cifar:2-2-2-2@2"


@pytest.fixture
def bare(tmp_path: Path):
    def save(classes: int) -> str:
        path = tmp_path / f"{classes}.pth"
        torch.save(build_model(ARCHITECTURE, classes, 3).state_dict(), path)
        return str(path)

    return save


def test_a_named_class_list_brings_its_normalisation(bare) -> None:
    config = TeacherConfig(bare(100), ARCHITECTURE, "cifar100")
    _, card = load_teacher(config, "imagefolder:anywhere")
    assert card.preprocessing == preprocessing_for("cifar100")
    assert card.preprocessing.mean[0] == pytest.approx(0.50707516)
    config = TeacherConfig(bare(1000), ARCHITECTURE, "imagenet")
    _, card = load_teacher(config, "imagefolder:anywhere")
    assert card.preprocessing.mean == (0.485, 0.456, 0.406)
    assert card.classes == CLASS_LISTS["imagenet"]


def test_given_values_win(bare) -> None:
    config = TeacherConfig(bare(100), ARCHITECTURE, "cifar100", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    _, card = load_teacher(config, "cifar100")
    assert (card.preprocessing.mean, card.preprocessing.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_an_image_folder_says_nothing_about_the_teacher(bare) -> None:
    config = TeacherConfig(bare(2), ARCHITECTURE, ("a", "b"))
    with pytest.raises(ConfigError, match=r"give teacher.mean and teacher.std, or name the set"):
        load_teacher(config, "imagefolder:anywhere")
