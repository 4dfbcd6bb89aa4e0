"""All bodies of this process: `spawn`, the bodies by name, and what becomes of them at exit and in a forked child."""

from __future__ import annotations

import atexit
import keyword
import os
import sys
import threading
from typing import Any

from epyrpc.bodies import life
from epyrpc.bodies.body import Body
from epyrpc.bodies.leaving import stop_together
from epyrpc.bodies.spawn import START_METHODS
from epyrpc.clock import check_timeout
from epyrpc.errors import ApiParamError


def bodies() -> dict[str, Body]:
    """Return the bodies of this process that have not been stopped, by name."""
    with life.names_lock:
        return dict(life.by_name)


def spawn(
    name: str,
    *,
    workers: int = 4,
    start_method: str = "spawn",
    restart: bool | int = False,
    existing: str = "error",
    timeout: float = 30.0,
) -> Body:
    """Start a body and wait until it answers.

    Needs no ``if __name__ == "__main__"`` guard, and never imports the main module again.

    Parameters
    ----------
    name : str
        A Python identifier; no living body of this process may have it.
    workers : int
        How many handlers run at once in the body.
    start_method : {"spawn", "forkserver", "thread"}
        A fresh interpreter; a fork of a clean server process, faster from the second one on; a thread of this
        process, for debugging, which cannot be killed.
    restart : bool or int
        Start it again when it dies: always, or so many times.
    existing : {"error", "keep", "restart"}
        What to do when a living body has that name.
    timeout : float
        Seconds to wait for its first answer.

    Returns
    -------
    Body
        Its handle; a context manager.

    Raises
    ------
    ApiParamError
        A parameter is not allowed, or the name is taken.
    BodyStartError
        The process ended, or did not answer in time; its stderr is in the message.
    """
    _check_spawn(name, workers, start_method, restart, existing)
    check_timeout(timeout)
    with life.names_lock:
        other = life.by_name.get(name)
        taken = other is not None and other.alive
        if other is not None and taken and existing == "error":
            raise ApiParamError(
                "name",
                name,
                "a name that no living body has",
                "Stop that body first, or pass existing='keep' or 'restart'. "
                f"Living: {', '.join(sorted(life.by_name))}.",
            )
        if other is None or not taken:
            body = life.by_name[name] = Body(name, workers, start_method, restart)
    if other is not None and taken:
        return _use_existing(other, (workers, start_method, restart), existing, timeout)
    if other is not None:
        other.stop(0)  # it is dead: its name was all that was left of it, and what it still holds here
    try:
        body._start(timeout)
    except BaseException:
        body.stop(0)
        raise
    return body


def make_body(name: str, start_method: str) -> Body:
    """Return a body with one worker that has its name, but no process yet; for who starts many at once.

    Raises
    ------
    ApiParamError
        The name is not allowed, or a living body has it.
    """
    _check_spawn(name, 1, start_method, False, "error")
    with life.names_lock:
        other = life.by_name.get(name)
        if other is not None and other.alive:
            raise ApiParamError("name", name, "a name that no living body has", "Stop that body first.")
        body = life.by_name[name] = Body(name, 1, start_method, False)
    return body


def _use_existing(body: Body, options: tuple[int, str, bool | int], existing: str, timeout: float) -> Body:
    """Keep a living body, or restart it with new options."""
    if existing == "keep":
        with body._life:  # somebody else may still be starting it
            return body
    with body._life:
        if body._incarnation is not None:
            body._end_for_restart(body._incarnation)
        body.workers, body.start_method, restart = options
        body._restarts_left = sys.maxsize if restart is True else int(restart)
        return body.restart(timeout)


def _check_spawn(name: Any, workers: Any, start_method: Any, restart: Any, existing: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name):
        raise ApiParamError(
            "name", name, "a Python identifier that does not start with an underscore, such as 'worker'"
        )
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 1024:
        raise ApiParamError("workers", workers, "a whole number from 1 to 1024")
    if start_method not in (*START_METHODS, "thread"):
        raise ApiParamError("start_method", start_method, (*START_METHODS, "thread"))
    if not isinstance(restart, int) or restart < 0:
        raise ApiParamError("restart", restart, "True, False, or how often, as a whole number")
    if existing not in ("error", "keep", "restart"):
        raise ApiParamError("existing", existing, ("error", "keep", "restart"))


def _stop_all() -> None:
    """Stop what is left when the interpreter ends; a courtesy, since bodies die with their head anyway."""
    stop_together([body for body in bodies().values() if body._owner_pid == os.getpid()])


def _forget_after_fork() -> None:
    """In a forked child the bodies are the parent's: say so when they are used, and let go of what leads to them.

    Their transports have been abandoned already (see `transports.base`).
    """
    life.names_lock = threading.RLock()
    for body in life.by_name.values():
        body._life, body._lock, body._log_lock = threading.RLock(), threading.RLock(), threading.Lock()
        if body._incarnation is not None:
            body._incarnation.launch.close()
    life.by_name.clear()


# After what the imported modules have registered: it runs before that at exit, and behind it in a forked child.
atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)

__all__ = ["bodies", "make_body", "spawn"]
