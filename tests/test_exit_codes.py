"""How the command line ends: 0 done, 1 our bug, 2 the user's input; 3 and 130 are tested with the commands they end."""

import subprocess
import sys

import pytest

import xaibench


def python(*arguments, **options):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run",), "give either a configuration file or --preset NAME"),
        (("run", "x.toml", "--preset", "demo"), "give either"),
        (("run", "--outt", "x"), "No such option: --outt"),
        (("run", "--preset", "demo", "--devices", "two"), "--devices"),
        (("explain",), "Missing argument"),
        (("explane", "x"), "No such command 'explane'"),
        (("info", "nowhere"), "nowhere does not exist"),
        (("score", "nowhere"), "nowhere (it has no manifest.json)"),
        (("flip", "nowhere"), "nowhere (it has no manifest.json)"),
        (("flip", "nowhere", "--images", "0"), "Invalid value for '--images'"),
        (("inside", "nowhere"), "nowhere (it has no manifest.json)"),
        (("pooling", "nowhere"), "nowhere (it has no manifest.json)"),
        (("cues", "nowhere.toml"), "no configuration at nowhere.toml"),
        (("cues", "demo", "--cue", "pluss"), "did you mean 'plus'"),
        (("run", "--preset", "demo", "--accelerator", "tpu"), "choose cpu, cuda"),
        (("check", "nowhere.toml"), "no configuration at nowhere.toml"),
        (("init", "x.txt"), "ends in .toml"),
        (("info", "installed:nothing"), "unknown installed model 'nothing'"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(cli, arguments, message):
    called = cli(*arguments)
    assert (called.code, called.out) == (2, "")
    assert message in called.error
    assert len(called.err.splitlines()) == 1


def test_help_and_no_arguments(cli):
    called = cli("--help")
    assert called.code == 0
    assert "train-teacher" in called.out
    called = cli()
    assert called.code == 2
    assert called.err == ""
    assert "train-teacher" in called.out


def test_the_version_is_that_of_the_package(cli):
    called = cli("--version")
    assert (called.code, called.out, called.err) == (0, f"xaibench {xaibench.__version__}\n", "")


@pytest.mark.slow
def test_a_process_ends_with_one_line_and_exit_code_2(tmp_path):
    done = python("-m", "xaibench", "run", "--preset", "dem", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: unknown preset 'dem': did you mean 'demo'? Known: demo\n"
    assert list(tmp_path.iterdir()) == []


def test_a_bug_of_ours_is_a_traceback_and_not_an_error_of_the_user(cli, monkeypatch):
    def broken(*_args):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("xaibench.cli.info.describe", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli("info")


def test_a_bug_of_ours_ends_the_process_with_1():
    code = (
        "import sys, xaibench.cli, xaibench.cli.info as d\n"
        "d.describe = lambda target: 1 / 0\nsys.argv = ['xaibench', 'info']\nxaibench.cli.main()"
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr
