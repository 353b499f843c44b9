import tomllib
from functools import cache
from pathlib import Path

import pytest
import torch

from xaibench.models.architectures import build_model
from xaibench.run.config import presets
from xaibench.study.config import SCALES, StudyConfig
from xaibench.study.engines import Serial
from xaibench.study.estimate import cells
from xaibench.study.folder import Study
from xaibench.study.run_study import run_study

STUDENTS = {
    ("demo", "full"): 2 * 3 * 3,
    ("functional", "full"): 9 * 11,
    ("functional", "small"): 9 * 5,
    ("icd", "full"): 10 * 13 * 3,
    ("label-noise", "full"): 3 * 3 * 10,
    ("subdistill-cifar100", "full"): 20 * 3 * 6 * 3,
}
"""Preset and scale -> students that it trains."""


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", presets("xaibench.study"))
def test_a_preset_can_be_read_and_says_what_it_is_for(name, scale):
    config = StudyConfig.load(name, scale=scale)
    assert len(config.about) > 50
    assert config.students == STUDENTS.get((name, scale), config.students)


SMALLEST = {
    "functional": ["student.architecture=resnet18-cifar:4-4-4-4@4", "methods=['student-only','siddo','kd:alpha=0.5']"],
    "label-noise": [
        "student.architecture=resnet18-cifar:4-4-4-4@4",
        "train.epochs=2",
        "vary.data.label_noise=[0.4]",
        "methods=['kd:alpha=0.5','influence[kd:alpha=0.5]:refresh=1']",
        "claim=influence[kd:alpha=0.5]:refresh=1",
    ],
    "icd": ["methods=['fitnet','icd']"],
}
"""What is left of an embedded preset in a test."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_an_embedded_preset_runs(name, tmp_path):
    tiny = ["seeds=[0]", "data.fraction=0.05", "train.epochs=1", "explain.images=4", "similarity.metrics=['cosine']"]
    tiny += SMALLEST[name]
    study = run_study(StudyConfig.load(name, tiny, "small"), tmp_path / name, engine=Serial)
    assert study.finished, study.failures
    page = (study.folder / "report.html").read_text()
    assert ("Transfer of right and wrong knowledge" in page) == (name == "functional")


@pytest.mark.parametrize("name", sorted({*presets("xaibench.study")} - {"icd"}))  # whose models are not here
def test_layers_of_a_preset_are_layers_of_its_models(name):
    for condition in StudyConfig.load(name).conditions:
        config = condition.config
        with torch.device("meta"):
            for architecture, layers in (
                (config.teacher.architecture, [pair.teacher for pair in config.student.pairs or ()]),
                (config.student.architecture, [pair.student for pair in config.student.pairs or ()]),
            ):
                if layers:
                    assert set(layers) <= _layers(architecture), architecture


@cache
def _layers(architecture):
    return {name for name, _ in build_model(architecture, 5).named_modules()}


def test_the_work_of_influence_weights_can_be_estimated(tmp_path):
    small = ["seeds=[0]", "methods=['influence[kd:alpha=0.5]']", "vary.data.label_noise=[0.4]", "explain.images=4"]
    config = StudyConfig.load("label-noise", small, "small")
    (minutes,) = cells(Study(tmp_path, config), "cpu")["minutes"]
    assert minutes > 0


def test_the_configuration_of_the_how_to_is_one():
    text = (Path(__file__).parents[2] / "docs" / "howto" / "studies.md").read_text()
    grid, pair = (part.partition("```")[0] for part in text.split("```toml")[1:])
    config = StudyConfig.from_dict(tomllib.loads(grid))
    assert len(config.conditions) == 4
    assert config.claim == "subdistill"
    assert len(StudyConfig.from_dict(tomllib.loads(grid), scale="small").seeds) == 1
    assert StudyConfig.from_dict(tomllib.loads(pair)).conditions[0].config.train.epochs == 20
