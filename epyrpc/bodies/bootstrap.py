"""What runs in a body: its end of the wire, and what the package itself handles there.

Threads of a body: the main thread is the first handler worker, so that a handler there can be interrupted even inside
a system call; the others are started when there is work for them. `_epyrpc` requests that must not wait for handlers
(registering, pushing, pulling, stacks, stop) have two workers of their own.
"""

from __future__ import annotations

import linecache
import os
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any

from epyrpc.api.arbiter import ApiArb
from epyrpc.api.base import ApiBase
from epyrpc.api.factory import TransportFactory
from epyrpc.api.looking import Seen, look
from epyrpc.bodies import capture, inside, questions
from epyrpc.errors import ApiParamError, BodyLost, CodecError, TransportDisconnected
from epyrpc.home import home_namespace, set_home_namespace
from epyrpc.interrupts import handler_shield_of_main
from epyrpc.results import current
from epyrpc.transactions import NeckTransactionIdGenerator, TransactionManager

CONTROL = "_epyrpc"
USERS_CODE = (f"{CONTROL}.run", f"{CONTROL}.execute")  # the package's own requests that run user code
LOST_EXIT = 1
END_SECONDS = 0.5  # how long handlers may go on when the connection has ended
hidden_names: set[str] = set()  # in a body's namespace, but none of the user's: what a shell puts there


class NeckApi(ApiBase):
    """What the head has registered, and the package's own requests that run user code."""

    def __init__(self, workers: int, home: dict[str, Any]) -> None:
        super().__init__(workers=workers)
        self.home = home
        self._register(f"{CONTROL}.run", self.run)
        self._register(f"{CONTROL}.execute", self.execute)
        self._executed = 0

    @staticmethod
    def run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an ad-hoc closure."""
        return function(*args, **kwargs)

    def execute(self, source: str, filename: str = "") -> Any:
        """Run source code in the body's own namespace; return the value of the last expression, or None."""
        import ast  # here, since a body is to start quickly, and many never need it

        self._executed += 1
        filename = filename or f"<body cell {self._executed}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        tree = ast.parse(source, filename)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        # Without what this module itself imports from __future__.
        exec(compile(tree, filename, "exec", 0, True), self.home)
        if isinstance(last, ast.Expr):
            return eval(compile(ast.Expression(last.value), filename, "eval", 0, True), self.home)
        return None


class ControlApi(ApiBase):
    """What must be answered even while every handler is busy."""

    def __init__(self, neck: NeckApi, stop: Any) -> None:
        super().__init__(CONTROL, workers=2)
        self._neck = neck
        self._stop = stop

    def _handler_set_handler(self, path: str, handler: Any) -> None:
        self._neck.set_handler(path, handler)

    def _handler_describe(self) -> dict[str, tuple[str, str]]:
        handlers = self._neck.handlers()
        return {path: (h.signature, h.doc) for path, h in sorted(handlers.items()) if not path.startswith(CONTROL)}

    def _handler_reload(self, names: list[str]) -> list[str]:
        from epyrpc.bodies.reloading import load_anew  # few bodies need it

        return load_anew(names, [self._neck.home], only_loaded=True)

    def _handler_push(self, values: dict[str, Any]) -> None:
        self._neck.home.update(values)

    def _handler_pull(self, names: tuple[str, ...]) -> tuple[Any, ...]:
        home = self._neck.home
        missing = [name for name in names if name not in home]
        if missing:
            from epyrpc.namespaces import nearest

            near = nearest(missing[0], self._handler_names())
            hint = f"Did you mean {near[0]}?" if near else ""
            raise ApiParamError("name to pull", missing[0], "a variable of the body", hint)
        return tuple(home[name] for name in names)

    def _handler_names(self) -> list[str]:
        return sorted(name for name in self._neck.home if not name.startswith("_") and name not in hidden_names)

    def _handler_look(self) -> list[Seen]:
        return look(self._neck.ipc.dispatcher)

    def _handler_stacks(self) -> str:
        return format_stacks()

    def _handler_interrupt(self) -> int:
        return self._neck.ipc.dispatcher.interrupt_running(only=self._neck.pool)  # type: ignore[no-any-return]

    def _handler_complete(self, line: str, column: int) -> tuple[str, list[str]]:
        from epyrpc.bodies import completing  # here, since few bodies are ever asked

        return completing.complete(line, column, self._neck.home)

    def _handler_describe_name(self, name: str, detail_level: int) -> dict[str, str]:
        from epyrpc.bodies import completing

        return completing.describe(name, detail_level, self._neck.home)

    def _handler_debug(self, tid: int | None) -> None:
        from epyrpc.bodies import debugging  # here, since few bodies ever need it

        debugging.post_mortem(tid)

    def _handler_busy(self) -> tuple[int, int]:
        pool = self._neck.pool
        return len(pool.running), pool.waiting

    def _handler_stop(self) -> None:
        self._stop()


def format_stacks() -> str:
    """Return the stacks of all threads of this process, with their names and the calls that they answer."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        stack = "".join(traceback.format_stack(frame))
        parts.append(f"Thread {names.get(ident, 'unknown')} ({ident}):\n{stack}")
    return "\n".join(parts)


def start_neck(transporter: Any, workers: int, home: dict[str, Any], stop: Any) -> NeckApi:
    """Put the body's apis on its end of the wire."""
    arb = ApiArb(transporter)
    neck = NeckApi(workers, home)
    control = ControlApi(neck, stop)
    neck.ipc = arb
    control.ipc = arb
    return neck


def share_home_namespace() -> None:
    """Let handlers of bodies that are threads of this process find names in the namespace of their own body."""
    global _home_outside
    if _home_outside is None:
        _home_outside = home_namespace()
        set_home_namespace(_home_here)


_home_outside: dict[str, Any] | None = None  # what it was before


def _home_here() -> dict[str, Any]:
    call = current.get()
    root = call.pool.api.root if call is not None and call.pool is not None and call.pool.api is not None else None
    if isinstance(root, NeckApi):
        return root.home
    return _home_outside if _home_outside is not None else {}


def _on_interrupt(signum: int, frame: types.FrameType | None) -> None:
    """Take SIGINT in a body: it concerns the handler that the main thread runs, and nothing else."""
    shield = handler_shield_of_main()
    if shield is not None:
        shield.on_signal()


def body_main(details: Any, settings: dict[str, Any]) -> None:
    """Be a body: what the spawned process runs until its head stops it, or is gone.

    Parameters
    ----------
    details : TransportDetails
        This end's.
    settings : dict
        ``name``, ``number``, ``workers``, ``keep_failures``; for a head that is a notebook also ``notebook``, the
        pipes that become fd 1 and 2 and a function that is called with what captures them.
    """
    home = sys.modules["__main__"].__dict__
    set_home_namespace(home)
    signal.signal(signal.SIGINT, _on_interrupt)
    transactions = TransactionManager(NeckTransactionIdGenerator(settings["number"]))
    transporter = TransportFactory.get_no_arb(details, transactions, name="head")
    transporter.local_name = settings["name"]
    neck: NeckApi = start_neck(transporter, settings["workers"], home, lambda: neck.pool.stop(wait=0))
    inside.set_neck(neck)
    inside.heirloom = settings.get("heirloom", ())
    neck.ipc.dispatcher.why_gone = lambda: stopped_error(settings["name"], os.getpid())
    lost: list[BaseException] = []
    log: Any = sys.stderr  # not the tagged one

    def link_ended(transporter: Any, exc: BaseException) -> None:
        lost.append(exc)
        if isinstance(exc, CodecError):
            log.write(f"{exc}\n")
            log.flush()
        transporter.finish(TransportDisconnected(f"the connection to the head has ended: {exc}"))
        # Nobody can reach this process any more, nor end what it runs.
        threading.Thread(target=_end_soon, name="epyrpc-end", daemon=True).start()

    transporter.on_end = link_ended
    if "notebook" in settings:
        pipes, prepare = settings["notebook"]
        captured = capture.start(pipes, neck.ipc.dispatcher)
        log = sys.stderr
        inside.tag_standard_streams(captured.drain)
        transporter.tells_cause = True
        prepare(captured)
    else:
        inside.tag_standard_streams()
    questions.install(keep_failures=settings["keep_failures"])
    neck.pool.reserve()
    transporter.connect()
    neck.pool.work_here()
    transporter.close()
    if lost and isinstance(lost[0], CodecError):
        raise SystemExit(LOST_EXIT)


def stopped_error(name: str, pid: int) -> BodyLost:
    """Return the error for a call that was pending when its body was stopped."""
    text = f"body {name!r} was stopped while this call was pending; {name}.restart() starts it again"
    return BodyLost(text, name, pid)


def _end_soon() -> None:
    time.sleep(END_SECONDS)
    os._exit(LOST_EXIT)


__all__ = ["ControlApi", "NeckApi", "body_main", "format_stacks", "start_neck"]
