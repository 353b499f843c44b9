from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaibench.attribution.checks import Check, Validity
from xaibench.attribution.explain import explain
from xaibench.attribution.integrated_gradients import IntegratedGradients
from xaibench.attribution.lrp.explainer import LRP
from xaibench.attribution.result import Attribution
from xaibench.attribution.targets import Target
from xaibench.data.tasks import Task
from xaibench.errors import ConfigError, DataError, ExplanationError, UnknownNameError
from xaibench.models.copies import untrained
from xaibench.models.pair import ModelPair
from xaibench.similarity.compare import compare
from xaibench.similarity.metrics.table import DEFAULT_METRICS, METRICS, pool, with_sign
from xaibench.similarity.nulls import derangement, shifted
from xaibench.similarity.pooling import pooling_curve
from xaibench.similarity.similarity_report import SimilarityReport

N = 6
KEYS = [f"test/{i}" for i in range(N)]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def maps() -> tuple[Tensor, Tensor, Tensor]:
    """Heatmaps of a teacher, of a student that resembles it, and of one that does not."""
    teacher = noise(0, N, 16, 16)
    return teacher, teacher + noise(1, N, 16, 16), noise(2, N, 16, 16)


@pytest.fixture
def teacher(maps: tuple[Tensor, Tensor, Tensor]) -> Attribution:
    target = Target(torch.zeros(N, dtype=torch.int64), torch.ones(N, dtype=torch.int64))
    valid = Validity((Check("sum", 0.0, 1.0, True),))
    return Attribution(maps[0][:, None].repeat(1, 3, 1, 1), target, LRP(), valid, "teacher", "input")


@pytest.fixture
def student(teacher: Attribution, maps: tuple[Tensor, Tensor, Tensor]) -> Attribution:
    return dataclasses.replace(teacher, relevance=maps[1][:, None], model_hash="student")


@pytest.fixture
def report(maps: tuple[Tensor, Tensor, Tensor]) -> SimilarityReport:
    return compare(*maps[:2], keys=KEYS, random_student=maps[2], grid=8, seed=5)


@pytest.mark.parametrize("sign", ["signed", "absolute", "positive"])
def test_rows_are_the_metrics_of_pooled_maps(maps: tuple[Tensor, Tensor, Tensor], sign: str) -> None:
    report = compare(*maps[:2], keys=KEYS, random_student=maps[2], grid=4, sign=sign, seed=5)
    a, b, c = (with_sign(pool(m, 4), sign) for m in maps)
    assert list(report.rows.columns) == ["image", "metric", "pairing", "value"]
    assert len(report.rows) == N * len(DEFAULT_METRICS) * 4
    for name in DEFAULT_METRICS:
        metric = METRICS[name]
        np.testing.assert_array_equal(report.values(name), metric(a, b))
        np.testing.assert_array_equal(report.values(name, "random student"), metric(a, c))
        np.testing.assert_array_equal(report.values(name, "mismatched images"), metric(a, b[derangement(N, 5)]))
        np.testing.assert_array_equal(report.values(name, "shifted maps"), metric(a, shifted(b, 5)))
        assert list(report.values(name).index) == KEYS


def test_the_default_grid_follows_the_image_size(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    assert compare(*maps[:2]).grid == 4
    assert list(compare(*maps[:2]).values("cosine").index) == [str(i) for i in range(N)]


def test_summary(report: SimilarityReport) -> None:
    table = report.summary().set_index("metric")
    assert list(table.index) == list(DEFAULT_METRICS)
    row = table.loc["cosine"]
    assert row["mean"] == pytest.approx(report.values("cosine").mean())
    assert row["low"] < row["mean"] < row["high"]
    assert row["random_student_low"] < row["random_student"] < row["random_student_high"]
    assert row["mismatched"] == pytest.approx(report.values("cosine", "mismatched images").mean())
    assert row["mean"] > row["random_student_high"]
    assert (row["n"], row["nan"], row["chance"], row["chance_sd"]) == (N, 0, 0.0, 1 / 8)


def test_summary_is_a_copy(report: SimilarityReport) -> None:
    table = report.summary()
    table["mean"] = 0.0
    assert (report.summary()["mean"] != 0).all()


def test_the_same_maps_score_one_and_beat_both_nulls(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    report = compare(maps[0], maps[0], random_student=maps[2])
    assert (report.summary()[["mean", "low", "high"]] == 1).all(axis=None)
    assert report.lift("cosine", "random student").low > 0
    assert report.lift("cosine", "mismatched images").low > 0


def test_a_random_student_lies_within_chance() -> None:
    report = compare(noise(3, 200, 32, 32), noise(4, 200, 32, 32))
    table = report.summary()
    assert ((table["mean"] - table["chance"]).abs() < 4 * table["chance_sd"] / math.sqrt(200)).all()


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_the_order_of_images_does_not_matter(seed: int) -> None:
    a, b, c = noise(seed, 5, 8, 8), noise(seed + 1, 5, 8, 8), noise(seed + 2, 5, 8, 8)
    keys = list("abcde")
    order = np.random.default_rng(seed).permutation(5)
    plain = compare(a, b, keys=keys, random_student=c)
    moved = compare(a[order], b[order], keys=[keys[i] for i in order], random_student=c[order])
    for pairing in ("matched", "random student"):
        pd.testing.assert_series_equal(
            moved.values("spearman", pairing).sort_index(), plain.values("spearman", pairing).sort_index()
        )


def test_same_seed_same_report(maps: tuple[Tensor, Tensor, Tensor], report: SimilarityReport) -> None:
    again = compare(*maps[:2], keys=KEYS, random_student=maps[2], grid=8, seed=5)
    pd.testing.assert_frame_equal(again.rows, report.rows, check_exact=True)
    pd.testing.assert_frame_equal(again.summary(), report.summary(), check_exact=True)


def test_undefined_maps_are_counted(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    broken = maps[1].clone()
    broken[2] = 0
    report = compare(maps[0], broken, keys=KEYS, metrics=["cosine"])
    score = report.score("cosine")
    assert (score.n, score.nan) == (N - 1, 1)
    assert score.mean == pytest.approx(np.nanmean(report.values("cosine")))
    assert "test/2" not in report.worst("cosine", N)


def test_worst_images_come_first(report: SimilarityReport) -> None:
    values = report.values("pearson")
    assert report.worst("pearson", 2) == list(values.sort_values().index[:2])
    assert len(report.worst("pearson", 100)) == N


def test_lift_is_the_mean_difference(report: SimilarityReport) -> None:
    difference = report.values("spearman") - report.values("spearman", "random student")
    assert report.lift("spearman", "random student").mean == pytest.approx(difference.mean())


def test_the_summary_has_the_lift_over_an_independent_student(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    report = compare(*maps[:2], independent_student=maps[2], metrics=["cosine", "ssim"])
    difference = report.values("cosine") - report.values("cosine", "independent student")
    row = report.summary().set_index("metric").loc["cosine"]
    assert row["lift"] == pytest.approx(difference.mean())
    assert row["lift_low"] < row["lift"] < row["lift_high"]
    assert row["independent"] == pytest.approx(report.values("cosine", "independent student").mean())
    assert f"{row['lift']:.3f}" in str(report)
    itself = compare(*maps[:2], independent_student=maps[1], metrics=["cosine"]).lift("cosine")
    assert (itself.mean, itself.low, itself.high) == (0, 0, 0)


def test_nulls_that_were_not_scored(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    report = compare(maps[0][:1], maps[1][:1], metrics="cosine", grid=1)
    row = report.summary().iloc[0]
    assert np.isnan(row[["random_student", "mismatched", "shifted", "low", "high"]].astype(float)).all()
    assert np.isfinite(row["mean"])
    with pytest.raises(DataError, match="no scores for the null 'independent student': this report has none"):
        report.lift("cosine")


def test_texts(report: SimilarityReport, tmp_path: Path) -> None:
    mean = f"{report.score('cosine').mean:.3f}"
    assert "6 images, 8x8 grid, signed maps" in str(report)
    assert mean in str(report)
    assert mean in repr(report)
    assert "\n" not in repr(report)
    html = report._repr_html_()
    assert mean in html
    assert html.count("<tr") == 1 + len(DEFAULT_METRICS)
    latex = report.to_latex()
    assert r"top-10\% IoU" in latex
    assert latex.count(r"\\") == 1 + len(DEFAULT_METRICS)
    assert r"0.000 $\pm$ 0.125" in latex


def test_saved_rows_read_back(report: SimilarityReport, tmp_path: Path) -> None:
    table = pd.read_csv(report.save(tmp_path / "new" / "scores.csv"))
    pd.testing.assert_frame_equal(table[report.rows.columns], report.rows, check_dtype=False)
    assert set(table["grid"]) == {8}
    assert set(table["sign"]) == {"signed"}


def test_what_goes_together_otherwise_is_said(tiny_pair: ModelPair, tiny_task: Task) -> None:
    images = tiny_task.test.take(range(2))
    with pytest.raises(DataError, match=r"compared on an ImageSet, got Task: give task.test.sample\(40\)"):
        compare(tiny_pair, tiny_task)
    with pytest.raises(DataError, match=r"compared as a pair: give ModelPair.load\(teacher, student, task\)"):
        compare(tiny_pair.teacher, tiny_pair.student, images)
    with pytest.raises(DataError, match=r"give maps\.teacher, maps\.student"):
        compare(explain(tiny_pair, images, "input-x-gradient"))


def test_attributions_are_compared_by_their_heatmaps(teacher: Attribution, student: Attribution) -> None:
    report = compare(teacher, student, keys=KEYS, random_student=student)
    expected = compare(teacher.heatmaps, student.heatmaps, keys=KEYS)
    np.testing.assert_array_equal(report.values("cosine"), expected.values("cosine"))
    np.testing.assert_array_equal(report.values("cosine", "random student"), report.values("cosine"))


def test_flagged_images_are_undefined_in_every_pairing(teacher: Attribution, student: Attribution) -> None:
    flagged = dataclasses.replace(student, validity=Validity(student.validity.checks, (3,)))
    report = compare(teacher, flagged, keys=KEYS, metrics=["cosine"], seed=1)
    assert list(report.values("cosine").isna()) == [i == 3 for i in range(N)]
    partner = derangement(N, 1)
    assert list(report.values("cosine", "mismatched images").isna()) == [j == 3 for j in partner]


def test_refuses_explanations_of_different_questions(teacher: Attribution, student: Attribution) -> None:
    with pytest.raises(ExplanationError, match="different inputs"):
        compare(teacher, dataclasses.replace(student, input_hash="other"))
    with pytest.raises(ExplanationError, match="use one explainer"):
        compare(teacher, dataclasses.replace(student, explainer=IntegratedGradients()))
    with pytest.raises(ExplanationError, match="use one explainer"):
        compare(teacher, dataclasses.replace(student, explainer=LRP(gamma=0.5)))
    twos = torch.full((N,), 2)
    other = Target(teacher.target.label, twos)
    with pytest.raises(ExplanationError, match="different targets: pass the teacher's target"):
        compare(teacher, dataclasses.replace(student, target=other))
    with pytest.raises(ExplanationError, match="random student were explained for different targets"):
        compare(teacher, student, random_student=dataclasses.replace(student, target=other))


def test_own_contrasts_may_differ_but_not_labels(teacher: Attribution, student: Attribution) -> None:
    ones, twos = torch.ones(N, dtype=torch.int64), torch.full((N,), 2)
    asked = dataclasses.replace(teacher, target=Target(teacher.target.label, ones, "own"))
    other = dataclasses.replace(student, target=Target(teacher.target.label, twos, "own"))
    assert compare(asked, other).score("cosine").n == N
    with pytest.raises(ExplanationError, match="different targets"):
        compare(teacher, other)
    with pytest.raises(ExplanationError, match="different targets"):
        compare(asked, dataclasses.replace(student, target=Target(ones, twos, "own")))


@pytest.mark.parametrize("role", ["teacher", "student", "random student"])
def test_refuses_explanations_that_are_not_valid(teacher: Attribution, student: Attribution, role: str) -> None:
    invalid = Validity((Check("conservation", 256.0, 1e-3, False),))
    given = {"teacher": teacher, "student": student, "random student": student}
    given[role] = dataclasses.replace(given[role], validity=invalid)
    with pytest.raises(ExplanationError, match=f"the {role}'s explanation is not valid: conservation is 256"):
        compare(given["teacher"], given["student"], random_student=given["random student"])


def test_bad_input(maps: tuple[Tensor, Tensor, Tensor], report: SimilarityReport) -> None:
    a, b, _ = maps
    with pytest.raises(DataError, match=r"student's heatmaps have shape \(6, 8, 8\), the teacher's \(6, 16, 16\)"):
        compare(a, b[:, :8, :8])
    with pytest.raises(DataError, match=r"N > 0, got \(6, 1, 16, 16\)"):
        compare(a[:, None], b)
    with pytest.raises(DataError, match="teacher must be a ModelPair or an Attribution or a Tensor"):
        compare(a.tolist(), b)
    with pytest.raises(DataError, match=r"N > 0, got \(0, 16, 16\)"):
        compare(a[:0], b[:0])
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        compare(a, b, metrics=["cosin"])
    with pytest.raises(DataError, match="once each, at least one"):
        compare(a, b, metrics=["cosine", "cosine"])
    with pytest.raises(DataError, match="at least one, got"):
        compare(a, b, metrics=[])
    with pytest.raises(DataError, match=r"6 unique keys, got 6 \(1 unique\)"):
        compare(a, b, keys=["x"] * 6)
    with pytest.raises(UnknownNameError, match="unknown metric of this report 'kendall'"):
        report.score("kendall")
    with pytest.raises(UnknownNameError, match="did you mean 'random student'"):
        report.score("cosine", "random_student")


def test_a_pair_is_explained_and_scored_as_its_maps_are(tiny_pair: ModelPair, tiny_task: Task) -> None:
    images, other = tiny_task.test.sample(6), tiny_pair.with_student(untrained(tiny_pair.student, 5))
    before = tiny_pair.hashes()
    report = compare(tiny_pair, images, "lrp", random_student=other.student, independent_student=other.student)
    maps, nulls = (explain(pair, images, LRP()) for pair in (tiny_pair, other))
    wanted = compare(*maps, keys=images.keys, random_student=nulls.student, independent_student=nulls.student)
    pd.testing.assert_frame_equal(report.rows, wanted.rows)
    by_maps = compare(tiny_pair, images, LRP(), random_student=nulls.student, independent_student=nulls.student)
    pd.testing.assert_frame_equal(by_maps.rows, wanted.rows)
    assert tiny_pair.hashes() == before
    own = compare(tiny_pair, images, "lrp", contrast="own", random_student=other.student)
    assert list(own.values("cosine", "random student").index) == list(images.keys)


def test_a_random_student_without_a_valid_explanation_is_left_out(
    tiny_pair: ModelPair, tiny_task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    flat = copy.deepcopy(tiny_pair.student)
    torch.nn.init.zeros_(flat.fc.weight)  # type: ignore[union-attr,arg-type]
    images = tiny_task.test.sample(4)
    report = compare(tiny_pair, images, "input-x-gradient", random_student=flat)
    assert report.values("cosine", "random student").empty
    assert not report.values("cosine").empty
    assert "no random student to compare with" in caplog.text
    with pytest.raises(ExplanationError, match="all-zero gradients"):
        compare(tiny_pair, images, "input-x-gradient", independent_student=flat)


def test_what_cannot_be_compared_is_said_in_a_line(tiny_pair: ModelPair, tiny_task: Task) -> None:
    images, maps = tiny_task.test.sample(2), torch.rand(2, 8, 8)
    for arguments, options, message in (
        ((tiny_pair, maps), {}, r"a pair is compared on an ImageSet, got Tensor: give task\.test\.sample"),
        ((maps, images), {}, "the student is of type ImageSet, which goes with a ModelPair"),
        (
            (maps, maps),
            {"random_student": tiny_pair.student},
            "the random student is of type ScaledResNet18, which goes",
        ),
        ((maps, maps), {"grid": "8"}, "grid must be"),
        ((None, maps), {}, "teacher must be"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            compare(*arguments, **options)
        assert "\n" not in str(caught.value)


def test_a_printed_report_fits_the_terminal(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    report = compare(*maps[:2], metrics=list(METRICS), random_student=maps[2], independent_student=maps[2])
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 100
    for word in ("chance", "lift", "independent student", "mismatched images", "shifted maps"):
        assert word in str(report)
    assert all(sum(METRICS[name].label in line for line in lines) >= 2 for name in METRICS)


def test_nulls_are_those_of_the_images_that_the_student_has(maps: tuple[Tensor, Tensor, Tensor]) -> None:
    broken = maps[1].clone()
    broken[2] = 0
    report = compare(maps[0], broken, random_student=maps[2], metrics=["cosine"])
    kept = report.values("cosine").notna().to_numpy()
    random = report.values("cosine", "random student").to_numpy()
    assert kept.sum() == N - 1
    assert np.isfinite(random).all()
    assert report.summary().loc[0, "random_student"] == pytest.approx(random[kept].mean())


def test_wrong_values_are_one_line(maps: tuple[Tensor, Tensor, Tensor], report: SimilarityReport) -> None:
    a, b, _ = maps
    with pytest.raises(DataError, match="real numbers, got complex64"):
        compare(a.to(torch.complex64), b)
    with pytest.raises(ConfigError, match="a seed must be at least 0, got -1"):
        compare(a, b, seed=-1)
    with pytest.raises(ConfigError, match="k must be at least 0, got -1"):
        report.worst("cosine", -1)
    with pytest.raises(ConfigError, match="k must be a whole number"):
        report.worst("cosine", "x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="path must be"):
        report.save(3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1 cell a side, got 0"):
        METRICS["ssim"].chance(0)
    with pytest.raises(ConfigError, match="grids must be"):
        pooling_curve(a, b, "cosine", grids=3)  # type: ignore[arg-type]
