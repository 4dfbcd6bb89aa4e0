"""epyrpc and its peers behind one face: a no-op called, submitted and sent as an event, in another process.

Each system is started by its constructor and ended by `close`. What a peer cannot do is None. Peers that are not
installed are left out (`available`).
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.managers import BaseManager
from typing import Any

Context = multiprocessing.get_context("spawn")


def noop(x: Any) -> Any:
    """Return what is given."""
    return x


class Served:
    """What the manager serves."""

    def __init__(self) -> None:
        self.seen = 0

    def noop(self, x: Any) -> Any:
        """Return what is given."""
        return x


class ServingManager(BaseManager):
    """A manager with one class."""


ServingManager.register("Served", Served)


class System:
    """One system with a process of its own."""

    name = ""
    call: Callable[[Any], Any]
    submit: Callable[[Any], Any] | None = None  # returns something with result()
    emit: Callable[[Any], Any] | None = None
    events_seen: Callable[[], int] | None = None

    def close(self) -> None:
        """End the process."""


class Epyrpc(System):
    """Closures registered in a body."""

    name = "epyrpc"

    def __init__(self) -> None:
        import epyrpc

        self._body = epyrpc.spawn(f"bench{id(self)}")
        self._body.set_handler("noop", lambda x: x)
        self._body.execute("seen = [0]")
        self._body.set_handler("event", lambda x: seen.__setitem__(0, seen[0] + 1))  # noqa: F821 - the body's own
        self._body.set_handler("seen", lambda: seen[0])  # noqa: F821 - likewise
        self.call = self._body.call.noop
        self.submit = self._body.submit.noop
        self.emit = self._body.emit.event
        self.events_seen = self._body.call.seen

    def close(self) -> None:
        """Stop the body."""
        self._body.stop()


class Manager(System):
    """The standard library's manager, called through a proxy."""

    name = "multiprocessing manager"

    def __init__(self) -> None:
        self._manager = ServingManager(ctx=Context)
        self._manager.start()
        self.call = self._manager.Served().noop  # type: ignore[attr-defined]

    def close(self) -> None:
        """Shut the manager down."""
        self._manager.shutdown()


def _answer(connection: Any) -> None:
    while (x := connection.recv()) is not None:
        connection.send(x)


class Pipe(System):
    """The bare floor: a pipe and a loop."""

    name = "bare multiprocessing.Pipe"

    def __init__(self) -> None:
        self._here, there = Context.Pipe()
        self._process = Context.Process(target=_answer, args=(there,))
        self._process.start()
        there.close()

        def call(x: Any) -> Any:
            self._here.send(x)
            return self._here.recv()

        self.call = call

    def close(self) -> None:
        """End the loop."""
        self._here.send(None)
        self._process.join()
        self._here.close()
        self._process.close()


class Pool(System):
    """The standard library's Pool."""

    name = "multiprocessing.Pool"

    def __init__(self) -> None:
        self._pool = Context.Pool(1)
        self.call = lambda x: self._pool.apply(noop, (x,))
        self.submit = lambda x: _Result(self._pool.apply_async(noop, (x,)))

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()
        self._pool.join()


class _Result:
    def __init__(self, result: Any) -> None:
        self.result = result.get


class Executor(System):
    """The standard library's ProcessPoolExecutor."""

    name = "ProcessPoolExecutor"

    def __init__(self) -> None:
        self._executor = ProcessPoolExecutor(1, mp_context=Context)
        self.call = lambda x: self._executor.submit(noop, x).result()
        self.submit = lambda x: self._executor.submit(noop, x)

    def close(self) -> None:
        """Shut the executor down."""
        self._executor.shutdown()


class Execnet(System):
    """execnet: a channel to a remote loop."""

    name = "execnet"

    def __init__(self) -> None:
        import execnet

        self._gateway = execnet.makegateway("popen")
        source = (
            "seen = 0\nfor x in channel:\n    if x == 'seen': channel.send(seen)\n"
            "    elif x == 'e': seen += 1\n    else: channel.send(x)"
        )
        self._channel = self._gateway.remote_exec(source)

        def call(x: Any) -> Any:
            self._channel.send(x)
            return self._channel.receive()

        self.call = call
        self.submit = lambda x: _Later(self._channel, x)
        self.emit = lambda x: self._channel.send("e")
        self.events_seen = lambda: call("seen")

    def close(self) -> None:
        """End the gateway."""
        self._gateway.exit()


class _Later:
    def __init__(self, channel: Any, x: Any) -> None:
        channel.send(x)
        self.result = channel.receive


ALL: tuple[type[System], ...] = (Epyrpc, Manager, Pipe, Pool, Executor, Execnet)
_NEEDS = {Execnet: "execnet"}


def available() -> list[type[System]]:
    """Return the systems that can be started here."""
    return [system for system in ALL if system not in _NEEDS or importlib.util.find_spec(_NEEDS[system]) is not None]


def in_threads(count: int, work: Callable[[], object]) -> None:
    """Run `work` in so many threads at once, and wait for them."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
