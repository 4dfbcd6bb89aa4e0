"""What Tab and Shift-Tab find in a body: what may stand at the cursor of a cell, and what the name there is.

With the first ``%%body`` cell a body has an IPython shell, which knows more (`by_shell`, `described_by_shell`); before,
Python's own `rlcompleter` and `inspect` answer.
"""

from __future__ import annotations

import builtins
import inspect
import re
import rlcompleter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = re.compile(r"[^\W\d]\w*(\.\w*)*$")
MOST = 500  # answers
by_shell: Callable[[str, int], tuple[str, list[str]]] | None = None
described_by_shell: Callable[[str, int], dict[str, str]] | None = None


def complete(line: str, column: int, namespace: dict[str, Any]) -> tuple[str, list[str]]:
    """Return what is to be replaced in front of the cursor, and what may stand there.

    Parameters
    ----------
    line : str
        The line of the cell that the cursor is on.
    column : int
        Where it is.
    namespace : dict
        The names.
    """
    if by_shell is not None:
        fragment, found = by_shell(line, column)
        return fragment, found[:MOST]
    token = TOKEN.search(line[:column])
    if token is None:
        return "", []
    completer = rlcompleter.Completer(namespace)
    matches: list[str] = []
    while len(matches) < MOST and (match := completer.complete(token.group(), len(matches))) is not None:
        matches.append(match)
    return token.group(), sorted({match.partition("(")[0].rstrip(" :") for match in matches})


def describe(name: str, detail_level: int, namespace: dict[str, Any]) -> dict[str, str]:
    """Return what a name is, by MIME type; nothing when there is no such name.

    Parameters
    ----------
    name : str
        Dotted, perhaps.
    detail_level : int
        1 for the source code too.
    namespace : dict
        The names.
    """
    if described_by_shell is not None:
        return described_by_shell(name, detail_level)
    first, *rest = name.split(".")
    try:
        value = namespace[first] if first in namespace else getattr(builtins, first)
        for attribute in rest:
            value = getattr(value, attribute)
    except AttributeError:
        return {}
    lines = [("Signature", f"{name}{_signature(value)}" if callable(value) else ""), ("Type", type(value).__name__)]
    if not callable(value):
        lines.append(("String form", str(value)[:MOST]))
    lines.append(("Docstring", inspect.getdoc(value) or "<no docstring>"))
    if detail_level:
        lines.append(("Source", _source(value)))
    return {"text/plain": "\n".join(f"{title + ':':<13}{text}" for title, text in lines if text)}


def _signature(value: Any) -> str:
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):  # of some builtins it is not known
        return "(...)"


def _source(value: Any) -> str:
    try:
        return "\n" + inspect.getsource(value)
    except (TypeError, OSError):  # it has none
        return ""


__all__ = ["complete", "describe"]
