"""Answers to further questions that lie in a run folder: what each was made from, and whether that is still so.

STEM.json is the record of an answer, written last:

command    what asks for it again, with RUN for the run folder: ["flip", "RUN", "--fill", "blur"]
options    all options
made_from  `facts` of the run
versions   of libraries
files      name -> SHA-256
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from xaibench.files import sha256_of_file
from xaibench.run.folder import Run
from xaibench.run.job import StudentFolder

__all__ = ["command_of", "damaged_files", "facts", "read_answer", "read_record", "records", "up_to_date"]

_TEXT = dict.fromkeys(("model", "method", "explainer", "image", "label", "layer", "basis"), str)


def facts(run: Run, about: Mapping[str, Any]) -> dict[str, Any]:
    """What holds of a run now, as plain values; None for what it does not have. What `facts` returns asks for the same.

    about["config"]      fields of the configuration ("data.seed")
    about["hashes"]      names in the manifest ("teacher", "test")
    about["explainers"]  kinds ("lrp") -> the run's explainers of that kind
    about["students"]    folders of students, relative to the run folder -> contents
    about["maps"]        explainer -> models -> the key of their maps, or why they were refused

    Raises RunFolderError where explanations are missing or out of date, KeyError for other kinds of facts.
    """
    return {kind: _FACTS[kind](run, names) for kind, names in about.items()}


def read_record(path: Path) -> dict[str, Any]:
    """What the record of an answer says; nothing where the file is missing or none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(record[part], dict) for part in ("files", "options", "made_from")):
            return dict(record)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {}


def read_answer(path: Path) -> pd.DataFrame:
    """A table of an answer, names that look like numbers or like "nan" as they are."""
    return pd.read_csv(path, dtype=_TEXT, keep_default_na=False, na_values=[""])


def records(run: Run) -> dict[str, dict[str, Any]]:
    """Name of each file of an answer -> the record that names it."""
    found = (read_record(path) for path in sorted(run.folder.glob("*.json")))
    return {name: record for record in found for name in record.get("files", ())}


def damaged_files(folder: Path, record: Mapping[str, Any]) -> list[Path]:
    """The answer's files that are missing or not what was written."""
    files = {folder / name: expected for name, expected in record["files"].items()}
    return [path for path, expected in files.items() if not path.is_file() or sha256_of_file(path) != expected]


def up_to_date(run: Run, record: Mapping[str, Any]) -> bool:
    """Whether an answer's files are as they were written and what they were made from is as it was."""
    try:
        same = facts(run, record["made_from"]) == record["made_from"]
    except (KeyError, TypeError, AttributeError):  # another version's record
        return False
    return same and not damaged_files(run.folder, record)


def command_of(run: Run, record: Mapping[str, Any], otherwise: Iterable[str]) -> str:
    """The command line that asks for an answer again; `otherwise` stands in for a record that does not say."""
    words = record.get("command") or otherwise
    return shlex.join(["xaibench", *(str(run.folder) if word == "RUN" else str(word) for word in words)])


def _config(run: Run, names: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        value: Any = run.config.to_dict()
        for key in name.split("."):
            value = value.get(key)
        found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _maps(run: Run, models: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    made = run.explanations()
    return {
        explainer: {model: made.get(explainer, {}).get(model) for model in own} for explainer, own in models.items()
    }


_FACTS = {
    "config": _config,
    "hashes": lambda run, names: {name: run.manifest["hashes"].get(name) for name in names},
    "explainers": lambda run, kinds: {
        kind: [text for text in run.explainers if text.partition(":")[0] == kind] for kind in kinds
    },
    "students": lambda run, folders: {folder: StudentFolder(run.folder / folder).contents() for folder in folders},
    "maps": _maps,
}
