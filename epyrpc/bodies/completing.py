"""What Tab finds in a body: the names, attributes and keywords that may stand at the cursor of a cell.

With the first ``%%body`` cell a body has an IPython shell, which knows more (`by_shell`); before, Python's own
`rlcompleter` answers.
"""

from __future__ import annotations

import re
import rlcompleter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = re.compile(r"[^\W\d]\w*(\.\w*)*$")
MOST = 500  # answers
by_shell: Callable[[str, int], tuple[str, list[str]]] | None = None


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


__all__ = ["complete"]
