"""Figures of a body belong to the call that made them: each call shows and closes its own when it ends.

matplotlib keeps one list of open figures, and its notebook backend shows and closes them all; in a body several calls
draw at once. So the backend is told, when it is imported, to note who made a figure. Nothing here imports matplotlib.
"""

from __future__ import annotations

import functools
import sys
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any

from epyrpc.results import current

if TYPE_CHECKING:
    from collections.abc import Callable

BACKEND = "matplotlib_inline.backend_inline"
_makers: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # {figure: the call that made it}
_drawing = threading.RLock()  # matplotlib draws one figure at a time


def take_over(backend: Any) -> None:
    """Have the notebook's backend note who makes a figure, and show each call its own."""
    make: Callable[..., Any] = backend.new_figure_manager_given_figure

    @functools.wraps(make)
    def new_figure_manager_given_figure(number: Any, figure: Any) -> Any:
        call = current.get()
        if call is not None:
            _makers[figure] = call
        return make(number, figure)

    show_all = backend.show

    @functools.wraps(show_all)  # with what the backend keeps on it
    def show(close: bool | None = None, block: bool | None = None) -> None:
        if close is None:
            close = backend.InlineBackend.instance().close_figures
        show_own(backend, bool(close))

    _let_go_of_pickled(sys.modules["matplotlib.figure"].Figure)
    backend.new_figure_manager_given_figure = new_figure_manager_given_figure
    backend.show = show
    _share_active_figures(backend.Gcf)


def _let_go_of_pickled(kind: Any) -> None:
    """Have figures that are returned to the notebook come as they are: its own pyplot would show them once more."""
    get_state = kind.__getstate__

    @functools.wraps(get_state)
    def __getstate__(self: Any) -> Any:
        state = get_state(self)
        state.pop("_restore_to_pylab", None)
        return state

    kind.__getstate__ = __getstate__


def _share_active_figures(managers: Any) -> None:
    """Let ``plt.gcf()`` find the figures of its own call; of another that still runs, never."""
    get_active = managers.get_active

    def get_own() -> Any:
        call = current.get()
        if call is None:
            return get_active()
        for manager in reversed(list(managers.figs.values())):
            maker = _makers.get(manager.canvas.figure)
            if maker is None or maker is call or maker.stage == "ended":
                return manager
        return None

    managers.get_active = staticmethod(get_own)


def show_own(backend: Any, close: bool) -> None:
    """Display the open figures of the call that runs here, and close them."""
    call = current.get()
    own = [m for m in backend.Gcf.get_all_fig_managers() if _makers.get(m.canvas.figure) is call]
    for manager in own:
        figure = manager.canvas.figure
        try:
            with _drawing:
                backend.display(figure, metadata=backend._fetch_figure_metadata(figure))
        finally:
            if close:
                backend.Gcf.destroy(manager.num)


def finish(call: Any) -> None:
    """Show and close what a call has drawn, before it is answered."""
    backend = sys.modules.get(BACKEND)
    if backend is None or current.get() is not call or not hasattr(backend, "_fetch_figure_metadata"):
        return  # nothing is drawn, or the backend is being imported
    try:
        if backend.InlineBackend.instance().close_figures:
            show_own(backend, True)
    except Exception:  # a figure that cannot be drawn: the call itself went well
        traceback.print_exc()


__all__ = ["BACKEND", "finish", "show_own", "take_over"]
