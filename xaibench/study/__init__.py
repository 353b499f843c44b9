"""Runs: configuration, run folder, the resumable steps, figures and report."""

from xaibench.study.config import RunConfig
from xaibench.study.run import Run, open_run
from xaibench.study.runner import run_study

__all__ = ["Run", "RunConfig", "open_run", "run_study"]
