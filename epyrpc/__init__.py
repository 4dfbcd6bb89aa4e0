"""Object-based RPC between a notebook, or any Python process, and the processes it spawns.

``epyrpc.spawn("worker")`` starts a process, a *body*; ``worker.set_handler("maths.scale", lambda x: x * 10)`` gives
it something to do, ``worker.call.maths.scale(4)`` calls it. Underneath are api trees (`ApiBase`) over a transport
(`QueueTransporter`).

Names are imported when they are first used, so that ``import epyrpc`` costs little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epyrpc import hooks as _hooks

_hooks.install()
_WHERE = {
    "epyrpc.errors": (
        "ApiError",
        "ApiParamError",
        "BodyDied",
        "BodyError",
        "BodyLost",
        "BodyStartError",
        "CodecError",
        "CodecImportError",
        "ConfigError",
        "ConnectionTimeout",
        "DeadlockError",
        "EpyrpcError",
        "IpcError",
        "LargeCaptureWarning",
        "MultipleApiResponseError",
        "NoDataError",
        "NoResponseRequired",
        "PoolBroken",
        "RemoteError",
        "TransactionError",
        "TransactionFailed",
        "TransactionIdError",
        "TransactionTimeout",
        "TransportClosed",
        "TransportDisconnected",
        "TransportDisconnectedError",
        "TransportFinishedError",
        "TransportStateError",
        "UnknownApiError",
        "UnsupportedApiError",
        "UnsupportedTransportCompressionError",
        "UnsupportedTransportEncryptionError",
        "UnsupportedTransportError",
    ),
    "epyrpc.algorithms": ("Chain", "Cipher", "Compression"),
    "epyrpc.codec": ("ApiPicklable", "by_value"),
    "epyrpc.gathering": ("Gathered", "gather"),
    "epyrpc.observing": ("Observer", "Record", "observe"),
    "epyrpc.snapshots": ("Snapshot", "snapshot"),
    "epyrpc.doctor": ("Explanation", "explain"),
    "epyrpc.partials": ("Chunks",),
    "epyrpc.ids": ("TransactionId",),
    "epyrpc.news": ("Progress",),
    "epyrpc.results": ("AsyncResult", "CallState"),
    "epyrpc.streams": ("Stream",),
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
    "epyrpc.bodies.body": ("Body",),
    "epyrpc.bodies.registry": ("bodies", "spawn"),
    "epyrpc.bodies.inside": ("head", "track", "worker_state"),
    "epyrpc.bodies.map_run": ("MapRun", "MapShare", "MapVitals"),
    "epyrpc.bodies.pool_map": ("MapResults",),
    "epyrpc.bodies.vitals": ("MemberVitals", "PoolVitals", "Vitals", "pool_vitals", "vitals"),
    "epyrpc.bodies.pool": ("Pool",),
    "epyrpc.bodies.pool_jobs": ("PoolResult",),
    "epyrpc.bodies.waiting": ("Waiting", "WaitingCall", "waiting"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted([*_MODULE_OF, "__version__"])
__version__ = "0.1.0"

if TYPE_CHECKING:
    from epyrpc.algorithms import Chain as Chain
    from epyrpc.algorithms import Cipher as Cipher
    from epyrpc.algorithms import Compression as Compression
    from epyrpc.api.action import ApiAction as ApiAction
    from epyrpc.api.action import DebugHook as DebugHook
    from epyrpc.api.arbiter import ApiArb as ApiArb
    from epyrpc.api.base import ApiBase as ApiBase
    from epyrpc.api.config import api_from_config as api_from_config
    from epyrpc.api.config import load_config as load_config
    from epyrpc.api.context import CallCancelled as CallCancelled
    from epyrpc.api.context import CurrentCall as CurrentCall
    from epyrpc.api.context import DelayedReply as DelayedReply
    from epyrpc.api.context import current_call as current_call
    from epyrpc.api.factory import TransportDetailsFactory as TransportDetailsFactory
    from epyrpc.api.factory import TransportFactory as TransportFactory
    from epyrpc.bodies.body import Body as Body
    from epyrpc.bodies.inside import head as head
    from epyrpc.bodies.inside import track as track
    from epyrpc.bodies.inside import worker_state as worker_state
    from epyrpc.bodies.map_run import MapRun as MapRun
    from epyrpc.bodies.map_run import MapShare as MapShare
    from epyrpc.bodies.map_run import MapVitals as MapVitals
    from epyrpc.bodies.pool import Pool as Pool
    from epyrpc.bodies.pool_jobs import PoolResult as PoolResult
    from epyrpc.bodies.pool_map import MapResults as MapResults
    from epyrpc.bodies.registry import bodies as bodies
    from epyrpc.bodies.registry import spawn as spawn
    from epyrpc.bodies.vitals import MemberVitals as MemberVitals
    from epyrpc.bodies.vitals import PoolVitals as PoolVitals
    from epyrpc.bodies.vitals import Vitals as Vitals
    from epyrpc.bodies.vitals import pool_vitals as pool_vitals
    from epyrpc.bodies.vitals import vitals as vitals
    from epyrpc.bodies.waiting import Waiting as Waiting
    from epyrpc.bodies.waiting import WaitingCall as WaitingCall
    from epyrpc.bodies.waiting import waiting as waiting
    from epyrpc.codec import ApiPicklable as ApiPicklable
    from epyrpc.codec import by_value as by_value
    from epyrpc.doctor import Explanation as Explanation
    from epyrpc.doctor import explain as explain
    from epyrpc.errors import ApiError as ApiError
    from epyrpc.errors import ApiParamError as ApiParamError
    from epyrpc.errors import BodyDied as BodyDied
    from epyrpc.errors import BodyError as BodyError
    from epyrpc.errors import BodyLost as BodyLost
    from epyrpc.errors import BodyStartError as BodyStartError
    from epyrpc.errors import CodecError as CodecError
    from epyrpc.errors import ConfigError as ConfigError
    from epyrpc.errors import ConnectionTimeout as ConnectionTimeout
    from epyrpc.errors import DeadlockError as DeadlockError
    from epyrpc.errors import EpyrpcError as EpyrpcError
    from epyrpc.errors import IpcError as IpcError
    from epyrpc.errors import LargeCaptureWarning as LargeCaptureWarning
    from epyrpc.errors import MultipleApiResponseError as MultipleApiResponseError
    from epyrpc.errors import NoDataError as NoDataError
    from epyrpc.errors import NoResponseRequired as NoResponseRequired
    from epyrpc.errors import PoolBroken as PoolBroken
    from epyrpc.errors import RemoteError as RemoteError
    from epyrpc.errors import TransactionError as TransactionError
    from epyrpc.errors import TransactionFailed as TransactionFailed
    from epyrpc.errors import TransactionIdError as TransactionIdError
    from epyrpc.errors import TransactionTimeout as TransactionTimeout
    from epyrpc.errors import TransportClosed as TransportClosed
    from epyrpc.errors import TransportDisconnected as TransportDisconnected
    from epyrpc.errors import TransportDisconnectedError as TransportDisconnectedError
    from epyrpc.errors import TransportFinishedError as TransportFinishedError
    from epyrpc.errors import TransportStateError as TransportStateError
    from epyrpc.errors import UnknownApiError as UnknownApiError
    from epyrpc.errors import UnsupportedApiError as UnsupportedApiError
    from epyrpc.errors import UnsupportedTransportCompressionError as UnsupportedTransportCompressionError
    from epyrpc.errors import UnsupportedTransportEncryptionError as UnsupportedTransportEncryptionError
    from epyrpc.errors import UnsupportedTransportError as UnsupportedTransportError
    from epyrpc.gathering import Gathered as Gathered
    from epyrpc.gathering import gather as gather
    from epyrpc.ids import TransactionId as TransactionId
    from epyrpc.news import Progress as Progress
    from epyrpc.observing import Observer as Observer
    from epyrpc.observing import Record as Record
    from epyrpc.observing import observe as observe
    from epyrpc.partials import Chunks as Chunks
    from epyrpc.results import AsyncResult as AsyncResult
    from epyrpc.results import CallState as CallState
    from epyrpc.snapshots import Snapshot as Snapshot
    from epyrpc.snapshots import snapshot as snapshot
    from epyrpc.streams import Stream as Stream
    from epyrpc.transactions import HeadTransactionIdGenerator as HeadTransactionIdGenerator
    from epyrpc.transactions import NeckTransactionIdGenerator as NeckTransactionIdGenerator
    from epyrpc.transactions import TransactionManager as TransactionManager
    from epyrpc.transports.base import TransportDetails as TransportDetails
    from epyrpc.transports.base import Transporter as Transporter
    from epyrpc.transports.base import TransportListener as TransportListener
    from epyrpc.transports.base import TransportState as TransportState
    from epyrpc.transports.memory import MemoryTransportDetails as MemoryTransportDetails
    from epyrpc.transports.memory import MemoryTransporter as MemoryTransporter
    from epyrpc.transports.queues import QueueTransportDetails as QueueTransportDetails
    from epyrpc.transports.queues import QueueTransporter as QueueTransporter


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
