"""What crosses the wire: frames, their kinds, and how they are laid out in a stream of bytes.

A frame is a fixed header, the dotted path, an optional block of call options, the payload, and any buffers that travel
out of band (pickle protocol 5)::

    ┌───────┬──────┬───────┬─────────┬──────────┬────────┬────────────────┐
    │ magic │ kind │ flags │ path    │ reserved │ length │ transaction id │  24 bytes, little-endian
    │ u16   │ u8   │ u8    │ len u16 │ u16      │ u64    │ u64            │
    ├───────┴──────┴───────┴─────────┴──────────┴────────┴────────────────┤
    │ path │ options (CallOptions, if OPTIONS) │ [sizes] payload │ buffers │  `length` bytes
    └─────────────────────────────────────────────────────────────────────┘

Everything but the payload is read without unpickling, so that routing, cancelling and retiring never depend on what a
user sent. This module is pure: it starts no thread and touches no descriptor.
"""

from __future__ import annotations

import struct
from pickle import dumps
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Sequence

# Kinds of frames: plain integers, since they are compared for every frame.
CALL = 1  # a reply is owed
EVENT = 2  # no reply is owed
EVENT_BYTES = 6400  # a larger event counts as several, where it is counted how many the other end has not handled
REPLY = 3  # what the handler returned
ERROR = 4  # what the handler raised, or why there is no result
PART = 5  # the next value of a stream
CHUNK = 6  # a piece of a result sent in pieces
END = 7  # a stream has ended well
CANCEL = 8  # caller → handler: stop this call
CREDIT = 9  # caller → handler: so many more parts may be sent
STARTED = 10  # handler → caller: the call has been running for a while
STOPPED = 11  # handler → caller: how a cancelled call ended
NOTE = 12  # handler → caller: output, progress; the path says which
RAW = 13  # data for a listener, not for an api
HELLO = 14
PING = 15
PONG = 16
DISCONNECT = 17
DISCONNECTED = 18
GOODBYE = 19
LAST_KIND = 19

KIND_NAMES = {
    value: name
    for name, value in list(globals().items())
    if name.isupper() and isinstance(value, int) and name[0] != "_"
}

# The path of an ERROR frame that no handler raised: the call was refused, or its result could not be sent.
REFUSED = "refused"

# Flags.
BUFFERS = 1  # a table of sizes precedes the payload; the buffers follow it
OPTIONS = 2  # a CallOptions block follows the path
PACKED = 4  # the payload went through an algorithms.Chain
STREAM = 8  # CALL: the caller wants the parts as they come
REPLY_OWED = 16  # RAW: the listener's return value answers it
AWAITED = 32  # CALL: made by a handler that waits for it
SEVERAL = 64  # EVENT: several of one path; the payload is a list of their positional arguments
_ALL_FLAGS = 127

_MAGIC = 0xE9C2
_HEADER = struct.Struct("<HBBHHQQ")
_HEADER_BY_WORD = struct.Struct("<IHHQQ")  # the same, with magic, kind and flags as one number
_OPTIONS = struct.Struct("<dQI")
_COUNT = struct.Struct("<Q")
HEADER_SIZE = _HEADER.size
NO_PARENT = 0
# A payload of this size and less is copied into one byte string with its header; a larger one is written by itself.
SMALL_BYTES = 65536
# A longer frame is refused as garbage before anything is allocated for it.
MAX_FRAME_BYTES = 1 << 38
# The body of a longer frame is filled in place; shorter ones are cut out of what was read.
LARGE_FRAME_BYTES = 262144
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from
unpack_by_word = _HEADER_BY_WORD.unpack_from
# {magic, kind and no flags as one number: kind}, to know with one look a header that is all right and has no extras.
_plain_kind = {_MAGIC | kind << 16: kind for kind in range(1, LAST_KIND + 1)}.get
_new_tuple = tuple.__new__
BODY = slice(HEADER_SIZE, None)
# The header of a REPLY without extras, its first eight bytes as one number; then come the length and the id.
PLAIN_REPLY = _MAGIC | REPLY << 16
PLAIN_EVENT = _MAGIC | EVENT << 16
PLAIN_EVENTS = PLAIN_EVENT | SEVERAL << 24
PLAIN_CALL = _MAGIC | CALL << 16  # what `unpack_by_word` finds first in a CALL without extras
_WORDS = struct.Struct("<QQQ")
pack_words, unpack_words = _WORDS.pack, _WORDS.unpack_from


class CallOptions(NamedTuple):
    """What a call tells the other end besides its arguments.

    Attributes
    ----------
    timeout : float
        Seconds until the caller gives up, or NaN when it never does.
    parent : int
        The id of the call in whose handler this one was made, or 0.
    window : int
        Parts that may be sent before the first credit arrives.
    """

    timeout: float
    parent: int
    window: int


class Frame(NamedTuple):
    """One message as it came off the wire; `payload` is still encoded."""

    kind: int
    flags: int
    transaction_id: int
    path: str
    options: CallOptions | None
    payload: Any  # bytes or a memoryview
    buffers: Sequence[memoryview]


def pack_plain(kind: int, transaction_id: int, path: str, payload: bytes) -> bytes:
    """Lay out the commonest frames, those with a path and a small payload and nothing else, as one byte string."""
    text = path.encode()
    size = len(text)
    return _pack_header(_MAGIC, kind, 0, size, 0, size + len(payload), transaction_id) + text + payload


def lay_out_events(pieces: Sequence[Any]) -> list[Any]:
    """Lay out the events among the pieces of an outbox, which are byte strings, or encoded path and arguments each.

    Those of one path that follow each other are one frame: one pickle of a list is a quarter of the work of many.
    """
    laid_out: list[Any] = []
    path = b""
    group: list[Any] = []
    for piece in pieces:
        if type(piece) is tuple:
            if group and piece[0] != path:
                laid_out.append(_pack_events(path, group))
                group = []
            path = piece[0]
            group.append(piece[1])
        else:
            if group:
                laid_out.append(_pack_events(path, group))
                group = []
            laid_out.append(piece)
    if group:
        laid_out.append(_pack_events(path, group))
    return laid_out


def _pack_events(path: bytes, group: list[Any]) -> bytes:
    word, payload = (PLAIN_EVENTS, dumps(group, 5)) if len(group) > 1 else (PLAIN_EVENT, dumps((group[0], {}), 5))
    return pack_words(word | len(path) << 32, len(path) + len(payload), 0) + path + payload


def pack(
    kind: int,
    transaction_id: int = 0,
    path: str = "",
    payload: bytes | memoryview = b"",
    *,
    flags: int = 0,
    options: CallOptions | None = None,
    buffers: Sequence[Any] = (),
) -> list[Any]:
    """Lay out a frame as a list of byte strings to be written one after the other.

    The header and a small payload are one byte string; large buffers are never copied.
    """
    text = path.encode()
    if options is not None:
        flags |= OPTIONS
        head = text + _OPTIONS.pack(*options)
    else:
        head = text
    if not buffers:
        size = len(payload)
        header = _pack_header(_MAGIC, kind, flags, len(text), 0, len(head) + size, transaction_id)
        if size <= SMALL_BYTES:
            return [header + head + payload]
        return [header + head, payload]
    views = [memoryview(b).cast("B") for b in buffers]
    sizes = struct.pack(f"<{len(views) + 2}Q", len(views), len(payload), *[v.nbytes for v in views])
    length = len(head) + len(sizes) + len(payload) + sum(v.nbytes for v in views)
    header = _pack_header(_MAGIC, kind, flags | BUFFERS, len(text), 0, length, transaction_id)
    return [header + head + sizes + payload, *views]


def _garbage(header: bytes) -> CodecError:
    return CodecError(
        f"garbage on the wire: {bytes(header).hex()} is no frame header; the connection is ended because nothing after "
        "it can be trusted. Does something else write to this queue?"
    )


def _make_frame(data: Any, at: int, kind: int, flags: int, path_size: int, length: int, transaction_id: int) -> Frame:
    """Build the frame whose body starts at `at` of `data`."""
    stop = at + length
    start = at + path_size
    try:
        path = str(data[at:start], "utf-8") if path_size else ""
        options = None
        if flags & OPTIONS:
            options = CallOptions(*_OPTIONS.unpack_from(data, start))
            start += _OPTIONS.size
            if start > stop:
                raise ValueError("it has no room for its options")
        buffers: Sequence[memoryview] = ()
        if flags & BUFFERS:
            payload, buffers = _split_buffers(memoryview(data)[start:stop])
        else:
            payload = data[start:stop]
    except (struct.error, UnicodeDecodeError, ValueError) as exc:
        raise CodecError(
            f"garbage on the wire: a {KIND_NAMES[kind]} frame of {length} bytes cannot be taken apart: {exc}"
        ) from exc
    return _new_tuple(Frame, (kind, flags, transaction_id, path, options, payload, buffers))


def _decode_path(name: bytes) -> str:
    try:
        path = name.decode()
    except UnicodeDecodeError as exc:
        raise CodecError(f"garbage on the wire: {name!r} is no path") from exc
    if len(_paths) < 10_000:
        _paths[name] = path
    return path


_paths: dict[bytes, str] = {}
path_of = _paths.get


def _split_buffers(body: memoryview) -> tuple[memoryview, list[memoryview]]:
    (count,) = _COUNT.unpack_from(body)
    if count > len(body) // 8:
        raise ValueError(f"{count} buffers cannot fit")
    payload_size, *sizes = struct.unpack_from(f"<{count + 1}Q", body, 8)
    at = 8 * (count + 2)
    if at + payload_size + sum(sizes) != len(body):
        raise ValueError("the sizes of the buffers do not add up")
    payload = body[at : at + payload_size]
    at += payload_size
    views = []
    for size in sizes:
        views.append(body[at : at + size].toreadonly())
        at += size
    return payload, views


class FrameParser:
    """Turns a stream of bytes into frames, whatever the pieces it arrives in.

    Not thread-safe: the one who reads the wire owns it. After a `CodecError` it must not be fed again.
    """

    # Invariant: _rest is less than one whole frame; _large is None unless a large frame is being filled; begun says
    # that there is one of both.

    missing = 0  # bytes still missing of a large frame, 0 when none is under way

    def __init__(self) -> None:
        self.begun = False
        self._rest: bytes = b""
        self._large: bytearray | None = None  # the body of a large frame, grown as it arrives
        self._header: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)

    def feed(self, data: bytes) -> list[Frame]:
        """Take in `data` and return the frames that it completes, in order.

        Raises
        ------
        CodecError
            What came is no frame.
        """
        size = len(data)
        if size >= HEADER_SIZE and not self.begun:
            word, path_size, _, length, tid = unpack_by_word(data)
            if length == size - HEADER_SIZE and path_size <= length:
                kind = _plain_kind(word)
                if kind is not None:  # one plain frame and nothing else, as where a call waits for the one before
                    if not path_size:
                        return [_new_tuple(Frame, (kind, 0, tid, "", None, data[BODY], ()))]
                    start = HEADER_SIZE + path_size
                    name = data[HEADER_SIZE:start]
                    path = path_of(name) or _decode_path(name)
                    return [_new_tuple(Frame, (kind, 0, tid, path, None, data[start:], ()))]
        frames = self._feed(data)
        self.begun = bool(self._rest) or self._large is not None
        return frames

    def take_rest(self) -> bytes:
        """Return what has come of a frame that is not whole, and forget it; only while `missing` is 0."""
        rest, self._rest, self.begun = self._rest, b"", False
        return rest

    def _feed(self, data: bytes) -> list[Frame]:
        """Do `feed` for whatever may come."""
        frames: list[Frame] = []
        if self._large is not None:
            data = self._fill(data, frames)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, size = 0, len(data)
        while size - at >= HEADER_SIZE:
            word, path_size, _, length, tid = unpack_by_word(data, at)
            body = at + HEADER_SIZE
            stop = body + length
            kind = _plain_kind(word)
            if kind is None or path_size > length or stop > size:
                stop = self._take_other(data, at, size, frames)
                if stop == at:
                    break
            elif path_size:
                start = body + path_size
                name = data[body:start]
                frames.append(
                    _new_tuple(Frame, (kind, 0, tid, path_of(name) or _decode_path(name), None, data[start:stop], ()))
                )
            else:
                frames.append(_new_tuple(Frame, (kind, 0, tid, "", None, data[body:stop], ())))
            at = stop
        if at < size:
            self._rest = data[at:]
        return frames

    def _take_other(self, data: bytes, at: int, size: int, frames: list[Frame]) -> int:
        """Take a frame with extras, or the beginning of a large one; return where the next begins, `at` for nowhere.

        Raises
        ------
        CodecError
            What is at `at` is no frame.
        """
        magic, kind, flags, path_size, _, length, tid = _unpack_header(data, at)
        if (
            magic != _MAGIC
            or not 0 < kind <= LAST_KIND
            or flags & ~_ALL_FLAGS
            or not path_size <= length <= MAX_FRAME_BYTES
        ):
            raise _garbage(data[at : at + HEADER_SIZE])
        body = at + HEADER_SIZE
        stop: int = body + length
        if stop <= size:
            frames.append(_make_frame(data, body, kind, flags, path_size, length, tid))
            return stop
        if length <= LARGE_FRAME_BYTES:
            return at
        self._header = (kind, flags, path_size, length, tid)
        self._large = bytearray(data[body:])
        self.missing = length - len(self._large)
        return size

    def _fill(self, data: bytes, frames: list[Frame]) -> bytes:
        """Add to the large frame under way; return what is left over."""
        large = self._large
        if large is None:
            raise AssertionError("no large frame is under way")
        need = self._header[3] - len(large)
        large += data[:need] if len(data) > need else data
        self.missing = self._header[3] - len(large)
        if self.missing:
            return b""
        self._large = None
        kind, flags, path_size, length, tid = self._header
        # The body is a memoryview, so that a large payload is not copied once more.
        frames.append(_make_frame(memoryview(large), 0, kind, flags, path_size, length, tid))
        return data[need:]
