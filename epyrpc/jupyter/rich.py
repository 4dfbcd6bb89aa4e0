"""Lets any handler in a body display things as a notebook's cell does: the first lines of a notebook's bodies.

`prepare` runs when a body of a notebook begins. It imports nothing: the body's IPython shell is made when something
first asks for a shell, and figures are looked after from matplotlib's import on.
"""

from __future__ import annotations

import builtins
import threading
from typing import TYPE_CHECKING, Any

from epyrpc.jupyter import cells, figures
from epyrpc.jupyter.imports import when_imported

if TYPE_CHECKING:
    from epyrpc.bodies.capture import Capture

_here = threading.local()


def prepare(capture: Capture) -> None:
    """Prepare this process, the body of a notebook."""
    vars(builtins)["display"] = _display  # a notebook's cells have it without importing it
    when_imported("IPython.core.interactiveshell", _make_shell_on_demand)
    when_imported(figures.BACKEND, figures.take_over)
    capture.endings.append(figures.finish)


def _display(*objects: Any, **options: Any) -> Any:
    """Display objects in the cell that made the call; as ``IPython.display.display``."""
    from IPython.display import display

    return display(*objects, **options)  # type: ignore[no-untyped-call]


def _make_shell_on_demand(module: Any) -> None:
    """Have the body's shell made when somebody asks whether there is one."""
    kind = module.InteractiveShell
    ask = kind.initialized.__func__

    def initialized(cls: Any) -> bool:
        if cls is kind and not ask(cls) and not getattr(_here, "making", False):
            _here.making = True  # making it asks too
            try:
                cells.get_shell()
            finally:
                _here.making = False
        return bool(ask(cls))

    kind.initialized = classmethod(initialized)


__all__ = ["prepare"]
