from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from xaibench.errors import ConfigError, UnknownNameError
from xaibench.questions.inside import inside_run
from xaibench.run.folder import open_run
from xaibench.similarity.intervals import seed_interval

ASKED = "-layer1_layer1_layer4_layer4-fss"
WRITTEN = {f"{stem}{ASKED}.{end}" for stem in ("inside", "directions") for end in ("csv", "pdf", "png")}
WRITTEN = WRITTEN - {f"directions{ASKED}.csv"} | {f"inside{ASKED}.json"}


@pytest.fixture(scope="module")
def folder(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("inside") / "run"))


@pytest.fixture(scope="module")
def found(folder: Path, contents: Callable[[Path], dict[str, str]]) -> pd.DataFrame:
    before = contents(folder)
    table = inside_run(open_run(folder), layers=["layer4:layer4", "layer1"], fss=True)
    after = contents(folder)
    assert {name: digest for name, digest in after.items() if name not in WRITTEN} == before
    assert set(after) - set(before) == WRITTEN
    return table


def value(table: pd.DataFrame, **wanted: object) -> float:
    chosen = table
    for name, one in wanted.items():
        chosen = chosen[chosen[name] == one]
    assert len(chosen) == 1, chosen
    return float(chosen["value"].iloc[0])


def test_the_table_on_disk_is_the_one_returned(folder: Path, found: pd.DataFrame) -> None:
    stored = pd.read_csv(folder / f"inside{ASKED}.csv")
    assert list(stored) == ["layer", "method", "measure", "pairing", "k", "value", "low", "high", "n", "rule"]
    pd.testing.assert_frame_equal(stored, found, check_dtype=False)
    assert set(found["layer"]) == {"layer1:layer1", "layer4:layer4"}
    assert set(found["method"]) == {"teacher", "student-only", "kd", "subdistill", "untrained"}
    assert set(found["rule"]) == {"lrp"}


def test_the_teachers_relevance_in_its_subspace(found: pd.DataFrame) -> None:
    for measure in ("relevance share", "uncentred share"):
        rows = found[(found["measure"] == measure) & (found["layer"] == "layer4:layer4")]
        d = rows["k"].max()
        for pairing, part in rows.groupby("pairing"):
            assert part.loc[part["k"] == d, "value"].item() == pytest.approx(1, rel=1e-4), pairing
            assert 8 in part["k"].tolist()  # the student's width
        chance = rows[rows["pairing"] == "random subspace"]
        np.testing.assert_allclose(chance["value"], chance["k"] / d)
    own = found[(found["measure"] == "relevance share") & (found["pairing"] == "matched")]
    assert (own["low"] <= own["value"]).all()
    assert (own["value"] <= own["high"]).all()


def test_subdistill_brings_the_student_nearest(found: pd.DataFrame) -> None:
    for measure in ("activation cosine", "explained variance", "linear CKA"):
        scores = {
            method: value(found, layer="layer1:layer1", measure=measure, pairing="matched", method=method)
            for method in ("subdistill", "student-only", "untrained")
        }
        assert scores["subdistill"] > max(scores["student-only"], scores["untrained"]), measure


def test_likeness_lies_above_its_controls(found: pd.DataFrame) -> None:
    rows = found[(found["method"] == "subdistill") & (found["layer"] == "layer1:layer1")]
    for measure in ("activation cosine", "explained variance"):
        matched = value(rows, measure=measure, pairing="matched")
        assert matched > value(rows, measure=measure, pairing="mismatched images")
        assert matched > value(rows, measure=measure, pairing="random rotation")
    for measure in ("linear CKA", "distance correlation", "FSS"):
        assert value(rows, measure=measure, pairing="matched") > value(
            rows, measure=measure, pairing="mismatched images"
        )
    single = rows[rows["measure"] == "direction cosine"]
    assert single["k"].tolist() == list(range(1, len(single) + 1))
    assert single["value"].between(-1, 1).all()


def test_choices(folder: Path, found: pd.DataFrame, contents: Callable[[Path], dict[str, str]]) -> None:
    run = open_run(folder)
    before = contents(folder)
    table = inside_run(run, layers=["layer4"], k=2, methods=["kd"], images=4)
    assert set(table["method"]) == {"teacher", "kd", "untrained"}
    likeness = table[(table["method"] == "kd") & (table["measure"] == "relevance cosine")]
    assert set(likeness["k"]) == {2}
    assert set(likeness["n"]) == {4}
    assert len(table[(table["method"] == "kd") & (table["measure"] == "direction cosine")]) == 2
    assert "FSS" in set(found["measure"])
    assert "FSS" not in set(table["measure"])  # fails falsification: only where asked for
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert "inside-layer4_layer4-2directions-kd-4images.csv" in after


def test_what_varies_over_seeds_alone_has_a_t_interval() -> None:
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 5):
        trials = [seed_interval(values) for values in rng.normal(0.5, 0.1, (2000, seeds))]
        assert np.mean([one.low <= 0.5 <= one.high for one in trials]) == pytest.approx(0.95, abs=0.015)
    want = stats.t.interval(0.95, 2, 2.0, stats.sem([1.0, 2.0, 3.0]))
    assert (seed_interval([1.0, 2.0, 3.0]).low, seed_interval([1.0, 2.0, 3.0]).high) == pytest.approx(want)
    alone = seed_interval([0.3])
    assert (alone.mean, alone.n) == (0.3, 1)
    assert np.isnan([alone.low, alone.high]).all()


def test_the_table_takes_that_interval(found: pd.DataFrame) -> None:
    for measure in ("linear CKA", "distance correlation", "FSS"):
        assert found.loc[found["measure"] == measure, ["low", "high"]].isna().all(axis=None)  # one seed


def test_gradients_where_lrp_is_not_valid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xaibench.questions.inside.lrp_or_gradient", lambda *_: None)
    table = inside_run(open_run(folder), layers=["layer4"], methods=["kd"], images=4)
    assert set(table["rule"]) == {"gradient x activation"}
    assert value(table, layer="layer4:layer4", method="kd", measure="linear CKA", pairing="matched") > 0


def test_bad_input(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown method of this run 'kdd': did you mean 'kd'"):
        inside_run(open_run(folder), methods=["kdd"])
    run = open_run(folder)
    with pytest.raises(UnknownNameError, match="unknown layer pair of this run 'layer9'"):
        inside_run(run, layers=["layer9"])
    with pytest.raises(ConfigError, match="k=9 directions cannot be compared: the student's narrowest layer has 8"):
        inside_run(run, layers=["layer4"], k=9)
    with pytest.raises(ConfigError, match="3 images are too few"):
        inside_run(run, images=3)
    with pytest.raises(ConfigError, match="99999 images were asked for, but this run explained 6: choose 1 to 6"):
        inside_run(run, images=99999)


def test_the_models_go_where_they_are_sent(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device 'mps' has no float64"):
        inside_run(open_run(folder), layers=["layer4"], device="mps")
    with pytest.raises(ConfigError, match="device 'meta' holds no values"):  # it came there
        inside_run(open_run(folder), layers=["layer4"], device="meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_sees_what_the_processor_sees(folder: Path, found: pd.DataFrame, tmp_path: Path) -> None:
    other = open_run(shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("inside*")))
    there = inside_run(other, layers=["layer4:layer4", "layer1"], fss=True, device="cuda")
    pd.testing.assert_frame_equal(there, found, rtol=0.05, atol=0.02)
