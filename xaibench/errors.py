"""One family of errors: each says in one line what was given, what is accepted and what to do.

The command line turns any `XaibenchError` into that line and exit code 2 (3 for `BelowThreshold`);
everything else is a bug of ours and exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BelowThresholdError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ExplanationError",
    "ModelError",
    "RunFolderError",
    "UnknownNameError",
    "XaibenchError",
    "unknown_name",
]


class XaibenchError(ValueError):
    """Base of all errors that the user's input can cause. The message is one line with the remedy."""

    exit_code = 2


class UnknownNameError(XaibenchError):
    """A name (dataset, subtask, model, layer, method, metric) that is not in its table."""


class DataError(XaibenchError):
    """Images, labels or class names that cannot be used as they are."""


class ModelError(XaibenchError):
    """A model, layer pair or pair of models that cannot do what is asked of it."""


class CheckpointError(XaibenchError):
    """A checkpoint that is missing, corrupt, unsafe or made for another architecture."""


class ExplanationError(XaibenchError):
    """An attribution that cannot be computed or did not pass its validity checks."""


class ConfigError(XaibenchError):
    """A configuration or option with an unknown key or a value outside its range."""


class RunFolderError(XaibenchError):
    """A run folder that is missing, not empty, or made by another configuration."""


class BelowThresholdError(XaibenchError):
    """A similarity score below the threshold that was asked for."""

    exit_code = 3


def unknown_name(kind: str, got: object, valid: Iterable[str]) -> UnknownNameError:
    """Return the error for an unknown name, with the nearest valid one.

    >>> str(unknown_name("method", "subdistil", ["kd", "subdistill"]))
    "unknown method 'subdistil': did you mean 'subdistill'? Known: kd, subdistill"
    >>> str(unknown_name("explainer", "LRP", ["lrp", "ig"]))
    "unknown explainer 'LRP': did you mean 'lrp'? Known: lrp, ig"
    """
    names = list(valid)
    spelled = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(got).lower(), spelled, n=1, cutoff=0.5)
    hint = f"did you mean '{spelled[close[0]]}'? " if close else ""
    shown = names if len(names) <= 30 else [*names[:30], f"... ({len(names)} in all)"]
    return UnknownNameError(f"unknown {kind} '{got}': {hint}Known: {', '.join(shown)}")
