"""What code that runs in a body uses: `head`, to call the notebook back, and `track`, to say how far it has come.

Here is also what a body does to its standard streams: what a handler prints is tagged with the call that it answers
and goes to the caller; everything else goes to the body's log.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from epyrpc.bodies.verbs import Verbs
from epyrpc.errors import ApiError
from epyrpc.results import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
heirloom: tuple[Any, ...] = ()  # what was handed down when this process was started, where that was necessary
_neck: list[Any] = []  # the api of this process's connection to its head, once there is one


class HeadHandle(Verbs):
    """The notebook, or the script, that made this body: ``head.call.ask.rate()``, ``head.emit.training.epoch(1, 0.3)``.

    Inside a handler it is the end that made the call; elsewhere in a body's process, the end that spawned it.
    """

    def __init__(self) -> None:
        self._make_verbs()

    @property
    def api(self) -> Any:
        """The api tree that the calls go through.

        Raises
        ------
        ApiError
            This is no body.
        """
        call = current.get()
        if call is not None:
            node = call.pool.api if call.pool is not None else None
            if node is not None:
                return node
        if not _neck:
            raise ApiError(
                "epyrpc.head exists only inside a body; here, in the head, use the Body that epyrpc.spawn() returned"
            )
        return _neck[-1]

    _api = api  # what the verbs use

    def paths(self) -> list[str]:
        """Return what the head handles for this body."""
        return list(self.api.call("_epyrpc.describe"))

    def __reduce__(self) -> str:
        return "head"

    def __repr__(self) -> str:
        return "<epyrpc.head>"


head = HeadHandle()


_worker_state: dict[str, Any] = {}


def worker_state() -> dict[str, Any]:
    """Return a dictionary that this process keeps from task to task, for what is expensive to make.

    In a body it is that body's own, empty when its process is new; a pool's initializer may fill it.

    Examples
    --------
    >>> worker_state().setdefault("connections", []).append("the first")
    >>> worker_state().pop("connections")
    ['the first']
    """
    return _worker_state


def set_neck(api: Any) -> None:
    """Note the api of this process's connection to its head."""
    _neck.append(api)


def head_api() -> Any:
    """Return the api of this process's own connection to its head, whichever call is being answered."""
    return _neck[-1]


def track(iterable: Iterable[T], total: float | None = None) -> Iterator[T]:
    """Iterate over `iterable` and tell the caller of this call how far it has come.

    Outside of a call it only iterates. A call that was cancelled ends here, at the next step.

    Parameters
    ----------
    iterable : iterable
        Whatever a ``for`` takes.
    total : float, optional
        The number of steps; ``len(iterable)`` where there is one.

    Raises
    ------
    CallCancelled
        The call was cancelled.

    Examples
    --------
    >>> sum(track(range(4)))
    6
    """
    call = current.get()
    if call is None:
        yield from iterable
        return
    if total is None:
        try:
            total = len(iterable)  # type: ignore[arg-type]
        except TypeError:
            total = None
    done = 0
    call.progress(0, total)
    for item in iterable:
        yield item
        done += 1
        call.progress(done, total)
    call.progress(done, done)


class TaggedStream(io.TextIOBase):
    """A standard stream whose text goes to the caller of the call that writes it, else to the stream behind it.

    Parameters
    ----------
    name : {"stdout", "stderr"}
        Which one.
    behind : text stream
        For text that no call wrote.
    before_write : callable, optional
        Called before text of a call is taken: it gives the call what C code has written meanwhile.
    """

    def __init__(self, name: str, behind: Any, before_write: Callable[[], object] | None = None) -> None:
        self._name = name
        self._behind = behind
        self._before_write = before_write
        self._bytes = TaggedBytes(self)

    @property
    def name(self) -> str:
        """As the standard streams have it."""
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """UTF-8: text is sent as text."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What happens to text that the log cannot hold."""
        return "backslashreplace"

    @property
    def buffer(self) -> Any:
        """Takes bytes, which must be UTF-8."""
        return self._bytes

    def write(self, text: str) -> int:
        """Write text; any thread."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        call = current.get()
        if call is not None and call.solicited and call.stage != "ended":
            if text:
                if self._before_write is not None:
                    self._before_write()
                call.write(self._name, text)
        else:
            self._behind.write(text)
            if "\n" in text:
                self._behind.flush()
        return len(text)

    def flush(self) -> None:
        """Send what the current call has written."""
        call = current.get()
        if call is not None and call.solicited:
            if self._before_write is not None:
                self._before_write()
            call.flush_output()
        else:
            self._behind.flush()

    def fileno(self) -> int:
        """Return the descriptor for what does not know this object: subprocesses, C code."""
        if self._before_write is not None:
            return 1 if self._name == "stdout" else 2
        return int(self._behind.fileno())

    def isatty(self) -> bool:
        """Return False."""
        return False

    def writable(self) -> bool:
        """Return True."""
        return True


class TaggedBytes(io.BufferedIOBase):
    """Takes bytes for a tagged stream: what is ``sys.stdout.buffer`` elsewhere."""

    def __init__(self, stream: TaggedStream) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        """Write bytes; any thread."""
        view = memoryview(data).cast("B")
        self._stream.write(view.tobytes().decode("utf-8", "replace"))
        return len(view)

    def flush(self) -> None:
        """Send what the current call has written."""
        self._stream.flush()

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True


def tag_standard_streams(before_write: Callable[[], object] | None = None) -> None:
    """Replace this process's standard streams by tagged ones; what they were stays behind them."""
    sys.stdout = TaggedStream("stdout", sys.stdout, before_write)
    sys.stderr = TaggedStream("stderr", sys.stderr, before_write)
