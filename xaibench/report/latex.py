"""Tables for LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from types import MappingProxyType

import pandas as pd

from xaibench.errors import ConfigError
from xaibench.report.tables import Emphasis, chosen_columns, numeric_columns, presented
from xaibench.validation import checked

__all__ = ["latex_table"]

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
}


@checked
def latex_table(
    table: pd.DataFrame,
    *,
    columns: Sequence[str] | None = None,
    digits: int = 3,
    caption: str = "",
    label: str = "",
    bold: Emphasis = MappingProxyType({}),
) -> str:
    """A booktabs table (needs \\usepackage{booktabs}); with a caption or label inside a table environment.

    columns  those to show, in this order; None: all
    bold     column -> positions of the rows that are set in bold, see `best_rows`

    Minus signs are set as $-$, powers of ten as $10^{-7}$. Raises UnknownNameError for a column that is not there.
    """
    if not 0 <= digits <= 20:
        raise ConfigError(f"digits must be 0 to 20, got {digits}: 3 is usual")
    table = table if columns is None else chosen_columns(table, columns)
    shown = presented(table, digits)
    align = "".join("r" if numeric else "l" for numeric in numeric_columns(table, shown))
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _latex_row(map(_escaped, shown.columns)), r"\midrule"]
    for position, row in enumerate(shown.itertuples(index=False)):
        cells = [_latex_cell(text, numeric) for text, numeric in zip(row, numeric_columns(table, shown))]
        marked = [position in bold.get(name, ()) for name in shown.columns]
        lines.append(_latex_row(rf"\textbf{{{c}}}" if strong else c for c, strong in zip(cells, marked)))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if caption or label:
        lines = [
            r"\begin{table}",
            r"\centering",
            *([rf"\caption{{{_escaped(caption)}}}"] if caption else []),
            *([rf"\label{{{label}}}"] if label else []),
            *lines,
            r"\end{table}",
        ]
    return "\n".join(lines) + "\n"


def _escaped(text: object) -> str:
    return "".join(_LATEX.get(character, character) for character in str(text))


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(text: str, numeric: bool) -> str:
    if not numeric:
        return _escaped(text)
    text = _escaped(text.replace("-", "−"))
    return re.sub(r"([\d.]+)e(\$-\$|\+)0*(\d+)", lambda m: f"${m[1]}\\cdot10^{{{m[2].strip('$+')}{m[3]}}}$", text)
