"""What is done to a payload on its way: compression, and a slot for ciphers.

A `Chain` packs a payload by its steps in order, and writes in front a hint at which steps those were::

    ┌───────┬───────┬────────────────────────┬──────┐
    │ 0xEC  │ count │ count × (length, name) │ data │   count, length: u8; name: ASCII
    └───────┴───────┴────────────────────────┴──────┘

Unpacking follows this hint, not the local settings, so that ends with different settings understand each other. Ciphers
are the exception, or anybody could leave them out: a chain refuses what did not go through exactly its own, in order. A
cipher seals the hint at the steps before it together with the data; so the hint in front names one cipher at most, as
the first step, and the hint at what it sealed is found once it is opened.

Chains are immutable and may be used on any thread; so must ciphers be.
"""

from __future__ import annotations

import abc
import zlib
from typing import TYPE_CHECKING, ClassVar

from epyrpc.errors import (
    ApiParamError,
    CodecError,
    UnsupportedTransportCompressionError,
    UnsupportedTransportEncryptionError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAGIC = 0xEC
_MAX_STEPS = 8
_MAX_NAME_BYTES = 64
_CIPHER_PREFIX = "cipher:"
# Unpacking more than this is refused, whatever the sender said. It is the most that one frame may become in memory.
MAX_UNPACKED_BYTES = 1 << 32


class Compression:
    """A compression by its name, and for zlib its level.

    ``Compression.NONE`` leaves a payload as it is; ``Compression.ZLIB`` is zlib at its default level, and calling it,
    ``Compression.ZLIB(9)``, gives another one.

    Parameters
    ----------
    name : str
        One of ``Compression.NAMES``.
    level : int, optional
        1 (fastest) to 9 (smallest) for zlib, -1 for its default.

    Raises
    ------
    UnsupportedTransportCompressionError
        There is no such compression.
    ApiParamError
        There is no such level.

    Examples
    --------
    >>> Compression.ZLIB(9)
    Compression('zlib', 9)
    """

    __slots__ = ("level", "name")

    NAMES: ClassVar[tuple[str, ...]] = ("none", "zlib")
    NONE: ClassVar[Compression]
    ZLIB: ClassVar[Compression]

    level: int
    name: str

    def __init__(self, name: str, level: int = -1) -> None:
        if name not in self.NAMES:
            raise UnsupportedTransportCompressionError(name, self.NAMES)
        if type(level) is not int or not (level == -1 or 1 <= level <= 9):
            raise ApiParamError("level", level, "1 to 9, or -1 for the default")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "level", level if name != "none" else -1)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Compression cannot be changed; make another one with {name}={value!r}")

    def __call__(self, level: int) -> Compression:
        """Return the same compression at another level."""
        return Compression(self.name, level)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Compression):
            return NotImplemented
        return (self.name, self.level) == (other.name, other.level)

    def __hash__(self) -> int:
        return hash((self.name, self.level))

    def __reduce__(self) -> tuple[type[Compression], tuple[str, int]]:
        return Compression, (self.name, self.level)

    def __repr__(self) -> str:
        return f"Compression({self.name!r})" if self.level == -1 else f"Compression({self.name!r}, {self.level})"

    def compress(self, data: bytes) -> bytes:
        """Return the compressed data."""
        return zlib.compress(data, self.level) if self.name == "zlib" else data


Compression.NONE = Compression("none")
Compression.ZLIB = Compression("zlib")


class Cipher(abc.ABC):
    """What seals payloads, so that none can read or change them on the way: to be plugged in, none comes along.

    One object may be asked by several threads at once. Payloads may be opened in another order than they were sealed.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What both ends call it: up to 50 ASCII characters; it travels in front of each payload."""

    @abc.abstractmethod
    def seal(self, data: bytes) -> bytes:
        """Return the sealed data. An error raised here fails the call that is sent."""

    @abc.abstractmethod
    def open(self, data: bytes) -> bytes:
        """Return what was sealed.

        Raises
        ------
        Exception
            Anything, if the data was not sealed with the same key or was changed since; it becomes a `CodecError`.
        """


class Chain:
    """Steps that a payload goes through, in order.

    Parameters
    ----------
    *steps : Compression, Cipher or str
        A string names a compression. At most 8; compress before you seal, since what is sealed no longer shrinks.
    max_bytes : int, optional
        The size in bytes above which unpacking is refused, so that a small frame cannot fill the memory.

    Raises
    ------
    UnsupportedTransportCompressionError
        A string names no compression.
    UnsupportedTransportEncryptionError
        A step is neither a compression nor a `Cipher`, or a cipher's name cannot be sent.
    ApiParamError
        There are too many steps, or two ciphers of one name.

    Examples
    --------
    >>> chain = Chain(Compression.ZLIB(9))
    >>> packed = chain.pack(b"a" * 1000)
    >>> len(packed) < 50, Chain().unpack(packed) == b"a" * 1000
    (True, True)
    """

    def __init__(self, *steps: Compression | Cipher | str, max_bytes: int = MAX_UNPACKED_BYTES) -> None:
        if len(steps) > _MAX_STEPS:
            raise ApiParamError("steps", len(steps), f"at most {_MAX_STEPS}")
        checked = [_check_step(step) for step in steps]
        self._steps = tuple([step for step in checked if step != Compression.NONE])
        self._max_bytes = max_bytes
        # {name: cipher}
        self._ciphers = {step.name: step for step in self._steps if isinstance(step, Cipher)}
        if len(self._ciphers) != sum(isinstance(step, Cipher) for step in self._steps):
            raise ApiParamError("steps", steps, "ciphers of different names")

    @property
    def steps(self) -> tuple[Compression | Cipher, ...]:
        """The steps in the order of packing; those that do nothing are left out."""
        return self._steps

    def __bool__(self) -> bool:
        """Return whether packing does anything."""
        return bool(self._steps)

    def __repr__(self) -> str:
        names = ", ".join(repr(step) if isinstance(step, Compression) else step.name for step in self._steps)
        return f"Chain({names})"

    def pack(self, payload: bytes) -> bytes:
        """Return the payload after every step, with the hint in front; on the thread that sends."""
        data, names = payload, list[str]()
        for step in self._steps:
            if isinstance(step, Compression):
                data = step.compress(data)
                names.append(step.name)
            else:
                data = step.seal(_write_hint(names) + data)
                names = [_CIPHER_PREFIX + step.name]
        return _write_hint(names) + data

    def unpack(self, packed: bytes) -> bytes:
        """Undo what the hint in front says was done.

        Parameters
        ----------
        packed : bytes
            What `pack` of a chain returned, there or here.

        Returns
        -------
        bytes
            The payload.

        Raises
        ------
        UnsupportedTransportCompressionError
            It names a compression not known here.
        UnsupportedTransportEncryptionError
            It did not go through exactly the ciphers of this chain; `algo` is the last one that it went through.
        CodecError
            It is garbage, was changed on the way, or would become larger than `max_bytes`.
        """
        expected = list(self._ciphers.values())
        if expected and self._steps[-1] is expected[-1] and _read_hint(packed)[0] != [_step_name(expected[-1])]:
            raise self._refuse_ciphers(packed)  # before anything else is done for whoever wrote it
        data = packed
        while True:
            names, data = _read_hint(data)
            sealed = bool(names) and names[0].startswith(_CIPHER_PREFIX)
            for name in reversed(names[sealed:]):
                data = self._decompress(name, data)
            if not sealed:
                break
            if not expected or names[0] != _step_name(expected[-1]):
                raise self._refuse_ciphers(packed)
            data = _open(expected.pop(), data)
        if expected:
            raise self._refuse_ciphers(packed)
        if len(data) > self._max_bytes:
            raise _too_large(self._max_bytes)
        return data

    def _decompress(self, name: str, data: bytes) -> bytes:
        if name == "zlib":
            return _inflate(data, self._max_bytes)
        if name == "none":
            return data
        raise UnsupportedTransportCompressionError(name.removeprefix(_CIPHER_PREFIX), Compression.NAMES)

    def _refuse_ciphers(self, packed: bytes) -> UnsupportedTransportEncryptionError:
        names = [name.removeprefix(_CIPHER_PREFIX) for name in _read_hint(packed)[0] if name.startswith(_CIPHER_PREFIX)]
        return UnsupportedTransportEncryptionError(names[0] if names else "none", tuple(self._ciphers))


def _open(cipher: Cipher, data: bytes) -> bytes:
    try:
        return cipher.open(data)
    except Exception as exc:
        raise CodecError(
            f"the cipher '{cipher.name}' cannot open what arrived ({type(exc).__name__}: {exc}); do both ends have the "
            "same key?"
        ) from exc


def _check_step(step: object) -> Compression | Cipher:
    if isinstance(step, Compression):
        return step
    if isinstance(step, str):
        return Compression(step)
    if not isinstance(step, Cipher):
        raise UnsupportedTransportEncryptionError(step, ("an object of a subclass of Cipher",))
    if not step.name or not step.name.isascii() or len(step.name) > _MAX_NAME_BYTES - len(_CIPHER_PREFIX):
        raise UnsupportedTransportEncryptionError(step.name, ("a name of up to 50 ASCII characters",))
    return step


def _step_name(step: Compression | Cipher) -> str:
    return step.name if isinstance(step, Compression) else _CIPHER_PREFIX + step.name


def _write_hint(names: Sequence[str]) -> bytes:
    encoded = [name.encode("ascii") for name in names]
    return bytes([_MAGIC, len(encoded)]) + b"".join(bytes([len(name)]) + name for name in encoded)


def _read_hint(packed: bytes) -> tuple[list[str], bytes]:
    """Return the names of the steps and the data behind the hint."""
    packed = bytes(packed)
    try:
        if packed[0] != _MAGIC or packed[1] > _MAX_STEPS:
            raise ValueError("it has no hint")
        names, at = [], 2
        for _ in range(packed[1]):
            size = packed[at]
            name = packed[at + 1 : at + 1 + size]
            if not 0 < len(name) == size <= _MAX_NAME_BYTES:
                raise ValueError("its hint is cut off")
            names.append(name.decode("ascii"))
            at += 1 + size
    except (IndexError, ValueError) as exc:
        raise CodecError(
            f"a packed payload of {len(packed)} bytes cannot be read ({exc}); was it written by something else?"
        ) from exc
    return names, packed[at:]


def _inflate(data: bytes, limit: int) -> bytes:
    worker = zlib.decompressobj()
    try:
        # One byte more than allowed tells a payload of just that size from one that goes on.
        result = worker.decompress(data, limit + 1)
    except zlib.error as exc:
        raise CodecError(f"a compressed payload of {len(data)} bytes is damaged: {exc}") from exc
    if len(result) > limit:
        raise _too_large(limit)
    if not worker.eof or worker.unused_data:
        raise CodecError(f"a compressed payload of {len(data)} bytes is damaged: it ends too early or too late")
    return result


def _too_large(limit: int) -> CodecError:
    return CodecError(
        f"a packed payload would become larger than {limit} bytes; send it in parts, or raise max_bytes of the Chain"
    )
