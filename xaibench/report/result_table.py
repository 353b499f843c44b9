"""A table with all that its renderings need: one object is text, HTML, LaTeX and CSV."""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import wrap

import pandas as pd

from xaibench.errors import unknown_name
from xaibench.report.latex import latex_table
from xaibench.report.tables import Emphasis, csv_table, html_table, text_table

__all__ = ["FORMATS", "ResultTable"]

FORMATS = ("text", "html", "latex", "csv")

_BOLD = "Bold: the highest mean of those compared, and each whose 95% interval reaches it."


@dataclass(frozen=True, eq=False)
class ResultTable:
    """A table with all that its renderings need.

    data     a row a method, say; ends of intervals in columns of their own, see `presented`
    caption  what it shows, and what its numbers rest on
    bold     column -> positions of the rows that are set in bold, see `best_rows`
    """

    data: pd.DataFrame
    caption: str = ""
    bold: Emphasis = field(default_factory=dict)

    @property
    def marked_caption(self) -> str:
        """The caption, and what bold stands for where there is any."""
        return (
            f"{self.caption} {_BOLD}".strip() if any(self.bold.get(str(name)) for name in self.data) else self.caption
        )

    def render(self, form: str, *, width: int = 100) -> str:
        """As "text" with the caption below it, "html", "latex" or "csv" (all columns at full precision, no caption).

        width  characters a line of text

        Raises UnknownNameError for another format.
        """
        if form == "text":
            return "\n".join([text_table(self.data, width=width), *wrap(self.caption, width)]).rstrip() + "\n"
        if form == "html":
            return html_table(self.data, caption=self.marked_caption, bold=self.bold) + "\n"
        if form == "latex":
            return latex_table(self.data, caption=self.marked_caption, bold=self.bold)
        if form == "csv":
            return csv_table(self.data)
        raise unknown_name("format", form, FORMATS)


_NUMBER = ' class="number"'
