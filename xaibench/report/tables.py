"""Tables as text, HTML and CSV: one rule for how numbers are written, and for what is best."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from xaibench.errors import DataError, unknown_name

__all__ = [
    "Emphasis",
    "best_rows",
    "chosen_columns",
    "csv_table",
    "html_table",
    "numeric_columns",
    "presented",
    "side_by_side",
    "text_table",
]

_NUMBER = ' class="number"'

Emphasis = Mapping[str, Collection[int]]
"""Column -> positions of the rows whose cells are set in bold."""


def presented(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """The table as text: floats with `digits` decimals, NaN as "–", an interval as "mean ± half its width".

    Whole numbers of five digits and more have commas. A column X with companions "X low" and "X high" (or "X_low",
    "X_high") becomes the one column "mean ± (high - low) / 2".

    >>> presented(pd.DataFrame({"method": ["kd"], "cos": [0.5], "cos low": [0.46], "cos high": [0.52]}), 2)
      method          cos
    0     kd  0.50 ± 0.03
    """
    bounds = _intervals(table)
    companions = {name for pair in bounds.values() for name in pair}
    columns: dict[str, list[str]] = {}
    for name in table.columns:
        if name in companions:
            continue
        cells = [_cell(value, digits) for value in table[name]]
        if name in bounds:
            low, high = (table[bound].to_numpy(dtype=float) for bound in bounds[name])
            half = (high - low) / 2
            cells = [f"{c} ± {h:.{digits}f}" if math.isfinite(h) else c for c, h in zip(cells, half)]
        columns[str(name)] = cells
    return pd.DataFrame(columns, index=table.index)


def csv_table(table: pd.DataFrame) -> str:
    """All columns at full precision, for machines; NaN is an empty field, lines end with a line feed."""
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()


def chosen_columns(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The named columns with the ends of their intervals, in the order of the names.

    Raises UnknownNameError for a column that the table lacks, DataError for none or one that is named twice.
    """
    bounds = _intervals(table)
    known = [str(name) for name in table.columns if not any(name in pair for pair in bounds.values())]
    for name in columns:
        if name not in known:
            raise unknown_name("column", name, known)
    if not columns or len(set(columns)) < len(columns):
        given = ", ".join(columns) or "none"
        raise DataError(f"columns must be named once each, got {given}: choose {', '.join(known)}")
    return table.loc[:, [part for name in columns for part in (name, *bounds.get(name, ()))]]


def best_rows(table: pd.DataFrame, rivals: Sequence[int] | None = None) -> dict[str, list[int]]:
    """Column with an interval -> positions of the rows that are the best as far as the intervals tell.

    rivals  positions of the rows that are compared; None: all

    The row of the highest mean, and each whose own 95% interval reaches that mean. No row is best among fewer than two,
    nor where the highest mean has no interval.

    >>> scores = pd.DataFrame({"cos": [0.7, 0.6, 0.3], "cos low": [0.6, 0.5, 0.2], "cos high": [0.8, 0.7, 0.4]})
    >>> best_rows(scores)
    {'cos': [0, 1]}
    """
    rows = list(range(len(table)) if rivals is None else rivals)
    best = {}
    for name, ends in _intervals(table).items():
        values = table[[name, *ends]].iloc[rows].astype(float).set_axis(rows).dropna(subset=[name])
        if len(values) > 1 and values.iloc[int(values[name].to_numpy().argmax())].notna().all():
            best[name] = [int(row) for row in values.index[values[ends[1]] >= values[name].max()]]
    return best


def side_by_side(table: pd.DataFrame, rows: Sequence[str], column: str, value: str) -> pd.DataFrame:
    """A long table made wide: one row each of `rows`, and for every name in `column` its `value`, "low" and "high".

    >>> long = pd.DataFrame({"layer": 1, "measure": ["a", "b"], "value": [0.5, 0.7], "low": [0.4, 0.6], "high": 0.8})
    >>> list(side_by_side(long, ["layer"], "measure", "value"))
    ['layer', 'a', 'a low', 'a high', 'b', 'b low', 'b high']
    """
    records: dict[tuple[object, ...], dict[str, object]] = {}
    for one in table.to_dict("records"):
        key = tuple("" if pd.isna(one[name]) else one[name] for name in rows)
        record = records.setdefault(key, dict(zip(rows, key)))
        name = str(one[column])
        record |= {name: one[value], f"{name} low": one["low"], f"{name} high": one["high"]}
    return pd.DataFrame(list(records.values()))


def text_table(table: pd.DataFrame, *, digits: int = 3, width: int | None = None) -> str:
    """A Markdown table with aligned columns, for a terminal or a text file.

    width  characters a line: columns that do not fit stand in further tables below, each with the first column again,
           and what is wider still is folded. None: one table, as wide as needed, so that no cell is broken
    """
    shown = presented(table, digits)
    if width is None:
        return _drawn(table, shown, None)
    blocks: list[list[int]] = [[0]]
    wide = [3 + max([len(str(name)), *map(len, map(_one_line, shown[name]))]) for name in shown.columns]
    for i in range(1, len(shown.columns)):
        if len(blocks[-1]) > 1 and 4 + sum(wide[j] for j in (*blocks[-1], i)) > width:
            blocks.append([0])
        blocks[-1].append(i)
    return "\n".join(_drawn(table, shown.iloc[:, block], width) for block in blocks)


def _drawn(table: pd.DataFrame, shown: pd.DataFrame, width: int | None) -> str:
    drawn = Table(box=box.MARKDOWN, show_edge=True, pad_edge=True)
    for name, numeric in zip(shown.columns, numeric_columns(table, shown)):
        drawn.add_column(
            _one_line(name), justify="right" if numeric else "left", no_wrap=width is None, overflow="fold"
        )
    for row in shown.itertuples(index=False):
        drawn.add_row(*map(_one_line, row))
    needed = 4 + sum(3 + max([len(str(name)), *map(len, shown[name])]) for name in shown.columns)
    console = Console(
        file=io.StringIO(), width=width or needed, color_system=None, highlight=False, markup=False, emoji=False
    )
    console.print(drawn)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip()) + "\n"


def html_table(
    table: pd.DataFrame, *, digits: int = 3, caption: str = "", bold: Emphasis = MappingProxyType({})
) -> str:
    """A <table> whose cells carry their exact value in data-value, for sorting; all text is escaped.

    Cells of numbers have the class "number" and true minus signs, booleans the class "yes" or "no"; the first cell of a
    row is its heading.
    bold  as in `latex_table`
    """
    shown = presented(table, digits)
    numeric = numeric_columns(table, shown)
    head = "".join(
        f'<th scope="col"{_NUMBER * number}>{html.escape(name)}</th>' for name, number in zip(shown.columns, numeric)
    )
    body = []
    for position in range(len(shown)):
        cells = []
        for column, (name, number) in enumerate(zip(shown.columns, numeric)):
            value, text = table[name].iloc[position], html.escape(shown[name].iloc[position])
            kind = f' class="{text}"' if isinstance(value, (bool, np.bool_)) else _NUMBER * number
            text = text.replace("-", "−") if number else text
            exact = html.escape("" if _undefined(value) else str(value))
            tag, scope = ("td", "") if column else ("th", ' scope="row"')
            text = f"<strong>{text}</strong>" if position in bold.get(name, ()) else text
            cells.append(f'<{tag}{scope}{kind} data-value="{exact}">{text}</{tag}>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _intervals(table: pd.DataFrame) -> Mapping[str, tuple[str, str]]:
    names = set(table.columns)
    return {
        name: (f"{name}{gap}low", f"{name}{gap}high")
        for name in table.columns
        for gap in (" ", "_")
        if {f"{name}{gap}low", f"{name}{gap}high"} <= names
    }


def _cell(value: Any, digits: int) -> str:
    if _undefined(value):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        plain = value == 0 or 0.5 * 10**-digits <= abs(float(value)) < 1e6
        return f"{value:.{digits}f}" if plain else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) and abs(int(value)) >= 10_000 else str(value)


def _undefined(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, (float, np.floating)) and math.isnan(value))


def numeric_columns(table: pd.DataFrame, shown: pd.DataFrame) -> list[bool]:
    """Which columns of the presented table hold numbers."""
    kinds = [table[name].dtype for name in shown.columns]
    return [pd.api.types.is_numeric_dtype(k) and not pd.api.types.is_bool_dtype(k) for k in kinds]


def _one_line(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
