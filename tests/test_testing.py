from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
import torch

from xaibench.data.tasks import Task
from xaibench.errors import ConfigError, DataError, ExplanationError, UnknownNameError
from xaibench.models.pair import ModelPair
from xaibench.testing import assert_explains_alike, failure_folder

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def twins(tiny_pair: ModelPair) -> ModelPair:
    """A student that is the teacher."""
    return tiny_pair.with_student(tiny_pair.teacher)


def test_the_teacher_explains_like_itself(twins: ModelPair, tiny_task: Task, tmp_path: Path) -> None:
    report = assert_explains_alike(
        twins, tiny_task.test.take(range(6)), min_cosine=1.0, min_topk_iou=1.0, picture=tmp_path / "no.png"
    )
    assert report.metrics == ("cosine", "topk_iou")
    assert report.score("cosine").mean == 1.0
    assert report.lift("cosine", "random student").mean > 0.3
    assert not (tmp_path / "no.png").exists()


def test_the_lift_over_an_independent_student_is_reported(
    twins: ModelPair, tiny_pair: ModelPair, tiny_task: Task
) -> None:
    images = tiny_task.test.take(range(6))
    report = assert_explains_alike(twins, images, min_cosine=0.5, independent_student=tiny_pair.student)
    assert report.lift("cosine").mean == pytest.approx(1 - report.score("cosine", "independent student").mean)
    assert "lift" in str(report)
    with pytest.raises(ExplanationError, match="the independent student cannot be explained"):
        assert_explains_alike(twins, images, min_cosine=0.5, independent_student=torch.nn.Identity())


def test_an_untrained_student_fails_with_everything_to_see_why(
    tiny_pair: ModelPair, tiny_task: Task, tmp_path: Path
) -> None:
    images = tiny_task.test.take(range(8))
    picture = tmp_path / "pictures" / "failure.png"
    with pytest.raises(AssertionError) as caught:
        assert_explains_alike(tiny_pair, images, min_cosine=0.9, min_pearson=-1, picture=picture, grid=4)
    message = str(caught.value)
    assert re.match(
        r"teacher and student are not explained alike: cosine -?0\.\d+ \[-?0\.\d+, -?0\.\d+\] is below 0\.9\n", message
    )
    assert "lrp, class against the teacher's runner-up\n8 images, 4x4 grid, signed maps" in message
    lines = re.findall(r"^(?:metric|cosine|Pearson) .*$", message, re.MULTILINE)  # a block of scores, one of nulls
    header, cosine, pearson = (" ".join(lines[i::3]) for i in range(3))
    assert header.split("  ")[0] == "metric"
    for column in ("95% interval", "chance", "random student", "mismatched images"):
        assert column in header
    assert "lift" not in header  # no independent student was given
    assert "0.000 ± 0.250" in cosine
    assert "-  " not in cosine + pearson  # both nulls were scored
    listed = re.findall(r"^  ([+-]\d\.\d{3})  (\S+)$", message.split("worst images by cosine:")[1], re.MULTILINE)
    assert len(listed) == 6
    assert [float(score) for score, _ in listed] == sorted(float(score) for score, _ in listed)
    assert {key for _, key in listed} <= set(images.keys)
    assert message.endswith(f"picture: {picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_plain_tensors_are_explained_for_the_teachers_prediction(tiny_pair: ModelPair, tiny_task: Task) -> None:
    pixels = tiny_task.test.images[:4]
    with torch.no_grad():
        predicted = tiny_pair.teacher(tiny_pair.preprocessing(pixels)).argmax(dim=1)
    # The top cells, since a question and its reverse have the same cosine.
    top = {"metric": "topk_iou", "min_score": 0, "grid": 12}
    without = assert_explains_alike(tiny_pair, pixels, **top)
    given = assert_explains_alike(tiny_pair, pixels, predicted.tolist(), **top)
    other = assert_explains_alike(tiny_pair, pixels, (predicted + 1) % 3, **top)
    assert list(without.values("topk_iou")) == list(given.values("topk_iou"))
    assert list(without.values("topk_iou")) != list(other.values("topk_iou"))


def test_explainer_contrast_and_sign_are_passed_on(tiny_pair: ModelPair, tiny_task: Task) -> None:
    images = tiny_task.test.take(range(3))
    lrp = assert_explains_alike(tiny_pair, images, min_score=-1)
    soft = assert_explains_alike(tiny_pair, images, min_score=-1, explainer="lrp:gamma=0.25")
    own = assert_explains_alike(tiny_pair, images, min_score=-1, contrast="own")
    positive = assert_explains_alike(tiny_pair, images, metric="ssim", min_score=-1, sign="positive")
    assert soft.score("cosine").mean != lrp.score("cosine").mean
    assert own.score("cosine").n == 3
    assert (positive.sign, positive.metrics) == ("positive", ("ssim",))


def test_the_default_picture_lies_in_the_temporary_folder(
    tiny_pair: ModelPair, tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(AssertionError, match="picture: ") as caught:
        assert_explains_alike(tiny_pair, tiny_task.test.take([0, 1]), min_cosine=1)
    saved = Path(str(caught.value).rpartition("picture: ")[2])
    assert saved.parent == failure_folder() == tmp_path / "xaibench-failures"
    assert saved.is_file()


def test_a_picture_that_cannot_be_saved_does_not_hide_the_failure(
    tiny_pair: ModelPair, tiny_task: Task, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AssertionError, match=r"not explained alike(.|\n)*no picture: cannot write"):
        assert_explains_alike(tiny_pair, tiny_task.test.take([0, 1]), min_cosine=1, picture=tmp_path / "file" / "x.png")


def test_nothing_hides_the_scores_of_a_failure(
    tiny_pair: ModelPair, tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = dataclasses.replace(tiny_pair, classes=("猫", "犬", "🐟"))
    images = dataclasses.replace(tiny_task.test.take([0, 1]), classes=named.classes)
    path = tmp_path / "x.png"
    with pytest.raises(AssertionError, match=f"not explained alike(.|\n)*metric(.|\n)*picture: {path}$"):
        assert_explains_alike(named, images, min_cosine=1, picture=path)  # warnings are errors here
    for trouble in (RuntimeError("the disk melts\naway"), UserWarning("a glyph"), MemoryError()):

        def fail(*_args: object, trouble: BaseException = trouble, **_options: object) -> None:
            raise trouble

        monkeypatch.setattr("xaibench.testing.gallery", fail)
        with pytest.raises(AssertionError, match=r"not explained alike(.|\n)*metric(.|\n)*\nno picture: \S"):
            assert_explains_alike(named, images, min_cosine=1, picture=path)


def test_the_models_are_left_as_they_were(tiny_pair: ModelPair, tiny_task: Task) -> None:
    tiny_pair.student.train()
    before = tiny_pair.hashes()
    assert_explains_alike(tiny_pair, tiny_task.test.take([0, 1]), min_score=-1)
    assert tiny_pair.hashes() == before
    assert tiny_pair.student.training


def test_an_invalid_explanation_is_an_error_and_no_failed_assertion(
    tiny_pair: ModelPair, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ExplanationError("LRP of ResNet is not valid: conservation is 256")

    monkeypatch.setattr("xaibench.testing.explain", refuse)
    with pytest.raises(ExplanationError, match="conservation is 256"):
        assert_explains_alike(tiny_pair, tiny_task.test, min_cosine=0.5)


def test_a_null_that_cannot_be_explained_decides_nothing(
    twins: ModelPair, tiny_pair: ModelPair, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise ExplanationError("the untrained one is flat")

    monkeypatch.setattr("xaibench.testing.explain_null", refuse)
    images = tiny_task.test.take([0, 1])
    report = assert_explains_alike(twins, images, min_cosine=1)
    assert report.values("cosine", "random student").empty
    with pytest.raises(AssertionError, match="no random student: the untrained one is flat"):
        assert_explains_alike(tiny_pair, images, min_cosine=1)


def test_bad_thresholds_and_input(tiny_pair: ModelPair, tiny_task: Task) -> None:
    images = tiny_task.test
    with pytest.raises(ConfigError, match="no threshold is given"):
        assert_explains_alike(tiny_pair, images)
    with pytest.raises(UnknownNameError, match="unknown threshold 'min_cosin': did you mean 'min_cosine'"):
        assert_explains_alike(tiny_pair, images, min_cosin=0.5)
    with pytest.raises(UnknownNameError, match="did you mean 'spearman'"):
        assert_explains_alike(tiny_pair, images, metric="spearmann", min_score=0.5)
    with pytest.raises(ConfigError, match="give one of them"):
        assert_explains_alike(tiny_pair, images, min_score=0.5, min_cosine=0.6)
    with pytest.raises(ConfigError, match="cosine is 60, but its scores run from -1 to 1"):
        assert_explains_alike(tiny_pair, images, min_cosine=60)
    with pytest.raises(ConfigError, match="is nan"):
        assert_explains_alike(tiny_pair, images, min_cosine=float("nan"))
    with pytest.raises(UnknownNameError, match="unknown explainer 'lpr'"):
        assert_explains_alike(tiny_pair, images, explainer="lpr", min_score=0.5)
    with pytest.raises(DataError, match="uint8"):
        assert_explains_alike(tiny_pair, images.images.float(), min_score=0.5)
    with pytest.raises(DataError, match="got list"):
        assert_explains_alike(tiny_pair, [1, 2], min_score=0.5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="but 3 labels"):
        assert_explains_alike(tiny_pair, images, [0, 1, 2], min_score=0.5)


PAIR = """
import pytest
import torch
from xaibench.data.images import Preprocessing
from xaibench.models.architectures import build_model
from xaibench.models.pair import ModelPair

@pytest.fixture
def pair():
    models = [build_model("resnet18-cifar:4-4-4-4@4", 2, seed=i) for i in range(2)]
    return ModelPair.create(*models, classes=("a", "b"), preprocessing=Preprocessing((0.5,) * 3, (0.5,) * 3))

@pytest.fixture
def images():
    return torch.randint(0, 256, (2, 3, 12, 12), dtype=torch.uint8)
"""


@pytest.fixture
def only_our_plugin(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Arguments for a pytest inside pytest that has our plugin and no other, installed or not."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return "-p", "xaibench.pytest_plugin", "-rs"


def test_the_plugin_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"xaibench": "xaibench.pytest_plugin"}


def test_starting_pytest_imports_nothing_heavy(pytester: pytest.Pytester, only_our_plugin: tuple[str, ...]) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_light():
            assert "xaibench.pytest_plugin" in sys.modules
            assert not {"torch", "numpy", "pandas", "matplotlib"} & set(sys.modules)

        def test_run(xaibench_run):
            pass
        """
    )
    result = pytester.runpytest_subprocess(*only_our_plugin)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*no run folder: give one with --xaibench-run DIR*"])


def test_fixtures(pytester: pytest.Pytester, only_our_plugin: tuple[str, ...]) -> None:
    pytester.makeconftest(PAIR)
    pytester.makepyfile(
        """
        import pytest

        def test_same(pair, images, explains_alike):
            explains_alike(pair.with_student(pair.teacher), images, min_cosine=1)

        @pytest.mark.parametrize("case", ["other model"])
        def test_other(pair, images, explains_alike, case):
            with pytest.raises(AssertionError):
                explains_alike(pair, images, min_cosine=1)
            explains_alike(pair, images, min_cosine=1)

        def test_run(xaibench_run):
            pass
        """
    )
    empty = pytester.mkdir("empty")
    result = pytester.runpytest_inprocess(
        *only_our_plugin, "--xaibench-pictures", "pictures", "--xaibench-run", str(empty)
    )
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*AssertionError: teacher and student are not explained alike: cosine*"])
    result.stdout.fnmatch_lines(["*RunFolderError: *empty*"])
    saved = sorted(path.name for path in (pytester.path / "pictures").iterdir())
    assert saved == ["test_fixtures.py-test_other-other-model-2.png", "test_fixtures.py-test_other-other-model.png"]


@pytest.mark.slow
def test_no_setting_of_the_plugin_hides_the_scores(pytester: pytest.Pytester, only_our_plugin: tuple[str, ...]) -> None:
    pytester.makeconftest(PAIR)
    pytester.makepyfile(
        """
        import tempfile
        import pytest

        @pytest.fixture
        def nowhere(monkeypatch):
            monkeypatch.setattr(tempfile, "tempdir", None)
            monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)

        def test_without_a_temporary_folder(pair, images, nowhere, explains_alike):
            explains_alike(pair, images, min_cosine=1)

        def test_LONG(pair, images, explains_alike):
            explains_alike(pair, images, min_cosine=1)
        """.replace("LONG", "x" * 250)
    )
    (pytester.path / "file").touch()
    for options, reasons in (
        ((), ["no picture: *No usable temporary directory*", "picture: *x.png"]),
        (("--xaibench-pictures", "file/below"), ["no picture: cannot write *"] * 2),
        (("--xaibench-pictures", "pictures"), ["picture: pictures/*.png"] * 2),
    ):
        result = pytester.runpytest_inprocess(*only_our_plugin, *options)
        result.assert_outcomes(failed=2)
        for reason in reasons:
            result.stdout.fnmatch_lines(
                ["*AssertionError: teacher and student are not explained alike: cosine*", "*metric*", f"*{reason}"]
            )
