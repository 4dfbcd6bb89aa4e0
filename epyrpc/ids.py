"""The ids of calls, which tell where a call comes from."""

from __future__ import annotations


class TransactionId(int):
    """An id that shows its origin: ``H128`` was made by a Head, ``N77`` by a Neck, ``N3.77`` by the Neck of body 3.

    As a number: the top bit is the origin (1 is a Neck), then 23 bits for the end, then 40 for the count.

    Examples
    --------
    >>> TransactionId.make("H", 0, 128)
    H128
    >>> TransactionId.make("N", 3, 77).end
    3
    """

    COUNT_BITS = 40
    END_BITS = 23

    @classmethod
    def make(cls, origin: str, end: int, count: int) -> TransactionId:
        """Put an id together."""
        return cls((0 if origin == "H" else 1) << 63 | end << cls.COUNT_BITS | count)

    @property
    def origin(self) -> str:
        """``"H"`` or ``"N"``."""
        return "N" if self >> 63 else "H"

    @property
    def end(self) -> int:
        """Which of the ends of that origin."""
        return (self >> self.COUNT_BITS) & ((1 << self.END_BITS) - 1)

    @property
    def count(self) -> int:
        """The how-manieth of that end."""
        return self & ((1 << self.COUNT_BITS) - 1)

    def __str__(self) -> str:
        return f"{self.origin}{self.end}.{self.count}" if self.end else f"{self.origin}{self.count}"

    __repr__ = __str__
