"""A question to a run: its options, the files of its answer, and whether an earlier answer still stands."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from xaibench.attribution.result import Attribution
from xaibench.errors import ConfigError, ExplanationError, UnknownNameError, unknown_name
from xaibench.figures.style import save_figure
from xaibench.files import sha256_of_file, write_json, write_text
from xaibench.models.layer_pairs import LayerPair, parse_layers
from xaibench.run.answers import damaged_files, read_answer, read_record
from xaibench.run.folder import TEACHER, Run, file_name
from xaibench.run.job import StudentKey
from xaibench.run.manifest import library_versions

__all__ = ["Question", "attributions", "choose", "choose_layers", "choose_students", "command", "variant"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a run. Its answer is tables and figures; STEM.json beside them records what they were made from.

    folder     of the run
    name       how the files of its answers begin: "flipping-lrp-inpaint"
    options    all options, as plain values
    made_from  all else that the answer depends on, see `run.answers.facts`
    differing  a text for each option that differs from its default, see `variant`
    command    what asks for it on the command line, see `command`
    """

    folder: Path
    name: str
    options: Mapping[str, Any]
    made_from: Mapping[str, Any]
    differing: Sequence[object] = ()
    command: Sequence[str] = ()

    @property
    def variant(self) -> str:
        """How the names of the answer's files end."""
        return variant(*self.differing)

    @property
    def stem(self) -> str:
        """The name of the record, and of the answer's main table and figure, without suffix."""
        return f"{self.name}{self.variant}"

    def answer(self) -> dict[str, pd.DataFrame] | None:
        """The tables of the answer by name; None where it must be made.

        An answer stands while its record says what it would say now, and every file has the recorded content.
        """
        path = self.folder / f"{self.stem}.json"
        record, about = read_record(path), self._about()
        if not record and path.is_file():
            _log.warning("%s is damaged: the answer is made again", path)
        if {part: record.get(part) for part in about} != about:
            return None
        for damaged in damaged_files(self.folder, record):
            _log.warning("%s is missing or not what was written: the answer is made again", damaged)
            return None
        tables = [name for name in record["files"] if name.endswith(".csv")]
        return {name.removesuffix(".csv"): read_answer(self.folder / name) for name in tables}

    def keep(self, tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Figure]) -> dict[str, pd.DataFrame]:
        """Write an answer, name -> contents, its record last; return its tables as `answer` does."""
        record = self.folder / f"{self.stem}.json"
        record.unlink(missing_ok=True)
        paths = [write_text(self.folder / f"{name}.csv", table.to_csv(index=False)) for name, table in tables.items()]
        for name, figure in figures.items():
            paths += save_figure(figure, self.folder / name)
        files = {path.name: sha256_of_file(path) for path in paths}
        write_json(record, {"command": list(self.command), **self._about(), "files": files})
        return {name: read_answer(self.folder / f"{name}.csv") for name in tables}

    def _about(self) -> dict[str, Any]:
        about = {"options": self.options, "made_from": self.made_from, "versions": library_versions()}
        plain: dict[str, Any] = json.loads(json.dumps(about))
        return plain


def command(verb: str, *words: str, **options: Any) -> tuple[str, ...]:
    """The words of a command line: None and False are left out, True is a flag, of sequences each item is given.

    >>> command("flip", "RUN", grid=None, method=["kd", "at"], fss=True)
    ('flip', 'RUN', '--method', 'kd', '--method', 'at', '--fss')
    """
    found = [verb, *words]
    for name, value in options.items():
        items = value if isinstance(value, (list, tuple)) else [] if value in (None, False) else [value]
        for item in items:
            found += [f"--{name.rstrip('_')}", *([] if item is True else [str(item)])]
    return tuple(found)


def choose(kind: str, given: Iterable[T] | None, have: Sequence[T]) -> list[T]:
    """Those of `have` that are given, in its order; None: all.

    Raises UnknownNameError for what is not there, ConfigError where nothing is given.
    """
    wanted = list(have) if given is None else list(given)
    for one in wanted:
        if one not in have:
            raise unknown_name(kind, one, map(str, have))
    if not wanted:
        raise ConfigError(f"no {kind} is given: choose from {', '.join(map(str, have))}, or give None for all")
    return [one for one in have if one in wanted]


def choose_layers(run: Run, names: Sequence[str] | None) -> list[LayerPair]:
    """Layer pairs of a run by the teacher's or the student's name or as "teacher:student"; None: all."""
    pairs = parse_layers(run.manifest["layers"])
    known = {name: pair for pair in pairs for name in (pair.student, pair.teacher, str(pair))}
    for name in names or ():
        if name not in known:
            raise unknown_name("layer pair of this run", name, known)
    return choose("layer pair of this run", None if names is None else [known[name] for name in names], pairs)


def choose_students(
    run: Run, methods: Iterable[str] | None = None, seeds: Iterable[int] | None = None
) -> dict[str, list[StudentKey]]:
    """Method -> its students, for some methods and seeds of a run (None: all), in the run's order.

    A method may be written in any way that names it. Raises what `choose` does.
    """
    groups: dict[str, list[StudentKey]] = {}
    for key in run.keys:
        groups.setdefault(key.method_name, []).append(key)
    names = choose("method of this run", None if methods is None else map(_method_name, methods), list(groups))
    chosen = choose("seed of this run", seeds, run.config.seeds)
    return {name: [key for key in groups[name] if key.seed in chosen] for name in names}


def attributions(
    run: Run, students: Sequence[StudentKey], explainer: str
) -> tuple[Attribution, list[Attribution | None]]:
    """The maps of the teacher and of the students; None for a student whose explanation was refused.

    Raises RunFolderError where maps are missing, ExplanationError where no student has valid ones.
    """
    found: list[Attribution | None] = []
    for key in students:
        try:
            found.append(run.attribution(str(key), explainer))
        except ExplanationError as error:
            _log.warning("%s: its scores are undefined", error)
            found.append(None)
    if all(one is None for one in found):
        raise ExplanationError(
            f"none of the students that were asked for has a valid explanation by {explainer}: "
            f"see {run.folder / 'validity.csv'}"
        )
    return run.attribution(TEACHER, explainer), found


def variant(*differing: object) -> str:
    """What options add to the file names of a question, so that another question gets other files.

    differing  a text for each option that differs from its default; what is empty or None counts for nothing

    >>> variant("2x2", None, "kd subdistill:layer_weight=50")
    '-2x2-kd_subdistill_layer_weight_50'
    """
    text = "".join(f"-{file_name(str(part)).replace('/', '_')}" for part in differing if part)
    return text if len(text) <= 80 else f"-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _method_name(text: str) -> str:
    try:
        return StudentKey.of(text, 0).method_name
    except (UnknownNameError, ConfigError):
        return text  # is named as it was written in the error
