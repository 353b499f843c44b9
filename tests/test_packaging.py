"""The wheel carries everything, and works where there is no checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import xaibench as xb

ROOT = Path(__file__).parents[1]
CARRIED = (
    *(f"_embedded/fashion-mnist/{name}" for name in ("train.png", "test.png", "LICENSE", "teacher.safetensors")),
    *(f"report/assets/report.{kind}" for kind in ("css", "js")),
    "_embedded/notebooks/01_quickstart.ipynb",
    "run/presets/demo.toml",
    "data/imagenet_classes.txt",
    "py.typed",
    "__init__.pyi",
    "pytest_plugin.py",
)
FAST = [
    "--set",
    "train.epochs=1",
    "--set",
    "data.fraction=0.05",
    "--set",
    "explain.images=4",
    "--set",
    "explain.explainers=['lrp']",
    "--set",
    "methods=['subdistill']",
    "--set",
    "student.architecture=resnet18-cifar:4-6-8-8@8",
    "--accelerator",
    "cpu",
    "--json",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(unpacked, folder, *arguments):
    """Python outside the checkout, in which the unpacked wheel comes before any installed xaibench."""
    environment = os.environ | {"PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, cwd=folder, env=environment
    )


def test_the_wheel_carries_data_assets_presets_and_its_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {f"xaibench/{name}" for name in CARRIED} <= names
        assert not [name for name in names if name.startswith(("tests/", "xaibench/tests")) or "__pycache__" in name]
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        points = archive.read(entry).decode()
        assert "xaibench = xaibench.cli:main" in points
        assert "[pytest11]" in points
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        assert f"\nVersion: {xb.__version__}\n" in archive.read(metadata).decode()
        assert sum(name.endswith("LICENSE") and ".dist-info" in name for name in names) == 2
        for name in names:
            if name.endswith((".py", ".pyi", ".toml", ".md")):
                assert str(ROOT) not in archive.read(name).decode()
    assert wheel.stat().st_size < 25e6


def test_every_module_of_the_checkout_is_in_the_wheel(wheel):
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "xaibench").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        assert here == {name for name in archive.namelist() if name.endswith(".py") and name.startswith("xaibench/")}


def test_the_notebooks_of_the_wheel_are_copied_outside_the_checkout(unpacked, tmp_path):
    code = "from pathlib import Path; from xaibench.cli.notebooks import copy_notebooks; copy_notebooks(Path('mine'))"
    done = python(unpacked, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    here, there = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (ROOT / "notebooks", tmp_path / "mine"))
    assert there == {name: content for name, content in here.items() if name.endswith(".ipynb")}
    json.loads(there["01_quickstart.ipynb"])


@pytest.mark.slow
def test_the_demo_runs_outside_the_checkout(unpacked, tmp_path):
    where = python(unpacked, tmp_path, "-c", "import xaibench; print(xaibench.__file__)")
    assert where.stdout.strip() == str(unpacked / "xaibench" / "__init__.py")
    done = python(unpacked, tmp_path, "-m", "xaibench", "run", "--preset", "demo", *FAST)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(done.stdout)}
    assert set(rows) == {"teacher", "subdistill"}
    assert rows["teacher"]["accuracy"] > 0.8
    folder = tmp_path / "runs" / "demo"
    assert (folder / "report.html").stat().st_size > 100_000
    assert set(xb.open_run(folder).table()["method"]) == {"teacher", "subdistill"}
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
