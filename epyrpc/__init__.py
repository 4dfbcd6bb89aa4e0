"""Object-based RPC between a notebook, or any Python process, and the processes it spawns.

``epyrpc.spawn("worker")`` starts a process, a *body*; ``worker.set_handler("maths.scale", lambda x: x * 10)`` gives it something
to do, ``worker.call.maths.scale(4)`` calls it. Underneath are api trees (`ApiBase`) over a transport (`QueueTransporter`).

Names are imported when they are first used, so that ``import epyrpc`` costs little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_WHERE = {
    "epyrpc.errors": (
        "ApiError", "ApiParamError", "BodyDied", "BodyError", "BodyLost", "BodyStartError", "CodecError",
        "ConfigError", "ConnectionTimeout", "DeadlockError", "EpyrpcError", "IpcError", "MultipleApiResponseError", "NoDataError", "NoResponseRequired", "RemoteError",
        "TransactionError", "TransactionFailed", "TransactionIdError", "TransactionTimeout", "TransportClosed",
        "TransportDisconnected", "TransportDisconnectedError", "TransportFinishedError", "TransportStateError", "UnknownApiError",
        "UnsupportedApiError", "UnsupportedTransportCompressionError", "UnsupportedTransportEncryptionError",
        "UnsupportedTransportError",
    ),
    "epyrpc.algorithms": ("Chain", "Cipher", "Compression"),
    "epyrpc.codec": ("ApiPicklable",),
    "epyrpc.partials": ("Chunks",),
    "epyrpc.results": ("AsyncResult", "CallState", "Progress", "Stream", "TransactionId"),
    "epyrpc.transactions": ("HeadTransactionIdGenerator", "NeckTransactionIdGenerator", "TransactionManager"),
    "epyrpc.transports.base": ("TransportDetails", "TransportListener", "TransportState", "Transporter"),
    "epyrpc.transports.queues": ("QueueTransportDetails", "QueueTransporter"),
    "epyrpc.transports.memory": ("MemoryTransportDetails", "MemoryTransporter"),
    "epyrpc.api.action": ("ApiAction", "DebugHook"),
    "epyrpc.api.arbiter": ("ApiArb",),
    "epyrpc.api.base": ("ApiBase",),
    "epyrpc.api.config": ("api_from_config", "load_config"),
    "epyrpc.api.context": ("CallCancelled", "CurrentCall", "DelayedReply", "current_call"),
    "epyrpc.api.factory": ("TransportDetailsFactory", "TransportFactory"),
    "epyrpc.bodies.body": ("Body", "bodies", "spawn"),
    "epyrpc.bodies.inside": ("head", "track"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted([*_MODULE_OF, "__version__"])  # noqa: PLE0605 - the table above is the list
__version__ = "0.1.0"

if TYPE_CHECKING:
    from epyrpc.algorithms import Chain, Cipher, Compression
    from epyrpc.api.action import ApiAction, DebugHook


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'epyrpc' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)


def load_ipython_extension(ipython: Any) -> None:
    """Add the magics: what ``%load_ext epyrpc`` calls."""
    from epyrpc.jupyter.magics import load_ipython_extension as load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Remove the magics: what ``%unload_ext epyrpc`` calls."""
    from epyrpc.jupyter.magics import unload_ipython_extension as unload

    unload(ipython)
