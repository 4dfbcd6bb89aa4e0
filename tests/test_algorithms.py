from __future__ import annotations

import hashlib
import hmac
import pickle
import tracemalloc
import zlib

import pytest

from epyrpc.algorithms import Chain, Cipher, Compression
from epyrpc.errors import (
    ApiParamError,
    CodecError,
    UnsupportedTransportCompressionError,
    UnsupportedTransportEncryptionError,
)

TEXT = b"all work and no play makes jack a dull boy. " * 200


class Signed(Cipher):
    """A plug-in for tests: proves who wrote a payload, and hides nothing."""

    def __init__(self, key, name="hmac"):
        self._key, self._name = key, name

    @property
    def name(self):
        return self._name

    def seal(self, data):
        return hmac.digest(self._key, data, hashlib.sha256) + data

    def open(self, data):
        digest, rest = data[:32], data[32:]
        if not hmac.compare_digest(digest, hmac.digest(self._key, rest, hashlib.sha256)):
            raise ValueError("the signature is wrong")
        return rest


CHAINS = [
    pytest.param(Chain(), id="nothing"),
    pytest.param(Chain(Compression.NONE), id="none"),
    pytest.param(Chain("none", "zlib"), id="names"),
    pytest.param(Chain(Compression.ZLIB), id="zlib"),
    pytest.param(Chain(Compression.ZLIB(1)), id="zlib 1"),
    pytest.param(Chain(Compression.ZLIB(9)), id="zlib 9"),
    pytest.param(Chain("zlib", "zlib"), id="zlib twice"),
    pytest.param(Chain(Signed(b"key")), id="cipher"),
    pytest.param(Chain("zlib", Signed(b"key")), id="zlib, cipher"),
    pytest.param(Chain(Signed(b"key"), "zlib"), id="cipher, zlib"),
    pytest.param(Chain(Signed(b"1", "a"), "zlib", Signed(b"2", "b")), id="cipher, zlib, cipher"),
]


@pytest.mark.capability("X23")
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("payload", [b"", b"x", TEXT, bytes(range(256)) * 10])
def test_payload_survives_the_chain(chain, payload):
    assert chain.unpack(chain.pack(payload)) == payload
    assert chain.unpack(memoryview(chain.pack(payload))) == payload


@pytest.mark.capability("X23")
def test_compression_makes_it_smaller_and_the_level_counts():
    plain = len(Chain().pack(TEXT))
    fast = len(Chain(Compression.ZLIB(1)).pack(TEXT))
    small = len(Chain(Compression.ZLIB(9)).pack(TEXT))
    assert small <= fast < plain / 10


@pytest.mark.capability("X23")
@pytest.mark.parametrize("sender", CHAINS[:7])
@pytest.mark.parametrize("receiver", CHAINS[:7])
def test_ends_with_different_settings_decode_by_the_hint(sender, receiver):
    assert receiver.unpack(sender.pack(TEXT)) == TEXT


def test_steps_are_applied_in_order():
    cipher = Signed(b"key")
    assert len(Chain("zlib", cipher).pack(TEXT)) < 300
    assert Chain("zlib", cipher).steps == (Compression.ZLIB, cipher)
    assert not Chain("none")
    assert Chain("zlib")


@pytest.mark.capability("X24")
@pytest.mark.parametrize("algo", ["lzw", "", "ZLIB", "zlib "])
def test_unknown_compression_is_refused_naming_the_allowed(algo):
    for make in (Chain, Compression):
        with pytest.raises(UnsupportedTransportCompressionError, match="'none', 'zlib'") as caught:
            make(algo)
        assert caught.value.algo == algo


@pytest.mark.capability("X24")
def test_unknown_compression_in_the_hint_is_refused():
    packed = b"\xec\x01\x03lzwdata"
    with pytest.raises(UnsupportedTransportCompressionError) as caught:
        Chain().unpack(packed)
    assert caught.value.algo == "lzw"


@pytest.mark.capability("X24")
@pytest.mark.parametrize("step", [object(), 5, None, Signed, Signed(b"", name=""), Signed(b"", name="x" * 60)])
def test_step_that_is_no_cipher_is_refused(step):
    with pytest.raises(UnsupportedTransportEncryptionError):
        Chain(step)


@pytest.mark.capability("X24")
def test_unknown_cipher_in_the_hint_is_refused():
    packed = Chain(Signed(b"key", "rot13")).pack(TEXT)
    with pytest.raises(UnsupportedTransportEncryptionError) as caught:
        Chain("zlib").unpack(packed)
    assert caught.value.algo == "rot13"
    with pytest.raises(UnsupportedTransportEncryptionError, match="choose one of 'hmac'"):
        Chain(Signed(b"key")).unpack(packed)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(Chain().pack(TEXT), id="nothing"),
        pytest.param(Chain("zlib").pack(TEXT), id="zlib"),
        pytest.param(Chain(Signed(b"1", "a")).pack(TEXT), id="only the first"),
        pytest.param(Chain(Signed(b"2", "b")).pack(TEXT), id="only the second"),
        pytest.param(Chain(Signed(b"2", "b"), Signed(b"1", "a")).pack(TEXT), id="other order"),
    ],
)
def test_ciphers_cannot_be_left_out(packed):
    chain = Chain("zlib", Signed(b"1", "a"), Signed(b"2", "b"))
    with pytest.raises(UnsupportedTransportEncryptionError):
        chain.unpack(packed)


def test_nothing_is_unpacked_for_one_who_has_not_sealed_it():
    with pytest.raises(UnsupportedTransportEncryptionError):
        Chain("zlib", Signed(b"key")).unpack(b"\xec\x01\x04zlib" + b"anything")


def test_hint_of_what_is_sealed_cannot_be_changed():
    chain = Chain("zlib", Signed(b"key"))
    packed = chain.pack(TEXT)
    assert packed.count(b"zlib") == 1
    with pytest.raises(CodecError, match="the same key"):
        chain.unpack(packed.replace(b"zlib", b"none"))


def test_wrong_key_is_a_codec_error_with_its_cause():
    packed = Chain(Signed(b"key")).pack(TEXT)
    with pytest.raises(CodecError, match="signature is wrong") as caught:
        Chain(Signed(b"another")).unpack(packed)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xec", id="magic only"),
        pytest.param(b"garbage", id="no magic"),
        pytest.param(b"\xec\xff" + b"\x01x" * 255, id="too many steps"),
        pytest.param(b"\xec\x01\x09zl", id="name cut off"),
        pytest.param(b"\xec\x01\x00", id="empty name"),
        pytest.param(b"\xec\x01\x02\xff\xfe", id="name not ascii"),
        pytest.param(b"\xec\x01\x04zlibnonsense", id="damaged"),
        pytest.param(b"\xec\x01\x04zlib" + zlib.compress(TEXT)[:-5], id="cut off"),
        pytest.param(b"\xec\x01\x04zlib" + zlib.compress(TEXT) + b"more", id="too long"),
    ],
)
def test_garbage_is_a_codec_error(packed):
    with pytest.raises(CodecError):
        Chain().unpack(packed)


@pytest.mark.parametrize("layers", [1, 2])
def test_bomb_is_refused_without_filling_the_memory(layers):
    bomb = Chain(*["zlib"] * layers).pack(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(CodecError, match="larger than 1000000 bytes"):
        Chain(max_bytes=1_000_000).unpack(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_just_the_largest_size_is_allowed():
    chain = Chain("zlib", max_bytes=1000)
    assert len(chain.unpack(chain.pack(bytes(1000)))) == 1000
    with pytest.raises(CodecError):
        chain.unpack(chain.pack(bytes(1001)))
    with pytest.raises(CodecError):
        chain.unpack(Chain().pack(bytes(1001)))


@pytest.mark.parametrize("level", [0, 10, -2, 1.5, "9", None, True])
def test_bad_level_is_refused(level):
    with pytest.raises(ApiParamError, match="1 to 9"):
        Compression.ZLIB(level)


def test_chain_is_limited_and_cipher_names_differ():
    with pytest.raises(ApiParamError):
        Chain(*["zlib"] * 9)
    with pytest.raises(ApiParamError):
        Chain(Signed(b"1"), Signed(b"2"))


def test_compression_is_a_value():
    assert Compression.ZLIB(9) == Compression("zlib", 9) != Compression.ZLIB
    assert len({Compression.ZLIB(9), Compression("zlib", 9)}) == 1
    assert pickle.loads(pickle.dumps(Compression.ZLIB(9))) == Compression.ZLIB(9)
    assert Compression.ZLIB != "zlib"
    with pytest.raises(AttributeError):
        Compression.ZLIB.level = 3
    assert repr(Chain(Compression.ZLIB(9), Signed(b"x"))) == "Chain(Compression('zlib', 9), hmac)"
