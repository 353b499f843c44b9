"""The command line: the only place where names become objects.

Progress on stderr, tables on stdout. Exit codes: 0 done, 1 our bug, 2 the user's input, 3 a score below its threshold.
"""

from __future__ import annotations

import logging
import sys

import typer
from rich.logging import RichHandler

from xaibench.allocator import kept_memory
from xaibench.cli import experiments, figure, jobs, questions, studies, tools  # noqa: F401 (their commands)
from xaibench.cli.app import app, errors
from xaibench.errors import XaibenchError
from xaibench.progress import show_progress

__all__ = ["app", "main"]

_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


def main() -> None:
    """Run the command line; turn the user's errors into one line on stderr and their exit code."""
    handler = RichHandler(logging.WARNING, errors, show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    try:
        with kept_memory(), show_progress(errors):
            code = app(standalone_mode=False)
    except XaibenchError as error:
        _fail(" ".join(str(error).split()), error.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        said = " ".join(str(error).split())[:120] or type(error).__name__
        _fail(f"there is not enough memory ({said}): give smaller images, batches or models", 2)
    except typer.TyperException as error:
        message = " ".join(error.format_message().split())
        if not message:  # no arguments: the help is the answer
            sys.exit(2)
        context = getattr(error, "ctx", None)
        _fail(f"{message.rstrip('.')}: see '{context.command_path if context else 'xaibench'} --help'", 2)
    if code == _INTERRUPTED:
        _fail("interrupted: start the same command again to go on where it stopped", code)
    if isinstance(code, int):  # of `typer.Exit`
        sys.exit(code)


def _is_lack_of_memory(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "allocate memory" in str(error)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)
