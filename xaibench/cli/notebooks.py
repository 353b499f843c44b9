"""The notebooks that come with xaibench, for `xaibench lab`."""

from __future__ import annotations

from pathlib import Path

from xaibench.errors import ConfigError, RunFolderError
from xaibench.files import write_text

__all__ = ["copy_notebooks"]


def copy_notebooks(folder: Path) -> list[Path]:
    """Put the notebooks into `folder` if it is new or empty; the files written. What a folder holds is left as it is.

    Raises RunFolderError for a path that is no folder, ConfigError where xaibench came without its notebooks.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: give a folder for the notebooks")
    if folder.is_dir() and any(folder.iterdir()):
        return []
    return [write_text(folder / path.name, path.read_text(encoding="utf-8")) for path in _notebooks()]


def _notebooks() -> list[Path]:
    """The notebooks in a wheel or, failing that, in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_embedded" / "notebooks", package.parent / "notebooks"):
        if found := sorted(folder.glob("*.ipynb")):
            return found
    raise ConfigError("the notebooks of xaibench are missing: reinstall xaibench")
