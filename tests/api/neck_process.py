"""What runs in a second process: a neck bound to the details that it was given."""

from __future__ import annotations

import os
import threading
from typing import Any

from epyrpc import ApiArb, ApiBase, NeckTransactionIdGenerator, QueueTransporter, TransactionManager, TransportListener
from epyrpc.transports.base import TransportDetails, TransportState


class Gone(TransportListener):
    """Tells when the other end is gone."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def transport_state_changed(self, state: TransportState) -> None:
        if state is TransportState.DISCONNECTED:
            self.event.set()


class Neck(ApiBase):
    """The api of the process."""

    def _handler_pid(self) -> int:
        return os.getpid()

    def _handler_echo(self, *args: Any) -> Any:
        return args

    def _handler_call_back(self, count: int) -> list[Any]:
        """Call the head `count` times; return what was wrong."""
        answers = ((i, self.square(i)(timeout=60)) for i in range(count))
        return [(i, answer) for i, answer in answers if answer != i * i]

    def _handler_describe(self) -> dict[str, Any]:
        arb = self.ipc
        queues = arb.details.inbound, arb.details.outbound
        return {
            "transport": type(arb.transporter).__name__,
            "arbiter": type(arb).__name__,
            "receiver is the arbiter": arb.transporter.receiver is arb,
            "queues": [base.__module__ for queue in queues for base in type(queue).__mro__ if base.__name__ == "Queue"],
            "main": __name__,
        }


def serve(details: TransportDetails, workers: int = 4) -> None:
    """Serve until the head is gone."""
    listener = Gone()
    ipc = QueueTransporter(details, TransactionManager(NeckTransactionIdGenerator(1)), listener, name="neck")
    neck = Neck("test", workers=workers)
    neck.ipc = ApiArb(ipc)
    ipc.connect()
    listener.event.wait()
    neck.teardown()
    ipc.close()


def exchange(details: TransportDetails) -> None:
    """Connect an end that has raw data for the other, and end."""
    ipc = QueueTransporter(details, TransactionManager(NeckTransactionIdGenerator(2)), name="neck")
    api = ApiBase("raw", ipc=ipc)
    ipc.connect()
    api.send_raw({"from": os.getpid()})
    ipc.close()
