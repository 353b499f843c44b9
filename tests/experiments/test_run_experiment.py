"""An experiment in a folder: its files, its errors, and what happens when it is interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from xaibench.errors import ConfigError, RunFolderError, UnknownNameError
from xaibench.experiments.base import summarise
from xaibench.experiments.convergence import Convergence
from xaibench.experiments.run_experiment import run_experiment
from xaibench.experiments.xor import Xor
from xaibench.similarity.intervals import seed_interval

SMALL = Xor(points=40, bases=("pca",), widths=(1,), epochs=1)
OPTIONS = ("--set", "points=40,bases=pca", "--set", "widths=1", "--set", "epochs=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two seeds. Shared: copy it before anything is written into it."""
    folder = tmp_path_factory.mktemp("experiments") / "xor"
    run_experiment(SMALL, folder, seeds=2)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "xor"))


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """No seed may be measured."""

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Xor, "measure", refuse)


def test_the_folder_holds_rows_means_and_picture(folder: Path, contents: Callable[[Path], dict[str, str]]) -> None:
    assert set(contents(folder)) == {
        *("experiment.json", "seeds/seed0.csv", "seeds/seed1.csv"),
        *("xor-scores.csv", "xor.csv", "xor.pdf", "xor.png"),
    }
    scores, table = pd.read_csv(folder / "xor-scores.csv"), pd.read_csv(folder / "xor.csv")
    assert set(scores["seed"]) == {0, 1}
    assert len(scores) == 2 * len(table)
    values = scores.set_index(["measure", "method", "k"]).sort_index()["value"]
    for row in table.to_dict("records"):
        want = seed_interval(values.loc[row["measure"], row["method"], row["k"]]).within(0, 1)
        assert [row["mean"], row["low"], row["high"]] == pytest.approx([want.mean, want.low, want.high])
        assert row["seeds"] == 2


def test_a_finished_experiment_is_read_back_to_the_same_bytes(
    folder: Path, contents: Callable[[Path], dict[str, str]], never: None
) -> None:
    before = contents(folder)
    run_experiment(SMALL, folder, seeds=2)
    assert contents(folder) == before


@pytest.mark.slow
def test_an_interrupted_experiment_goes_on_to_the_same_bytes(
    folder: Path, contents: Callable[[Path], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)
    for path in (*folder.glob("xor*"), folder / "seeds" / "seed1.csv"):
        path.unlink()
    measure, asked = Xor.measure, []

    def counted(self: Xor, seed: int, advance: Callable[[], object]) -> pd.DataFrame:
        asked.append(seed)
        return measure(self, seed, advance)

    monkeypatch.setattr(Xor, "measure", counted)
    run_experiment(SMALL, folder, seeds=2)
    assert asked == [1]
    assert contents(folder) == before


def test_other_contents_and_other_experiments_are_refused(
    folder: Path, tmp_path: Path, contents: Callable[[Path], dict[str, str]], never: None
) -> None:
    before = contents(folder)
    with pytest.raises(RunFolderError, match=r"holds another experiment \(xor:pair=xy,points=40,.*: choose another"):
        run_experiment(Xor(points=41), folder)
    assert contents(folder) == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty and holds no experiment: choose another folder"):
        run_experiment(SMALL, other)
    with pytest.raises(RunFolderError, match=r"mine.txt is a file: choose another folder"):
        run_experiment(SMALL, other / "mine.txt")
    with pytest.raises(ConfigError, match="seeds must be 1 to 1000, got 0"):
        run_experiment(SMALL, tmp_path / "new", seeds=0)
    assert not (tmp_path / "new").exists()


def test_an_experiment_that_cannot_be_measured_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown subtask 'topps': did you mean 'tops'"):
        run_experiment(Convergence(subtask="topps"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_damaged_files_are_named(folder: Path, never: None) -> None:
    (folder / "seeds" / "seed0.csv").write_text("")
    with pytest.raises(RunFolderError, match=r"seed0.csv is corrupt: delete it to measure the seed again"):
        run_experiment(SMALL, folder)
    (folder / "seeds" / "seed0.csv").write_text("measure,method,value\n")
    with pytest.raises(RunFolderError, match=r"seed0.csv lacks k: delete it"):
        run_experiment(SMALL, folder)
    record = folder / "experiment.json"
    about = json.loads(record.read_text())
    record.write_text(json.dumps(about | {"versions": {"torch": "0.4"}}))
    with pytest.raises(RunFolderError, match="was made with other versions of libraries"):
        run_experiment(SMALL, folder)
    record.write_text("{}")
    with pytest.raises(RunFolderError, match=r"experiment.json is corrupt: start again in another folder"):
        run_experiment(SMALL, folder)


def test_means_are_over_seeds_and_intervals_end_at_0_and_1() -> None:
    scores = pd.DataFrame({"of": ["a", "a", "b"], "seed": [0, 1, 0], "value": [0.9, 1.0, 0.5]})
    table = summarise(scores, ("of",))
    assert table["mean"].tolist() == [0.95, 0.5]
    assert table["seeds"].tolist() == [2, 1]
    assert table.loc[0, "high"] == 1
    assert table.loc[1, ["low", "high"]].isna().all()


def test_the_command_says_what_was_found_and_where_it_lies(folder: Path, cli, never: None) -> None:  # type: ignore[no-untyped-def]
    called = cli("experiment", "xor", "--out", folder, "--seeds", 2, *OPTIONS)
    assert called.code == 0, called.err
    lines = called.out.splitlines()
    assert lines[0].startswith("Accuracy over 2 seed(s), with 95% t intervals; at best 0.956, of the teacher 0.9")
    assert lines[-1] == f"the table: {folder}/xor.csv; the picture: {folder}/xor.png"
    rows = json.loads(cli("experiment", "xor", "--out", folder, "--seeds", 2, *OPTIONS, "--json").out)
    assert len(rows) == len(pd.read_csv(folder / "xor.csv"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("xr",), "error: unknown experiment 'xr': did you mean 'xor'? Known: xor, convergence"),
        (("xor", "--set", "epoch=3"), "error: unknown option of experiment 'xor' 'epoch': did you mean 'epochs'?"),
        (("xor", "--set", "epochs=a"), "error: option 'epochs' of experiment 'xor' must be"),
        (("xor", "--seeds", "0"), "error: Invalid value for '--seeds'"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(cli, arguments: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    called = cli("experiment", *arguments)
    assert called.code == 2
    assert called.error.startswith(message)
