"""The traits of a run panel: what may be set, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from xaibench.errors import ConfigError, unknown_name
from xaibench.report.result_table import FORMATS
from xaibench.widgets.panel import Panel, validate
from xaibench.widgets.run_results import Results

__all__ = ["ASKED", "PARTS", "TABLES", "USES", "RunTraits", "fitted", "parts_of"]

PARTS = {
    "scores": "scores",
    "intervals": "interval plots",
    "training": "training",
    "questions": "further questions",
    "export": "tables to copy",
}
"""Parts of a run panel -> how a selector words them."""

TABLES = {"methods": "methods", "scores": "scores of the explainer"}
"""Tables to copy -> how a selector words them."""

ASKED = ("group", "part", "explainer", "metric", "sort", "lowest", "opened", "method", "question", "copied", "form")
"""Names of the traits that say what is on show."""

USES = {
    "scores": ("metric", "explainer", "sort", "lowest"),
    "intervals": ("metric", "explainer"),
    "training": ("method",),
    "questions": ("question", "explainer", "metric"),
    "export": ("copied", "explainer", "form"),
}
"""Part -> the traits that it depends on."""


def parts_of(known: Results) -> dict[str, str]:
    """The parts that there are: questions are not asked of everything."""
    return {name: text for name, text in PARTS.items() if name != "questions" or known.questions}


def known_names(known: Results) -> dict[str, Sequence[str]]:
    """Trait -> the values that it may have."""
    return {
        "group": known.groups or ("",),
        "part": tuple(parts_of(known)),
        "explainer": known.explainers,
        "metric": known.metrics,
        "sort": ("given", "method", "accuracy", "agreement", *known.explainers),
        "method": known.methods,
        "question": known.questions or ("",),
        "copied": tuple(TABLES),
        "form": FORMATS,
    }


def fitted(asked: Mapping[str, Any], known: Results) -> dict[str, Any]:
    """What traits ask for, with what `known` has in place of names that it does not have."""
    fit, names = dict(asked) | {"group": known.group if known.groups else ""}, known_names(known)
    fit |= {name: valid[0] for name, valid in names.items() if fit[name] not in valid}
    if any(one not in names[of] for one, of in zip(fit["opened"], ("method", "explainer", "metric"))):
        fit["opened"] = ()
    return fit


class RunTraits(Panel):
    """Traits of `RunPanel`, where they are explained. A value that is refused changes nothing."""

    results: Results

    group = traitlets.Unicode()
    part = traitlets.Unicode("scores")
    explainer = traitlets.Unicode()
    metric = traitlets.Unicode()
    sort = traitlets.Unicode("given")
    lowest = traitlets.Bool(False)
    opened = traitlets.Tuple()
    method = traitlets.Unicode()
    question = traitlets.Unicode()
    copied = traitlets.Unicode("methods")
    form = traitlets.Unicode("text")

    @validate("group", "part", "explainer", "metric", "sort", "method", "question", "copied", "form")
    def _known(self, proposal: Any) -> str:
        name = proposal.trait.name
        valid = known_names(self.results)[name]
        if proposal.value not in valid:
            raise unknown_name(name, proposal.value, valid)
        return str(proposal.value)

    @validate("opened")
    def _known_score(self, proposal: Any) -> tuple[str, ...]:
        if not proposal.value:
            return ()
        known = self.results
        valid = {"method": known.methods, "explainer": known.explainers, "metric": known.metrics}
        if len(proposal.value) != len(valid):
            raise ConfigError(f"opened must be () or (method, explainer, metric), got {proposal.value!r:.80}")
        for value, (name, names) in zip(proposal.value, valid.items()):
            if value not in names:
                raise unknown_name(name, value, names)
        return tuple(map(str, proposal.value))

    @property
    def sorts(self) -> tuple[str, ...]:
        """What methods are sorted by."""
        return tuple(known_names(self.results)["sort"])
