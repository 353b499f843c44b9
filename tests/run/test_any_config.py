"""Whatever a configuration may say, a run that was begun ends with its report."""

import pytest

from xaibench.run.folder import open_run


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ["similarity.metrics=['pearson']", "explain.images=2"],
        ["similarity.metrics=['transport_negative', 'ssim']", "similarity.grid=3", "similarity.sign=absolute"],
        ["methods=['kd']", "explain.explainers=['occlusion', 'gradcam:layer=layer4']", "similarity.grid=1"],
        ["methods=['subdistill:kd_weight=0', 'student-only']", "seeds=[3, 1]", "explain.contrast=own"],
    ],
)
def test_a_run_of_any_valid_configuration_ends_with_its_report(cli, small_settings, tmp_path, settings):
    options = [part for setting in settings for part in ("--set", setting)]
    called = cli("run", "--preset", "demo", "--out", tmp_path / "run", *small_settings, *options)
    assert called.code == 0, called
    assert max(map(len, called.out.splitlines())) <= 100
    run = open_run(tmp_path / "run")
    assert run.finished
    assert "<figcaption>" in (run.folder / "report.html").read_text(encoding="utf-8")
