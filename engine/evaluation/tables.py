"""Tables of text, for the terminal and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def terminal_table(title: str, head: list[str], rows: list[list[str]]) -> Table:
    """A table for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title)
    for index, column in enumerate(head):
        table.add_column(escape(column), justify="right" if index else "left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A table as Markdown: the first column on the left, figures on the right."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    return line(head) + "|---" + "|---:" * (len(head) - 1) + "|\n" + "".join(line(row) for row in rows)
