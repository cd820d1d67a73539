"""Tables as Markdown, for the pages that report measurements."""

from __future__ import annotations

Table = list[list[str]]
"""Rows of cells; the first row is the heading."""


def markdown(table: Table) -> str:
    """A table as Markdown, without a newline at the end."""
    head, *rows = table
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)
