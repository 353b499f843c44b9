"""A table with all that its renderings need: one object is text, HTML, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import wrap

import pandas as pd

from xaibench.errors import unknown_name
from xaibench.report.latex import latex_table
from xaibench.report.tables import Emphasis, csv_table, html_table, text_table

__all__ = ["FORMATS", "ResultTable"]

FORMATS = ("text", "html", "latex", "csv")

_ENDS = ("", " low", " high", "_low", "_high")

_BOLD = "Bold: the highest mean of those compared, and each whose 95% interval reaches it."


@dataclass(frozen=True, eq=False)
class ResultTable:
    """A table with all that its renderings need.

    data     a row a method, say; ends of intervals in columns of their own, see `presented`
    caption  what it shows, and what its numbers rest on
    bold     column -> positions of the rows that are set in bold, see `best_rows`
    labels   name of a column or in a cell of text -> how it is written for readers, in HTML and LaTeX
    """

    data: pd.DataFrame
    caption: str = ""
    bold: Emphasis = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def labelled(self) -> tuple[pd.DataFrame, Emphasis]:
        """Data and bold with `labels` in place of names, also of the ends of intervals."""
        written = {f"{name}{end}": f"{label}{end}" for name, label in self.labels.items() for end in _ENDS}
        data = self.data.rename(columns=written)
        for name in data.select_dtypes(exclude="number"):
            data[name] = [self.labels.get(cell, cell) if isinstance(cell, str) else cell for cell in data[name]]
        return data, {self.labels.get(name, name): rows for name, rows in self.bold.items()}

    @property
    def marked_caption(self) -> str:
        """The caption, and what bold stands for where there is any."""
        return (
            f"{self.caption} {_BOLD}".strip() if any(self.bold.get(str(name)) for name in self.data) else self.caption
        )

    def render(self, form: str, *, width: int = 100, label: str = "") -> str:
        """As "text" with the caption below it, "html", "latex" or "csv" (all columns at full precision, no caption).

        width  characters a line of text
        label  of the LaTeX table, for \\ref

        Raises UnknownNameError for another format.
        """
        if form == "text":
            return "\n".join([text_table(self.data, width=width), *wrap(self.caption, width)]).rstrip() + "\n"
        if form == "html":
            data, bold = self.labelled()
            return html_table(data, caption=self.marked_caption, bold=bold) + "\n"
        if form == "latex":
            data, bold = self.labelled()
            return latex_table(data, caption=self.marked_caption, label=label, bold=bold)
        if form == "csv":
            return csv_table(self.data)
        raise unknown_name("format", form, FORMATS)


_NUMBER = ' class="number"'
