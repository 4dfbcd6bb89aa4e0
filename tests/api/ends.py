"""Both ends of a wire in one process, for the tests of the object API."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from epyrpc import (
    ApiArb,
    ApiBase,
    HeadTransactionIdGenerator,
    MemoryTransportDetails,
    MemoryTransporter,
    NeckTransactionIdGenerator,
    QueueTransportDetails,
    QueueTransporter,
    TransactionId,
    TransactionManager,
    TransportListener,
)

LIMIT = 10  # seconds for what takes milliseconds; reached only when something is broken
KINDS = {"queue": (QueueTransportDetails, QueueTransporter), "memory": (MemoryTransportDetails, MemoryTransporter)}


class Recorder(TransportListener):
    """Notes what it hears, and answers raw data with `answer`."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.data: list[tuple[int, Any]] = []
        self.answer: Any = None

    def transport_state_changed(self, state: Any) -> None:
        self.states.append(state)

    def transport_data_received(self, transaction_id: int, data: Any) -> Any:
        self.data.append((transaction_id, data))
        return self.answer


class Ends:
    """A head and a neck, not connected yet; `close` tears down every api that was bound here and opens every gate."""

    def __init__(self, kind: str = "queue", clock: Any = None) -> None:
        details_type, transporter_type = KINDS[kind]
        self.kind = kind
        self.details = details_type()
        self.head_listener, self.neck_listener = Recorder(), Recorder()
        options = {} if clock is None else {"clock": clock}
        self.ipc_head = transporter_type(
            self.details,
            TransactionManager(HeadTransactionIdGenerator(), **options),
            self.head_listener,
            logger=logging.getLogger("Head"),
            name="head",
        )
        self.ipc_neck = transporter_type(
            self.details.invert(),
            TransactionManager(NeckTransactionIdGenerator(), **options),
            self.neck_listener,
            logger=logging.getLogger("Neck"),
            name="neck",
        )
        self._apis: list[ApiBase] = []
        self._gates: list[threading.Event] = []

    def head(self, api: ApiBase | None = None) -> Any:
        """Bind an api, a plain one named test by default, at the head's end."""
        return self.bind(self.ipc_head, api)

    def neck(self, api: ApiBase | None = None) -> Any:
        """Bind an api at the neck's end."""
        return self.bind(self.ipc_neck, api)

    def bind(self, ipc: Any, api: ApiBase | None = None) -> Any:
        """Bind an api to one of the ends, through its arbiter."""
        api = ApiBase("test") if api is None else api
        api.ipc = ApiArb(ipc)
        self._apis.append(api)
        return api

    def pair(self, workers: int = 1) -> tuple[Any, Any]:
        """Return a plain api at either end, both named test; the neck's has so many workers."""
        return self.head(), self.neck(ApiBase("test", workers=workers))

    def connect(self) -> Ends:
        """Connect both ends."""
        self.ipc_head.connect()
        self.ipc_neck.connect()
        return self

    def gate(self) -> threading.Event:
        """Return something for handlers to wait for, which is opened at the end of the test at the latest."""
        gate = threading.Event()
        self._gates.append(gate)
        return gate

    def flush(self) -> None:
        """Return when everything that either end has sent before was read by the other."""
        self.ipc_head.ping(LIMIT)
        self.ipc_neck.ping(LIMIT)

    def close(self) -> None:
        """End everything."""
        for gate in self._gates:
            gate.set()
        for api in self._apis:
            api.teardown()
        self.ipc_head.close()
        self.ipc_neck.close()


def eventually(check: Callable[[], Any], what: str = "", limit: float = LIMIT) -> Any:
    """Return what `check` gives as soon as that is true; fail after `limit` seconds."""
    end, pause = time.monotonic() + limit, 0.0005
    while not (value := check()):
        if time.monotonic() > end:
            pytest.fail(f"not within {limit} s: {what or check}")
        time.sleep(pause)
        pause = min(pause * 1.3, 0.02)
    return value


def waits(event: threading.Event) -> None:
    """Wait for an event; fail when it does not come."""
    assert event.wait(LIMIT), "the event did not come"


class Made:
    """Counts the transactions of one manager, which shares its ids with no other while the test runs."""

    def __init__(self, manager: TransactionManager) -> None:
        self._ids = manager.ids
        self._last = self._next()

    def _next(self) -> int:
        return TransactionId(self._ids()).count

    def __call__(self) -> int:
        """Return how many there were since the last look."""
        last, self._last = self._last, self._next()
        return self._last - last - 1
