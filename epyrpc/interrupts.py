"""Ctrl-C may come between any two bytecodes; the wire's state must not notice.

The main thread reads the wire itself while it waits for a reply (see `transports.wire`). A `KeyboardInterrupt` raised
after a read and before the bytes are stored would lose a reply, one raised between two steps of a hand-over would
leave the wire without a reader. So while the main thread works on the wire, SIGINT is taken by a handler of ours that
only makes a note, except at the points where the thread does nothing but wait: there the previous handler runs at
once and may raise.

Only SIGINT is treated so, and only in the main thread: Python runs signal handlers in no other. It costs two calls of
the C function behind `signal.signal`, about 0.4 µs together.

A thread that runs a handler has the same trouble when the handler is to be stopped by raising in it. It has a
`HandlerShield`, known by thread: while the handler is inside the wire (it waits for a call of its own, or prints),
what is to be raised waits until it comes out.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

try:
    # signal.signal converts to and from enum members, ten times the cost of the C function that it wraps.
    from _signal import signal as _set_handler  # type: ignore[import-not-found]  # typeshed knows the public one
except ImportError:  # another implementation than CPython
    from signal import signal as _set_handler
_get_ident = threading.get_ident
T = TypeVar("T")
_SIGINT = int(signal.SIGINT)
# A wait that can be interrupted looks up this often: a signal that comes just before its system call, or that the
# system gives to another thread, does not end the call, and would be heard only when something else does.
SIGNAL_SECONDS = 0.5


class InterruptShield:
    """The main thread's protection while it works on the wire; there is one, and it does not nest.

    Attributes
    ----------
    open : bool
        Set while the thread only waits: an interrupt is then handled at once.
    """

    # Invariant: _previous is not None exactly between raise_shield() and lower(); outside, open and pending are False.

    def __init__(self) -> None:
        self.open = False
        self._previous: Any = None
        self._deferred: FrameType | None = None
        self.pending = False  # an interrupt came while the shield was closed
        self._note_bound = self._note

    def serve(self) -> None:
        """Handle an interrupt that was deferred, now that the thread's state is whole; it may raise."""
        if self.pending:
            self.pending = False
            frame, self._deferred = self._deferred, None
            self._previous(_SIGINT, frame)

    def reopen(self) -> None:
        """Handle what came before `open` was set, which nothing would end the coming wait for; then open again."""
        while self.pending:
            self.open = False
            self.serve()
            self.open = True

    def _take(self) -> bool:
        if self._previous is not None:
            return False  # a signal handler of the user's waits for a reply inside ours: leave the outer one in charge
        previous = _set_handler(_SIGINT, self._note_bound)
        if not callable(previous):
            # SIG_DFL, SIG_IGN or a handler that is not Python's: nothing can be raised, so nothing to defer.
            _set_handler(_SIGINT, previous if previous is not None else signal.SIG_DFL)
            return False
        self._previous = previous
        return True

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.open:
            self.open = False
            self._previous(signum, frame)
            self.open = True  # it returned, so the wait goes on, and the next interrupt must end it as well
        else:
            self.pending = True
            self._deferred = frame

    def lower(self) -> None:
        """Give SIGINT back to the previous handler, and let it run if an interrupt came meanwhile."""
        previous, self._previous = self._previous, None
        self.open = False
        _set_handler(_SIGINT, previous)
        if self.pending:
            self.pending = False
            frame, self._deferred = self._deferred, None
            previous(_SIGINT, frame)


class Shield(Protocol):
    """What keeps interrupts away from the wire's state; who sets `open` looks at `pending` then, and calls `reopen`."""

    open: bool

    @property
    def pending(self) -> bool:
        """Whether an interrupt has been deferred that can be handled only while the shield is open."""

    def reopen(self) -> None:
        """Handle it, and open again."""

    def serve(self) -> None:
        """Handle what was deferred."""

    def lower(self) -> None:
        """End the protection, then handle what was deferred."""


_SHIELD = InterruptShield()


def forget_shield() -> None:
    """In a forked child: the thread that had raised the shield is not here, so SIGINT is given back."""
    if _SHIELD._previous is not None:
        _SHIELD.pending = False
        _SHIELD.lower()


class HandlerShield:
    """Decides when a running handler may be interrupted by raising an exception in its thread.

    In the main thread (of a body) a signal is used, which also ends a blocking system call; elsewhere CPython's
    asynchronous exceptions, which wait until the thread runs Python code again.
    """

    # Guarded by _lock: everything. Invariant: nothing is raised unless _active and not _in_wire.

    __slots__ = (
        "_active",
        "_in_wire",
        "_injected",
        "_job",
        "_lock",
        "_ours",
        "_requested",
        "_waiting",
        "ident",
        "open",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.ident = _get_ident()
        self._active = False
        self._job: object = None  # what the user code that runs, or ran last, is for
        self._in_wire = False
        self._ours = False  # the signal that is coming was sent by interrupt()
        self._requested = False  # somebody has wanted to interrupt since the last leave()
        self._injected = False  # an asynchronous exception is on its way
        self._waiting: type[BaseException] | None = None  # to be raised when it may be
        self.open = False  # as InterruptShield has it; a handler's wait is ended by settling what it waits for

    pending = False  # likewise

    def reopen(self) -> None:
        """Do nothing: what is to be raised waits for `lower`."""

    def enter(self, job: object = None) -> None:
        """The thread is about to run user code, for `job`."""
        # No lock: until the last line nothing can be raised here, and nobody else writes these then.
        self._waiting = None
        self._in_wire = False  # an exception may have come between `_take` and the `try` that lowers
        self._job = job
        self._active = True

    def leave(self) -> None:
        """The thread is done with user code: nothing will be raised any more."""
        self._active = False
        # interrupt() sets _requested, then looks at _active; here it is the other way round. So one sees the other,
        # and the lock, which waits for an interrupt under way, is taken only when there is one.
        if self._requested:
            with self._lock:
                self._requested = False
                self._waiting = None
                if self._injected:
                    self._injected = False
                    _set_async_exception(self.ident, None)  # in case that it has not been raised yet

    def interrupt(self, exception: type[BaseException], job: object = None) -> bool:
        """Raise `exception` in the thread as soon as it may be; False when no user code runs there. For any thread.

        With a `job` only while that runs: the thread may have gone on to the next one since the caller looked.
        """
        by_signal = False
        with self._lock:
            self._requested = True
            if not self._active or (job is not None and job is not self._job):
                return False
            if self._in_wire or self.ident == _main:
                self._waiting = exception
                by_signal = not self._in_wire
            else:
                self._injected = True
                _set_async_exception(self.ident, exception)
        if by_signal:  # after the lock: its handler looks whether the lock is held
            self._ours = True
            signal.pthread_kill(self.ident, signal.SIGINT)
        return True

    def on_signal(self) -> None:
        """SIGINT came, in the main thread: raise what is to be raised, a KeyboardInterrupt by default, if it may be."""
        # No lock: this runs in the very thread that may be holding it. A flag read too early only defers the exception.
        ours, self._ours = self._ours, False
        if self._active and not self._in_wire and not self._lock.locked():
            exception, self._waiting = self._waiting, None
            if exception is None and ours:
                return  # it was meant for the call before this one
            raise exception or KeyboardInterrupt
        if self._active and self._waiting is None and not ours:
            self._waiting = KeyboardInterrupt
            self._requested = True

    def _take(self) -> bool:
        if not self._active or self._in_wire:  # both are only changed by this thread
            return False
        with self._lock:
            self._in_wire = True
            return True

    def serve(self) -> None:
        """Raise what is waiting."""
        exception, self._waiting = self._waiting, None
        if exception is not None:
            raise exception

    def lower(self) -> None:
        """The thread leaves the wire: raise what has been waiting for that."""
        with self._lock:
            self._in_wire = False
            exception, self._waiting = self._waiting, None
        if exception is not None:
            raise exception


_handler_shields: dict[int, HandlerShield] = {}  # {thread id: shield}; each thread writes its own entry only


def set_handler_shield(shield: HandlerShield | None) -> None:
    """Set the calling thread's shield."""
    if shield is None:
        _handler_shields.pop(_get_ident(), None)
    else:
        _handler_shields[_get_ident()] = shield


def handler_shield_of_main() -> HandlerShield | None:
    """Return the main thread's shield, if it is a handler worker."""
    return _handler_shields.get(_main)


def _set_async_exception(ident: int, exception: type[BaseException] | None) -> None:
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), None if exception is None else ctypes.py_object(exception)
    )


def raise_shield() -> Shield | None:
    """Defer interrupts until ``lower()`` of what is returned; None where there is nothing to defer."""
    ident = _get_ident()
    if _handler_shields:
        handler_shield = _handler_shields.get(ident)
        if handler_shield is not None:
            return handler_shield if handler_shield._take() else None
    if ident != _main or not _SHIELD._take():
        return None
    return _SHIELD


def shielded(function: Callable[..., T]) -> Callable[..., T]:
    """Decorate a function that must not be left half way: interrupts are raised when it is done."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> T:
        shield = raise_shield()
        try:
            return function(*args, **kwargs)
        finally:
            if shield is not None:
                shield.lower()

    return run


def _note_main() -> None:
    global _main
    _main = threading.main_thread().ident or 0


_main = 0  # the main thread's id, which every call asks for
_note_main()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_main)
