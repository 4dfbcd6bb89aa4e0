"""Makes transports by name: the only room that knows them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epyrpc.api.arbiter import ApiArb
from epyrpc.errors import UnsupportedTransportError
from epyrpc.transports.memory import MemoryTransportDetails, MemoryTransporter
from epyrpc.transports.queues import QueueTransportDetails, QueueTransporter

if TYPE_CHECKING:
    import logging

    from epyrpc.transactions import TransactionManager
    from epyrpc.transports.base import TransportDetails, Transporter, TransportListener

_KINDS: dict[str, tuple[type[TransportDetails], type[Transporter]]] = {
    "queue": (QueueTransportDetails, QueueTransporter),
    "memory": (MemoryTransportDetails, MemoryTransporter),
}


class TransportDetailsFactory:
    """Makes transport details, before the other process is started."""

    @staticmethod
    def get(kind: str = "queue") -> TransportDetails:
        """Return new details for a kind of transport.

        Raises
        ------
        UnsupportedTransportError
            There is no such kind; the error names those that there are.
        """
        if kind not in _KINDS:
            raise UnsupportedTransportError(kind, tuple(_KINDS))
        return _KINDS[kind][0]()


class TransportFactory:
    """Makes transports from their details."""

    @staticmethod
    def get_no_arb(
        details: TransportDetails,
        transactions: TransactionManager,
        listener: TransportListener | None = None,
        *,
        logger: logging.Logger | None = None,
        name: str = "",
        chain: Any = None,
    ) -> Transporter:
        """Return a transport that one api can use.

        Raises
        ------
        UnsupportedTransportError
            `details` are of no known kind.
        """
        for details_type, transporter_type in _KINDS.values():
            if isinstance(details, details_type):
                return transporter_type(details, transactions, listener, logger=logger, name=name, chain=chain)
        raise UnsupportedTransportError(type(details).__name__, tuple(kind.__name__ for kind, _ in _KINDS.values()))

    @staticmethod
    def get(
        details: TransportDetails,
        transactions: TransactionManager,
        listener: TransportListener | None = None,
        **options: Any,
    ) -> ApiArb:
        """Return an arbitrated transport, which many apis can share; see `get_no_arb` for the options."""
        return ApiArb(TransportFactory.get_no_arb(details, transactions, listener, **options))
