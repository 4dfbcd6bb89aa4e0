"""The end of the head: all its bodies are told first, then waited for together, under one limit.

A notebook's kernel has about a second to leave before it is killed; stopped one after the other, a few bodies would
need more. What is not done by the limit is left: bodies end by themselves when their head has gone.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING

from epyrpc.bodies import bootstrap
from epyrpc.errors import EpyrpcError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epyrpc.bodies.body import Body
    from epyrpc.bodies.incarnation import Incarnation

_log = logging.getLogger("epyrpc.body")
EXIT_SECONDS = 0.6  # all of it
GRACE_SECONDS = 0.4  # of these, for bodies that run nothing, so that their own exit handlers run
LAST_SECONDS = 0.02  # for each, when the limit has passed


def stop_together(bodies: Sequence[Body]) -> None:
    """Stop some bodies at once: who runs something is killed, the others are asked and then killed."""
    began = monotonic()
    ending = [(body, incarnation) for body in bodies if (incarnation := _tell(body)) is not None]
    for body, incarnation in ending:
        if body.start_method != "thread" and not incarnation.over.wait(_left(began + GRACE_SECONDS)):
            incarnation.launch.kill()
    for body, incarnation in ending:
        if body.start_method != "thread":
            incarnation.over.wait(_left(began + EXIT_SECONDS))
    for body in bodies:
        seconds = _left(began + EXIT_SECONDS)
        if body._life.acquire(timeout=seconds):  # else somebody is starting it: its process ends with this one
            try:
                body._retire(body._incarnation, seconds)
            finally:
                body._life.release()


def _left(limit: float) -> float:
    return max(LAST_SECONDS, limit - monotonic())


def _tell(body: Body) -> Incarnation | None:
    """Tell a body to stop, or kill it; return what is to be waited for."""
    incarnation, _ = body._begin_stopping()
    if incarnation is None or incarnation.over.is_set():
        return None
    launched = incarnation.launch
    if len(incarnation.transporter.transactions) or launched.is_suspended():
        launched.kill()  # a thread, which cannot be killed, is told to stop
        return incarnation
    try:
        body._api.action(f"{bootstrap.CONTROL}.stop")(solicited=False, sync=True)
    except EpyrpcError as exc:
        _log.debug("body %s: cannot ask it to stop: %s", body.name, exc)
        launched.kill()
    return incarnation


__all__ = ["stop_together"]
