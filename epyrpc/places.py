"""Where code stands, in words that a person knows: ``In[4], line 3`` or ``analysis.py:12``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BODY_CELL = re.compile(r"<cell (In\[\d+\])>")  # what the code of a %%body cell is called
# Returns the cell that a file name stands for, such as "In[4]", or ""; the notebook's part sets it.
name_of_cell: Callable[[str], str] = lambda filename: ""  # noqa: E731 - a variable, not a function


def place(filename: str, line: int, *, with_line: bool = True) -> str:
    """Return where a line of code stands.

    Parameters
    ----------
    filename : str
        What Python calls the file.
    line : int
        The line's number, from 1.
    with_line : bool
        Whether the line within a cell is of interest; of a file it always is.

    Examples
    --------
    >>> place("/home/me/analysis.py", 12)
    'analysis.py:12'
    >>> place("<cell In[4]>", 3)
    'In[4], line 3'
    """
    match = _BODY_CELL.fullmatch(filename)
    cell = match[1] if match is not None else name_of_cell(filename)
    if cell:
        return f"{cell}, line {line}" if with_line else cell
    return f"{filename.replace(chr(92), '/').rpartition('/')[2]}:{line}"


__all__ = ["place"]
