"""`ApiArb`: many apis on one transport; exactly one may claim a path."""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, Any

from epyrpc import codec, messages
from epyrpc.api.dispatch import Dispatcher
from epyrpc.api.straight import take_plain
from epyrpc.errors import (
    ApiParamError,
    BodyError,
    IpcError,
    MultipleApiResponseError,
    TransportDisconnected,
    UnsupportedApiError,
)
from epyrpc.namespaces import contains, nearest
from epyrpc.transports.base import Transporter, TransportState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from epyrpc.messages import Frame

_log = logging.getLogger("epyrpc.arbiter")
_arb_lock = threading.Lock()


class ApiReceiver:
    """Finds who handles what comes over a transporter.

    The receiving half of `ApiArb`, and of an api alone on a transport.
    """

    # Guarded by _lock: _apis (replaced, never changed in place). routes is a cache: a new one when an api changes.

    def __init__(self, transporter: Transporter, limit: int | None = None) -> None:
        self.transporter = transporter
        self._limit = limit
        self._lock = threading.Lock()
        self._apis: tuple[Any, ...] = ()
        self.routes: dict[str, Any] = {}
        self.dispatcher = Dispatcher(transporter, self, self._find)
        self.dispatcher.on_raw = self._receive_raw
        # Straight to the dispatcher: every call passes here.
        self.receive = self.dispatcher.receive
        self.receive_call = self.dispatcher.receive_call
        self.receive_event = self.dispatcher.receive_event
        self.take_plain = functools.partial(take_plain, self.dispatcher)
        transporter.set_receiver(self)

    # --- apis

    @property
    def apis(self) -> tuple[Any, ...]:
        """The roots of the api trees here, oldest first."""
        return self._apis

    def insert(self, api: Any) -> None:
        """Let an api tree take part, also while calls are under way."""
        with self._lock:
            if api in self._apis:
                return
            if self._limit is not None and len(self._apis) >= self._limit:
                raise ApiParamError(
                    "ipc",
                    self.transporter,
                    ["a transport without an api"],
                    hint="Wrap it in ApiArb(ipc) to share it among apis.",
                )
            self._apis = (*self._apis, api)
        self.changed()

    def remove(self, api: Any) -> None:
        """Take an api tree out; nothing when it is not in."""
        with self._lock:
            self._apis = tuple(other for other in self._apis if other is not api)
        self.changed()

    def changed(self) -> None:
        """Forget the routes: an api came, went, or registered a handler."""
        self.routes = {}

    def handled_paths(self) -> list[str]:
        """Return every path that is handled here, sorted."""
        return sorted(path for api in self._apis for path in api.handled_paths())

    # --- receiving

    def _find(self, path: str, event: bool) -> Any:
        routes = self.routes
        found = routes.get(path)
        if found is None:
            try:
                found = self._search(path)
            except TransportDisconnected:  # the api that claims it is being torn down
                return self._unsupported(path)
            if len(routes) > 10_000:
                routes.clear()  # paths that nobody handles come from the other end, who may make up many
            routes[path] = found
        if type(found) is tuple:
            return found
        if event and isinstance(found, UnsupportedApiError) and self._ignores(path):
            _log.info("%s: the event %s is handled by nobody, and ignored", self.transporter.name, path)
            return None
        return found

    def _search(self, path: str) -> Any:
        specific: list[tuple[Any, Any]] = []
        general: list[tuple[Any, Any]] = []
        for api in self._apis:
            found = api.find_handler(path)
            if found is not None:
                handler, node, is_specific = found
                (specific if is_specific else general).append((handler, node))
        claims = specific or general
        if len(claims) == 1:
            handler, node = claims[0]
            return handler, node.pool
        if claims:
            names = [f"{type(node.root).__name__}({node.root.namespace!r})" for _, node in claims]
            return MultipleApiResponseError(path, len(claims), names=names)
        return self._unsupported(path)

    def _unsupported(self, path: str) -> UnsupportedApiError:
        return UnsupportedApiError(self.transporter.local_name, path, nearest(path, self.handled_paths()))

    def _ignores(self, path: str) -> bool:
        return any(api.ignore_unhandled and contains(api.namespace, path) for api in self._apis)

    def _receive_raw(self, frame: Frame) -> None:
        self.transporter.run_later(lambda: self._tell_raw(frame))

    def _tell_raw(self, frame: Frame) -> None:
        """Give raw data to the listeners; the first answer that is not None is the reply, if one is owed."""
        answer: Any = None
        try:
            payload = frame.payload
            if frame.flags & messages.PACKED:
                payload = self.transporter.transactions.unpack(payload)
            data = codec.decode(payload, frame.buffers)
            for listener in self.transporter.listeners:
                reply = listener.transport_data_received(frame.transaction_id, data)
                answer = reply if answer is None else answer
            payload, buffers = codec.encode_value(answer)
        except Exception as exc:
            if not frame.flags & messages.REPLY_OWED:
                self.transporter.logger.exception("%s: raw data could not be delivered", self.transporter.name)
            self._answer_raw(frame, messages.ERROR, codec.encode_error(exc), ())
        else:
            self._answer_raw(frame, messages.REPLY, payload, buffers)

    def _answer_raw(self, frame: Frame, kind: int, payload: bytes, buffers: Iterable[Any]) -> None:
        if not frame.flags & messages.REPLY_OWED:
            return
        try:
            self.transporter.wire.send(
                self.transporter.pack(kind, frame.transaction_id, payload=payload, buffers=buffers)
            )
        except (IpcError, BodyError) as exc:
            _log.debug("nobody takes the answer to raw data any more: %s", exc)

    def timers(self, now: float) -> float | None:
        """Look after what takes its time; called by the wire's standby."""
        return self.dispatcher.timers(now)

    def transport_state_changed(self, state: TransportState) -> None:
        """Pass a change on to the apis."""
        for api in self._apis:
            api.transport_state_changed(state)

    def abandon(self) -> None:
        """In a forked child: run nothing here."""
        self._lock = threading.Lock()
        self.dispatcher.abandon()

    def transport_ended(self, exc: BaseException) -> None:
        """The transport is over."""
        self.dispatcher.ended()


class ApiArb(ApiReceiver):
    """Lets many apis share one transport, and stands for the transport itself: its methods pass through.

    There is one for each transport: ``ApiArb(ipc)`` returns the one that there is. Apis bind to it (``api.ipc =
    arb``) and come and go while calls are under way. For each call exactly one api may claim the path: none gives the
    caller an `UnsupportedApiError`, several a `MultipleApiResponseError`.

    Parameters
    ----------
    ipc : Transporter or ApiArb
        What to share.

    Raises
    ------
    ApiParamError
        `ipc` is no transport, or an api has been bound to it without an ApiArb.
    """

    _made = False

    def __new__(cls, ipc: Any) -> ApiArb:
        """Return the transport's arbiter, a new one if it has none."""
        if isinstance(ipc, ApiArb):
            return ipc
        if not isinstance(ipc, Transporter):
            raise ApiParamError(
                "ipc", ipc, "a Transporter, such as QueueTransporter(details, transactions), or an ApiArb"
            )
        with _arb_lock:
            if isinstance(ipc.receiver, ApiArb):
                return ipc.receiver
            arb = super().__new__(cls)
            ApiReceiver.__init__(arb, ipc)
            return arb

    def __init__(self, ipc: Any) -> None:
        # Everything was done in __new__, under its lock; an existing arbiter must not be initialised again.
        pass

    def __getattr__(self, name: str) -> Any:
        """Pass through to the transport."""
        if name.startswith("__") or name == "transporter":
            raise AttributeError(name)
        return getattr(self.transporter, name)

    def __enter__(self) -> ApiArb:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.transporter.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "an ApiArb stays in its process; pass TransportDetails to the other one and make a transport there"
        )

    def __repr__(self) -> str:
        return f"<ApiArb of {self.transporter!r}: {len(self._apis)} apis>"


def receiver_for(ipc: Any) -> ApiReceiver:
    """Return who receives for `ipc`: its arbiter, or for a bare transport one that takes a single api.

    Raises
    ------
    ApiParamError
        `ipc` is neither.
    """
    if isinstance(ipc, ApiReceiver):
        return ipc
    if not isinstance(ipc, Transporter):
        raise ApiParamError("ipc", ipc, "a Transporter or an ApiArb")
    with _arb_lock:
        if isinstance(ipc.receiver, ApiReceiver):
            return ipc.receiver
        return ApiReceiver(ipc, limit=1)
