"""Small static HTML tables, for saved notebooks, exports and front ends without widgets.

No style, no class, no script.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def escape(value: object) -> str:
    """Return text that is safe inside HTML."""
    text = str(value)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return text


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, code: Sequence[int] = ()) -> str:
    """Return a table; the columns numbered in `code` are set in type of one width."""

    def cell(index: int, value: object) -> str:
        text = escape(value)
        return f"<td><code>{text}</code></td>" if index in code and text else f"<td>{text}</td>"

    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(cell(i, v) for i, v in enumerate(row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
