import os
from pathlib import Path

import pytest
from filelock import FileLock

from xaibench.study.config import StudyConfig
from xaibench.study.engines import Serial
from xaibench.study.folder import Study
from xaibench.study.run_study import run_study

STUDY = """
about = "two subtasks, two methods"
methods = ["student-only", "subdistill:layer_weight=1"]
claim = "subdistill:layer_weight=1"
seeds = [0, 1]
[data]
fraction = 0.05
[student]
architecture = "resnet18-cifar:4-4-6-6@4"
[train]
epochs = 2
[explain]
images = 4
explainers = ["lrp"]
[similarity]
metrics = ["cosine"]
[vary]
data.subtask = ["tops", "footwear"]
[small]
seeds = [0]
"""


@pytest.fixture(scope="session")
def study_toml(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="session")
def tiny_study(study_toml, tmp_path_factory) -> Study:
    """A finished study, made once for all processes: copy its folder before anything is written into it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(base / "tiny-study.lock"):
        return run_study(StudyConfig.load(study_toml), base / "tiny-study", engine=Serial)
