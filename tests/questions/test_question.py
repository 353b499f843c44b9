"""Answers: when one stands, what damages it, and what may be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from xaibench.errors import ConfigError, ExplanationError, RunFolderError, UnknownNameError
from xaibench.figures.style import new_figure
from xaibench.questions.question import Question, attributions, choose, choose_students, variant
from xaibench.run.answers import read_record
from xaibench.run.folder import Run
from xaibench.run.job import StudentKey

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
TABLE = pd.DataFrame({"image": ["007", "nan"], "value": [0.1 + 0.2, np.nan], "n": [1, 2]})


def asked(folder: Path, *, options: Any = None, made_from: Any = None, differing: tuple[object, ...] = ()) -> Question:
    return Question(folder, "flipping", options or {"grid": 3}, made_from or {"maps": ["a"]}, differing)


@pytest.fixture(scope="module")
def figure() -> Figure:
    return new_figure(1, 1)


def test_an_answer_is_kept_as_it_was_made(tmp_path: Path, figure: Figure) -> None:
    question = asked(tmp_path, differing=("3x3", None))
    assert question.answer() is None
    made = question.keep({question.stem: TABLE, f"{question.stem}-auc": TABLE}, {question.stem: figure})
    names = {f"flipping-3x3{end}" for end in (".csv", "-auc.csv", ".json", ".pdf", ".png")}
    assert {path.name for path in tmp_path.iterdir()} == names
    for tables in (made, question.answer()):
        assert tables is not None
        assert list(tables) == ["flipping-3x3", "flipping-3x3-auc"]
        for table in tables.values():
            pd.testing.assert_frame_equal(table, TABLE, check_exact=True)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(*[st.dictionaries(st.text(), plain, min_size=1, max_size=3)] * 4)
def test_an_answer_stands_for_the_same_question_only(
    tmp_path: Path, options: Any, made_from: Any, other_options: Any, other_made_from: Any
) -> None:
    (tmp_path / "flipping.json").unlink(missing_ok=True)
    asked(tmp_path, options=options, made_from=made_from).keep({"flipping": TABLE}, {})
    assert asked(tmp_path, options=options, made_from=made_from).answer() is not None
    other = asked(tmp_path, options=other_options, made_from=other_made_from)
    assert (other.answer() is not None) == ((other_options, other_made_from) == (options, made_from))


@pytest.mark.parametrize("name", ["flipping.csv", "flipping.png", "flipping.pdf", "flipping.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "edited"])
def test_a_damaged_answer_is_made_again(
    tmp_path: Path, figure: Figure, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    question, path = asked(tmp_path), tmp_path / name
    question.keep({"flipping": TABLE}, {"flipping": figure})
    content = path.read_bytes()
    changed = {"missing": None, "empty": b"", "truncated": content[:-3], "edited": content.replace(b"0", b"1", 1)}[
        damage
    ]
    path.unlink() if changed is None else path.write_bytes(changed)
    assert question.answer() is None
    assert (name in caplog.text) or (name, damage) in (("flipping.json", "missing"), ("flipping.json", "edited"))


@pytest.mark.parametrize(
    "content", ["{", "[]", "3", "{}", '{"files": 3, "options": {}, "made_from": {}}', '{"files": {}}', "\0"]
)
def test_a_record_that_is_none_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "flipping.json").write_text(content)
    assert read_record(tmp_path / "flipping.json") == {}
    assert asked(tmp_path).answer() is None


def test_an_answer_is_out_of_date_while_it_is_written(tmp_path: Path, figure: Figure) -> None:
    question = asked(tmp_path)
    question.keep({"flipping": TABLE}, {})
    with pytest.raises(RunFolderError, match="cannot write"):
        question.keep({"flipping": TABLE, "flipping.csv/x": TABLE}, {})
    assert question.answer() is None


def test_options_that_differ_make_other_file_names() -> None:
    assert variant() == variant(None, False, "") == ""
    assert variant("2x2", None, "kd subdistill:layer_weight=50") == "-2x2-kd_subdistill_layer_weight_50"
    long = variant(" ".join(f"method-{i}" for i in range(40)))
    assert len(long) < 20
    assert long != variant(" ".join(f"method-{i}" for i in range(41)))


def test_a_choice_keeps_the_runs_order() -> None:
    assert choose("seed of this run", None, (2, 0, 1)) == [2, 0, 1]
    assert choose("seed of this run", [1, 2, 1], (2, 0, 1)) == [2, 1]
    with pytest.raises(UnknownNameError, match="unknown method of this run 'kdd': did you mean 'kd'"):
        choose("method of this run", ["kdd"], ["kd", "crd"])
    with pytest.raises(ConfigError, match="no seed of this run is given: choose from 2, 0, 1, or give None for all"):
        choose("seed of this run", [], (2, 0, 1))


def test_students_are_known_by_method_and_seed(two_seeds: Run) -> None:
    assert {name: list(map(str, keys)) for name, keys in choose_students(two_seeds, ["kd"]).items()} == {
        "kd": ["kd/seed0", "kd/seed1"]
    }
    chosen = choose_students(two_seeds, ["subdistill", "kd: alpha=0.9"], [1])
    assert chosen == {name: [StudentKey.of(name, 1)] for name in ("kd", "subdistill")}
    with pytest.raises(
        UnknownNameError, match=r"unknown method of this run 'kd:alpha=0\.1': Known: student-only, kd, sub"
    ):
        choose_students(two_seeds, ["kd:alpha=0.1"])
    with pytest.raises(UnknownNameError, match="unknown seed of this run '7'"):
        choose_students(two_seeds, None, [7])


def test_refused_maps_are_told_from_missing_ones(two_seeds: Run, caplog: pytest.LogCaptureFixture) -> None:
    keys = [StudentKey.of("subdistill", seed) for seed in (0, 1)]
    teacher, (first, second) = attributions(two_seeds, keys, "lrp")
    assert first is not None
    assert len(teacher) == len(first) == 6
    assert second is None
    assert "subdistill/seed1 has no valid explanation by lrp: not conserved: its scores are undefined" in caplog.text
    with pytest.raises(
        ExplanationError, match=r"none of the students that were asked for .* by lrp: see .*validity.csv"
    ):
        attributions(two_seeds, keys[1:], "lrp")
    two_seeds.attribution_path("subdistill/seed0", "lrp").unlink()
    with pytest.raises(RunFolderError, match="the maps of subdistill/seed0 by lrp are missing"):
        attributions(two_seeds, keys, "lrp")
