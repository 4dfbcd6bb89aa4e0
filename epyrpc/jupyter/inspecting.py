"""Shift-Tab, and whatever else asks a kernel what a name is, inside a ``%%body`` cell: the body is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epyrpc.bodies.body import TAB_SECONDS
from epyrpc.errors import EpyrpcError
from epyrpc.jupyter.completion import body_of, find_body

if TYPE_CHECKING:
    from collections.abc import Callable


class Inspecting:
    """Has a kernel ask bodies about what stands in their cells.

    Parameters
    ----------
    kernel : ipykernel.ipkernel.IPythonKernel
        Whose ``do_inspect`` is put behind ours.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._before: Callable[..., Any] | None = None

    def install(self) -> None:
        """Ask bodies from now on."""
        self._before = self._kernel.do_inspect
        self._kernel.do_inspect = self._inspect

    def uninstall(self) -> None:
        """Undo `install`."""
        vars(self._kernel).pop("do_inspect", None)

    def _inspect(self, code: str, cursor_pos: int, detail_level: int = 0, *more: Any, **options: Any) -> Any:
        found = self._ask(code, cursor_pos, detail_level)
        if found is None:
            assert self._before is not None
            return self._before(code, cursor_pos, detail_level, *more, **options)
        if not getattr(self._kernel.shell, "enable_html_pager", False):
            found.pop("text/html", None)
        return {"status": "ok", "data": found, "metadata": {}, "found": bool(found)}

    @staticmethod
    def _ask(code: str, cursor: int, detail_level: int) -> dict[str, str] | None:
        """Return what the body of a cell says of the name at the cursor, {} if it knows none; None to ask nobody."""
        from IPython.utils.tokenutil import token_at_cursor

        blank = len(code) - len(code.lstrip())
        first, _, rest = code[blank:].partition("\n")
        if not first.startswith("%%body ") or cursor <= blank + len(first):
            return None
        body = find_body(body_of(first))
        if body is None or not body.alive:
            return None
        name = token_at_cursor(rest, cursor - blank - len(first) - 1)
        try:
            return dict(body._control("describe_name", name, detail_level, timeout=TAB_SECONDS)) if name else {}
        except EpyrpcError:  # it is busy or gone: the notebook's own answer is better than none
            return None


__all__ = ["Inspecting"]
