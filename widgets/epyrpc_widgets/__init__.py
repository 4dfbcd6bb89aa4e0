"""The live views of epyrpc: anywidget views of calls, bodies and transactions.

The distribution ``epyrpc`` installs this package beside ``epyrpc`` itself, and only ``epyrpc.jupyter.display`` imports
it, lazily, the first time a notebook shows something that has a live view. Whatever is shown here has good text and
static HTML in ``epyrpc`` already: a terminal, a saved notebook and a front end without widgets show those.

Each view is a module, with its ``.js`` and ``.css`` in ``static``, and uses the public names of ``epyrpc`` only.
"""

from __future__ import annotations

from typing import Any

import epyrpc
from epyrpc_widgets.bodies import BodyCard
from epyrpc_widgets.calls import CallView
from epyrpc_widgets.lists import CallList
from epyrpc_widgets.live import Flusher, LiveView, flusher
from epyrpc_widgets.maps import MapView
from epyrpc_widgets.monitor import TransactionMonitor
from epyrpc_widgets.pools import PoolCard


def view_of(thing: Any) -> LiveView | None:
    """Return the live view of calls, tasks, a stream, a map, a body or a pool; None for what has none."""
    if isinstance(thing, epyrpc.Stream):
        thing = thing.call
    if isinstance(thing, (epyrpc.AsyncResult, epyrpc.PoolResult)):
        return CallView.of(thing)
    if isinstance(thing, epyrpc.Gathered):
        return CallList.of(thing)
    if isinstance(thing, epyrpc.MapResults):
        thing = thing.run
    if isinstance(thing, epyrpc.MapRun):
        return MapView.of(thing)
    if isinstance(thing, epyrpc.Body):
        return BodyCard.of(thing)
    if isinstance(thing, epyrpc.Pool):
        return PoolCard.of(thing)
    return None


__all__ = [
    "BodyCard",
    "CallList",
    "CallView",
    "Flusher",
    "LiveView",
    "MapView",
    "PoolCard",
    "TransactionMonitor",
    "flusher",
    "view_of",
]
