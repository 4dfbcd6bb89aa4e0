from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import copy
import pickle
import threading

import pytest

from epyrpc import errors
from epyrpc.errors import (
    ApiError,
    ApiParamError,
    BodyDied,
    BodyError,
    BodyLost,
    BodyStartError,
    CodecError,
    CodecImportError,
    ConfigError,
    ConnectionTimeout,
    DeadlockError,
    EpyrpcError,
    IpcError,
    MultipleApiResponseError,
    NoDataError,
    NoResponseRequired,
    PoolBroken,
    RemoteError,
    TransactionError,
    TransactionFailed,
    TransactionIdError,
    TransactionTimeout,
    TransportClosed,
    TransportDisconnected,
    TransportStateError,
    UnknownApiError,
    UnsupportedApiError,
    UnsupportedTransportCompressionError,
    UnsupportedTransportEncryptionError,
    UnsupportedTransportError,
)

SAMPLES = [
    EpyrpcError("it failed; try again"),
    ApiError("it failed; try again"),
    ApiParamError("timeout", -1, (int, float), hint="Pass None to wait for ever."),
    ConfigError("apis.a.workers", "two", int, "Write 2.", file="lab.toml", line=7),
    UnknownApiError("a.b", nearest=["a.c"], who="head"),
    UnsupportedApiError("body 'w'", "a.b", nearest=("a.c", "a.d")),
    MultipleApiResponseError("a.b", 2, results=[1, 2], names=["x", "y"]),
    TransactionError("no"),
    TransactionIdError("not ours", "h7"),
    DeadlockError("a waits for b", calls=["a", "b"]),
    TransactionFailed("no answer", 7),
    TransactionTimeout("a.b", 7, 2.5, stopped="cooperative"),
    IpcError("no"),
    TransportClosed(),
    TransportDisconnected("gone"),
    ConnectionTimeout(limit=3.0),
    CodecError("cannot"),
    CodecImportError("no module here"),
    NoDataError(),
    UnsupportedTransportError("pigeon", ("queue", "memory")),
    UnsupportedTransportCompressionError("lzw", ("none", "zlib")),
    UnsupportedTransportEncryptionError("rot13"),
    BodyError("no", "w", 12),
    BodyStartError("no", "w", 12, 1, stderr="boom\n"),
    BodyDied("w", 12, -9, running=["a.b"], stderr="boom\n"),
    BodyLost("no link", name="w"),
    PoolBroken("no", "w", 12),
    RemoteError("mod.MyError", "text", "Traceback ...", reason="its class is not known here"),
]


def test_every_error_of_the_tree_has_a_sample():
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, EpyrpcError)}
    assert classes == {type(sample) for sample in SAMPLES} | {TransportStateError}


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_error_pickles_with_all_its_attributes(error, protocol):
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_error_can_be_copied(error):
    assert vars(copy.copy(error)) == vars(error)


class PickyError(TransactionTimeout):
    """A subclass with a constructor of its own."""

    def __init__(self, first, *, second):
        super().__init__("a.b", 1, 2.0)
        self.first, self.second = first, second


def test_subclass_with_another_constructor_pickles():
    again = pickle.loads(pickle.dumps(PickyError([1], second={2: 3})))
    assert (again.first, again.second, again.limit) == ([1], {2: 3}, 2.0)


def test_notes_and_later_attributes_travel():
    error = TransactionFailed("no")
    error.__notes__ = ["seen in cell 3"]
    error.stopped = "raised"
    again = pickle.loads(pickle.dumps(error))
    assert again.__notes__ == ["seen in cell 3"]
    assert again.stopped == "raised"


def test_attribute_that_cannot_be_pickled_arrives_as_text():
    again = pickle.loads(pickle.dumps(ApiParamError("handler", threading.Lock(), "callable")))
    assert "lock" in again.value
    assert again.item == "handler"


@pytest.mark.capability("E11", "X20")
@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (ApiParamError, (ApiError, ValueError)),
        (ConfigError, (ApiParamError, ValueError)),
        (UnknownApiError, (ApiError, LookupError)),
        (UnsupportedApiError, (ApiError, LookupError)),
        (MultipleApiResponseError, (ApiError,)),
        (TransactionIdError, (TransactionError, ValueError)),
        (DeadlockError, (TransactionError,)),
        (TransactionFailed, (TransactionError,)),
        (TransactionTimeout, (TransactionFailed, TimeoutError, concurrent.futures.TimeoutError)),
        (TransportClosed, (IpcError, TransportStateError)),
        (TransportDisconnected, (IpcError, TransportStateError)),
        (errors.TransportFinishedError, (IpcError, TransportStateError)),
        (errors.TransportDisconnectedError, (IpcError, TransportStateError)),
        (ConnectionTimeout, (IpcError, TransportStateError, TimeoutError, concurrent.futures.TimeoutError)),
        (CodecError, (IpcError, pickle.PicklingError)),
        (CodecImportError, (CodecError, ImportError)),
        (NoDataError, (IpcError,)),
        (UnsupportedTransportError, (IpcError, ValueError)),
        (UnsupportedTransportCompressionError, (UnsupportedTransportError,)),
        (UnsupportedTransportEncryptionError, (UnsupportedTransportError,)),
        (BodyStartError, (BodyError, concurrent.futures.process.BrokenProcessPool)),
        (BodyDied, (BodyError, concurrent.futures.process.BrokenProcessPool)),
        (BodyLost, (BodyError, concurrent.futures.process.BrokenProcessPool)),
        (RemoteError, (EpyrpcError,)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_error_is_caught_as(error, bases):
    assert issubclass(error, EpyrpcError)
    for base in bases:
        assert issubclass(error, base)


def test_no_response_required_is_control_flow_outside_the_tree():
    assert issubclass(NoResponseRequired, Exception)
    assert not issubclass(NoResponseRequired, EpyrpcError)


@pytest.mark.capability("X20")
@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_has_a_text(error):
    assert str(error).strip()


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        pytest.param("a number", "must be a number", id="words"),
        pytest.param(int, "must be of type int", id="type"),
        pytest.param((int, float), "must be of type float or int", id="types"),
        pytest.param(("a",), "must be 'a'", id="one"),
        pytest.param({"b", "a"}, "must be one of 'a', 'b'", id="set"),
        pytest.param(range(3), "must be range(0, 3)", id="other"),
    ],
)
def test_param_error_says_what_is_allowed(allowed, text):
    error = ApiParamError("x", 1, allowed, hint="Do this.")
    assert str(error) == f"x is 1, but {text}. Do this."


class Nasty:
    def __repr__(self):
        raise RuntimeError("no repr")


def test_value_without_a_repr_does_not_hide_the_error():
    assert "Nasty whose repr raises RuntimeError" in str(ApiParamError("x", Nasty(), "a number"))


def test_long_value_is_cut_in_the_text():
    assert len(str(ApiParamError("x", "y" * 100_000, "short"))) < 300


@pytest.mark.parametrize(
    ("exitcode", "signal_name", "text"),
    [
        (-9, "SIGKILL", "was killed by SIGKILL"),
        (-11, "SIGSEGV", "was killed by SIGSEGV"),
        (-50, "signal 50", "was killed by signal 50"),
        (3, None, "ended with exit code 3"),
        (None, None, "died"),
    ],
)
def test_dead_body_tells_how_it_ended(exitcode, signal_name, text):
    error = BodyDied("w", 12, exitcode, running=["a.b"], stderr="out of luck\n")
    assert error.signal == signal_name
    assert f"body 'w' (pid 12) {text} while running a.b" in str(error)
    assert "restart()" in str(error)
    assert str(error).endswith("out of luck")


def test_unsupported_api_names_the_nearest_paths():
    error = UnsupportedApiError("body 'w'", "maths.scael", ("maths.scale",))
    assert "did you mean 'maths.scale'?" in str(error)
    assert "nothing similar" in str(UnsupportedApiError("body 'w'", "x"))


@pytest.mark.capability("X24")
def test_unsupported_transport_names_the_allowed_values():
    error = UnsupportedTransportCompressionError("lzw", ("none", "zlib"))
    assert str(error) == "'lzw' is no compression known here; choose one of 'none', 'zlib'"
    assert error.algo == "lzw"
    assert UnsupportedTransportEncryptionError("rot13").algo == "rot13"
