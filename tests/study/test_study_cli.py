import io
import json

import pytest
from rich.console import Console

from xaibench.study.schedule import Event
from xaibench.study.tasks import Outcome, tasks_of
from xaibench.study.watch import watching


@pytest.mark.slow
def test_a_dry_run_shows_the_cells_and_about_how_long_they_take(cli, study_toml, tmp_path):
    folder = tmp_path / "study"
    called = cli("study", study_toml, "--out", folder, "--dry-run", "--json", "--set", "seeds=[0]")
    assert called.code == 0, called.err
    rows = json.loads(called.out)
    assert [(row["run"], row["subtask"], row["images"], row["students"], row["done"]) for row in rows] == [
        ("tops", "tops", 160, 2, 0),
        ("footwear", "footwear", 120, 2, 0),
    ]
    assert all(row["minutes"] > 0 for row in rows)
    assert not folder.exists()


def test_a_finished_study_has_nothing_left_to_do(cli, tiny_study):
    called = cli("study", tiny_study.folder, "--dry-run", "--json")
    assert [(row["done"], row["minutes"]) for row in json.loads(called.out)] == [(4, 0), (4, 0)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["study", "nowhere.toml"], "no configuration at nowhere.toml: give a TOML file or a preset (demo"),
        (["study", "{toml}", "--scale", "smal"], "unknown scale 'smal': did you mean 'small'"),
        (["study", "{toml}", "--engine", "rayy"], "unknown engine 'rayy': did you mean 'ray'"),
        (["study", "{toml}", "--set", "vary.data.subtsk=['tops']"], "did you mean 'subtask'"),
        (["study", "{toml}", "--workers", "0"], "--workers"),
        (["study", "{toml}", "--memory", "-1"], "memory must be above 0"),
        (["study", "{folder}", "--set", "train.epochs=1"], "is a study with its own grid"),
        (["study", "{toml}", "--out", "{toml}"], "is a file: choose another study folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(cli, study_toml, tiny_study, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    places = {"toml": study_toml, "folder": tiny_study.folder}
    called = cli(*(argument.format(**places) for argument in arguments))
    assert called.code == 2
    assert says in called.error


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_line_a_task_in_a_file_and_a_table_in_a_terminal(tiny_study, terminal):
    run = tiny_study.runs["tops"]
    prepare, student, *_ = tasks_of(run.folder, run.config)
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100)
    with watching(console, 6, 8) as watch:
        for event in (
            Event(prepare),
            Event(prepare, Outcome(seconds=3)),
            Event(student),
            Event(student, Outcome("no")),
        ):
            watch(tiny_study, event)
    shown = text.getvalue()
    if terminal:
        assert "scored" in shown
        assert "2 of 6 pieces of work" in shown
    else:
        assert shown.splitlines()[0].startswith("1/6  prepare tops  done in 0:00:03")
        assert "2/6  student tops student-only/seed0  failed: no" in shown
