"""Frames laid out and taken apart again, in whatever pieces they arrive."""

from __future__ import annotations

import math
import pickle
import random
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epyrpc import messages
from epyrpc.errors import CodecError
from epyrpc.messages import CallOptions, FrameParser, pack

LARGE = messages.LARGE_FRAME_BYTES


def joined(pieces):
    return b"".join(bytes(piece) for piece in pieces)


def plain(frame):
    """A frame in a form that can be compared, whatever holds its bytes."""
    return (*frame[:5], bytes(frame.payload), [bytes(buffer) for buffer in frame.buffers])


def feed(data, cuts):
    """Feed `data` cut at these places to a parser."""
    parser, frames, start = FrameParser(), [], 0
    for stop in [*sorted(cuts), len(data)]:
        frames += parser.feed(data[start:stop])
        start = stop
    return frames, parser


SAMPLES = {
    "ping": pack(messages.PING, 7),
    "call": pack(messages.CALL, 1, "a.b.c", b"payload"),
    "empty": pack(messages.EVENT, 0, "x", b""),
    "options": pack(messages.CALL, 2**64 - 1, "maths", b"p", options=CallOptions(1.5, 3, 64)),
    "options-only": pack(messages.CREDIT, 5, options=CallOptions(0.0, 0, 9)),
    "buffers": pack(messages.REPLY, 9, "", b"pp", buffers=[b"abc", b"", bytearray(b"0123456789")]),
    "everything": pack(
        messages.CALL, 4, "é.ü", b"p", buffers=[b"b"], options=CallOptions(2.0, 1, 1), flags=messages.STREAM
    ),
    "events": messages.lay_out_events([("t.é".encode(), (1,)), ("t.é".encode(), (2.5, None))]),
    "long-path": pack(messages.EVENT, 0, "n" * 60_000, b"z"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_frame_comes_back_as_it_was(name):
    frames = FrameParser().feed(joined(SAMPLES[name]))
    assert len(frames) == 1
    frame = frames[0]
    if name == "everything":
        assert plain(frame) == (
            messages.CALL,
            messages.STREAM | messages.OPTIONS | messages.BUFFERS,
            4,
            "é.ü",
            CallOptions(2.0, 1, 1),
            b"p",
            [b"b"],
        )
    if name == "buffers":
        assert [bytes(b) for b in frame.buffers] == [b"abc", b"", b"0123456789"]
        assert all(b.readonly for b in frame.buffers)


def test_nan_means_no_time_limit():
    (frame,) = FrameParser().feed(joined(pack(messages.CALL, 1, "a", options=CallOptions(math.nan, 0, 0))))
    assert math.isnan(frame.options.timeout)


def test_every_pair_of_cuts_gives_the_same_frames():
    """Exhaustive: a stream of all short samples, cut at every two places."""
    data = b"".join(joined(pieces) for name, pieces in SAMPLES.items() if name != "long-path")
    whole = [plain(frame) for frame in FrameParser().feed(data)]
    assert len(whole) == len(SAMPLES) - 1
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1, 7):
            frames, parser = feed(data, (first, second))
            assert [plain(frame) for frame in frames] == whole, (first, second)
            assert not parser._rest


def test_byte_by_byte():
    data = b"".join(map(joined, SAMPLES.values()))
    frames, _ = feed(data, range(len(data)))
    assert [plain(f) for f in frames] == [plain(f) for f in FrameParser().feed(data)]


frames_strategy = st.lists(
    st.builds(
        pack,
        st.integers(1, messages.LAST_KIND),
        st.integers(0, 2**64 - 1),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.binary(max_size=200),
        flags=st.sampled_from([0, messages.STREAM, messages.REPLY_OWED, messages.PACKED]),
        options=st.none()
        | st.builds(CallOptions, st.floats(allow_nan=False), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
        buffers=st.lists(st.binary(max_size=50), max_size=3),
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(frames_strategy, st.data())
def test_any_frames_in_any_pieces(frames, data):
    stream = b"".join(map(joined, frames))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    whole = [plain(frame) for frame in FrameParser().feed(stream)]
    assert len(whole) == len(frames)
    assert [plain(frame) for frame in feed(stream, cuts)[0]] == whole


@pytest.mark.parametrize("size", [LARGE - 10, LARGE, LARGE + 1, 3 * LARGE])
@pytest.mark.parametrize("with_buffers", [False, True])
def test_large_frames_between_small_ones_in_random_pieces(size, with_buffers):
    pieces = random.Random(size)
    body = pieces.randbytes(size)
    large = (
        pack(messages.REPLY, 2, "", b"p", buffers=[body, b"tail"])
        if with_buffers
        else pack(messages.CALL, 2, "a.b", body)
    )
    data = (
        joined(SAMPLES["call"]) + joined(large) + joined(SAMPLES["options"]) + joined(large) + joined(SAMPLES["ping"])
    )
    whole = [plain(frame) for frame in FrameParser().feed(data)]
    assert [frame[0] for frame in whole] == [messages.CALL, whole[1][0], messages.CALL, whole[1][0], messages.PING]
    assert (whole[1][6][0] if with_buffers else whole[1][5]) == body
    for _ in range(5):
        cuts = [pieces.randrange(len(data)) for _ in range(30)]
        assert [plain(frame) for frame in feed(data, cuts)[0]] == whole
    edges = [len(joined(SAMPLES["call"])) + messages.HEADER_SIZE + offset for offset in range(-3, 12)]
    assert [plain(frame) for frame in feed(data, edges)[0]] == whole


def test_missing_counts_down_to_nothing():
    data = joined(pack(messages.CALL, 2, "a.b", bytes(LARGE * 2)))
    parser = FrameParser()
    assert parser.feed(data[:1000]) == []
    assert parser.missing == len(data) - 1000
    assert parser.feed(data[1000:-1]) == []
    assert parser.missing == 1
    assert len(parser.feed(data[-1:])) == 1
    assert parser.missing == 0


# ---- garbage -------------------------------------------------------------------------------------------------------


def header(**changes):
    values = {"magic": 0xE9C2, "kind": 1, "flags": 0, "path": 0, "reserved": 0, "length": 0, "tid": 0, **changes}
    return messages._HEADER.pack(*values.values())


ONE_BUFFER = (1).to_bytes(8, "little")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", id="text"),
        pytest.param(bytes(24), id="zeros"),
        pytest.param(b"\xff" * 24, id="ones"),
        pytest.param(header(kind=0), id="kind-0"),
        pytest.param(header(kind=messages.LAST_KIND + 1), id="kind-unknown"),
        pytest.param(header(flags=messages._ALL_FLAGS + 1), id="flag-unknown"),
        pytest.param(header(path=2, length=1) + b"x", id="path-longer-than-frame"),
        pytest.param(header(length=messages.MAX_FRAME_BYTES + 1), id="too-long"),
        pytest.param(header(path=2, length=2) + b"\xff\xfe", id="path-not-utf8"),
        pytest.param(header(path=2, length=22, flags=messages.OPTIONS) + b"\xff\xfe" + bytes(20), id="path-with-flags"),
        pytest.param(header(flags=messages.OPTIONS, length=3) + b"abc", id="options-cut-off"),
        pytest.param(header(flags=messages.BUFFERS, length=3) + b"abc", id="sizes-cut-off"),
        pytest.param(header(flags=messages.BUFFERS, length=16) + b"\xff" * 16, id="too-many-buffers"),
        pytest.param(header(flags=messages.BUFFERS, length=24) + ONE_BUFFER + b"\x09" + bytes(15), id="sizes-too-big"),
        pytest.param(header(flags=messages.BUFFERS, length=25) + ONE_BUFFER + bytes(17), id="sizes-too-small"),
    ],
)  # fmt: skip
def test_garbage_is_a_codec_error(data):
    with pytest.raises(CodecError, match="garbage on the wire"):
        FrameParser().feed(data)
    with pytest.raises(CodecError, match="garbage on the wire"):
        feed(data, range(len(data)))


def test_options_are_not_read_from_the_next_frame():
    """A frame that is too short for what its flags promise is garbage, although more bytes follow it."""
    data = header(flags=messages.OPTIONS, length=3) + b"abc" + joined(SAMPLES["call"])
    with pytest.raises(CodecError, match="garbage on the wire"):
        FrameParser().feed(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), frames_strategy)
def test_noise_gives_frames_or_a_codec_error_and_nothing_else(noise, frames):
    stream = b"".join(map(joined, frames))
    for data in (noise, stream + noise, header() + noise, stream[:-3] + noise):
        parser = FrameParser()
        try:
            parser.feed(data)
        except CodecError:
            continue
        assert len(parser._rest) + parser.missing < messages.MAX_FRAME_BYTES + messages.HEADER_SIZE


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_never_breaks_the_parser(name, at, change):
    data = bytearray(joined(SAMPLES[name])[:200] if name != "long-path" else joined(SAMPLES["call"]))
    data[at % len(data)] ^= change
    with suppress(CodecError):  # the only error that it may raise
        FrameParser().feed(bytes(data) * 3)


def test_a_lying_length_takes_no_memory():
    """Only what has come is held, whatever the header says will come."""
    tracemalloc.start()
    try:
        parser = FrameParser()
        parser.feed(header(length=messages.MAX_FRAME_BYTES) + bytes(100_000))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_path_table_is_bounded():
    parser = FrameParser()
    before = len(messages._paths)
    for index in range(12_000):
        parser.feed(joined(pack(messages.EVENT, 0, f"made.up.by.the.peer{index}")))
    assert len(messages._paths) <= 10_000
    for index in range(12_000):
        messages._paths.pop(f"made.up.by.the.peer{index}".encode(), None)
    assert len(messages._paths) <= max(before, 1) + 1


def test_large_buffers_are_not_copied_while_packing():
    body = bytearray(1 << 20)
    pieces = pack(messages.REPLY, 1, buffers=[body])
    assert any(isinstance(piece, memoryview) and piece.obj is body for piece in pieces)
    payload = bytes(1 << 20)
    assert any(piece is payload for piece in pack(messages.CALL, 1, "a", payload))


def test_kinds_have_names():
    assert messages.KIND_NAMES[messages.CALL] == "CALL"
    assert {kind for kind in range(1, messages.LAST_KIND + 1)} <= set(messages.KIND_NAMES)


def test_events_of_one_path_that_follow_each_other_are_one_frame():
    call = pack(messages.CALL, 1, "a", b"payload")[0]
    pieces = [(b"a", (1,)), (b"a", ()), (b"b", (2,)), call, (b"b", (3,)), (b"b", (4,)), (b"b", (None, True))]
    laid_out = messages.lay_out_events(pieces)
    assert laid_out[2] is call
    frames = FrameParser().feed(joined(laid_out))
    assert [(frame.kind, frame.path, frame.flags) for frame in frames] == [
        (messages.EVENT, "a", messages.SEVERAL),
        (messages.EVENT, "b", 0),
        (messages.CALL, "a", 0),
        (messages.EVENT, "b", messages.SEVERAL),
    ]
    assert [pickle.loads(frame.payload) for frame in frames if frame.kind == messages.EVENT] == [
        [(1,), ()],
        ((2,), {}),
        [(3,), (4,), (None, True)],
    ]
    assert messages.lay_out_events([]) == []
