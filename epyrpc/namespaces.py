"""Dotted paths: how they are made, checked and compared.

A path is a sequence of Python identifiers joined by dots, such as ``maths.scale``. Case counts, as in Python names.
Parts that begin with an underscore belong to the package itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epyrpc.errors import ApiParamError

if TYPE_CHECKING:
    from collections.abc import Iterable

# The root of what the package itself sends: cells, output, progress, statistics.
RESERVED = "_epyrpc"
WILDCARD = "*"
# What the length field of a frame's header holds, in bytes.
MAX_PATH_BYTES = 65535
# Comparing costs microseconds a candidate; an error message is not worth more than a few milliseconds.
_MAX_CANDIDATES = 2000


def join(*parts: str) -> str:
    """Join paths with dots, leaving out empty ones.

    Examples
    --------
    >>> join("", "a.b", "c")
    'a.b.c'
    """
    return ".".join([part for part in parts if part])


def split(path: str) -> list[str]:
    """Return the parts of a path; the empty path has none.

    Examples
    --------
    >>> split("a.b.c")
    ['a', 'b', 'c']
    >>> split("")
    []
    """
    return path.split(".") if path else []


def check_path(path: str, *, wildcard: bool = False, reserved: bool = False) -> str:
    """Return the path in the form in which it is compared and sent.

    Parameters
    ----------
    path : str
        One or more identifiers with dots between them. Python keywords are fine.
    wildcard : bool, optional
        Whether the last part may be ``*``.
    reserved : bool, optional
        Whether parts may begin with an underscore.

    Returns
    -------
    str
        The path. Where it holds other than ASCII it is normalised as Python normalises identifiers, so that a path
        spelled as a string meets the same one spelled as attributes.

    Raises
    ------
    ApiParamError
        It is no such path.

    Examples
    --------
    >>> check_path("maths.scale")
    'maths.scale'
    """
    if not isinstance(path, str):
        raise ApiParamError("path", path, str, "Write it as 'maths.scale'.")
    if not path:
        raise ApiParamError("path", path, "one or more names with dots between them", "Write it as 'maths.scale'.")
    if not path.isascii():
        path = _normalise(path)
    parts = path.split(".")
    last = len(parts) - 1
    for index, part in enumerate(parts):
        if part.isidentifier():
            if part[0] == "_" and not reserved:
                raise _refuse(path, part, "names without a leading underscore, which are kept for the package")
        elif part != WILDCARD:
            raise _refuse(path, part, "names with dots between them")
        elif not wildcard:
            raise _refuse(path, part, "names with dots between them; '*' can be handled, but not called")
        elif index != last:
            raise _refuse(path, part, "names with dots between them, with '*' only as the last")
    if len(path) > MAX_PATH_BYTES or len(path.encode()) > MAX_PATH_BYTES:
        raise ApiParamError("path", path, f"no longer than {MAX_PATH_BYTES} bytes")
    return path


def _normalise(path: str) -> str:
    import unicodedata  # rarely needed, and a megabyte

    return unicodedata.normalize("NFKC", path)


def _refuse(path: str, part: str, allowed: str) -> ApiParamError:
    culprit = f"The part '{part[:60]}' is not." if part else "A part of it is empty."
    return ApiParamError("path", path, allowed, culprit)


def contains(namespace: str, path: str) -> bool:
    """Return whether a path is a namespace or lies below it.

    Whole parts are compared. The empty namespace contains everything.

    Examples
    --------
    >>> contains("test", "test.x"), contains("test", "test2.x")
    (True, False)
    """
    if not namespace or namespace == path:
        return True
    size = len(namespace)
    return path[size : size + 1] == "." and path.startswith(namespace)


def nearest(path: str, candidates: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """Return the candidates most like a path, the best first.

    Parameters
    ----------
    path : str
        A path that was not found.
    candidates : iterable of str
        The paths that there are; of very many only some thousand are looked at.
    limit : int, optional
        How many to return at most.

    Returns
    -------
    tuple of str
        Those that resemble it; empty if none does.

    Examples
    --------
    >>> nearest("maths.scael", ["maths.scale", "log.note"])
    ('maths.scale',)
    >>> nearest("scale", ["maths.scale", "log.note"])
    ('maths.scale',)
    """
    import difflib  # only error messages need it

    wanted, last = path.lower(), path.lower().rpartition(".")[2]
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(wanted)
    scores: list[tuple[float, str]] = []
    for candidate in sorted(set(candidates))[:_MAX_CANDIDATES]:
        lowered = candidate.lower()
        matcher.set_seq1(lowered)
        score = matcher.ratio() if matcher.quick_ratio() > 0.5 else 0.0
        if lowered.rpartition(".")[2] == last:
            score += 0.5  # the right name in another namespace, which letters alone would not find
        if score > 0.6 or (lowered.rpartition(".")[2] == last and score >= 0.5):
            scores.append((-score, candidate))
    return tuple(candidate for _, candidate in sorted(scores)[:limit])


def refuse_bare(path: object, decorator: str) -> None:
    """Refuse a function where a decorator takes a path: without its parentheses it would register nothing.

    Raises
    ------
    ApiParamError
        It is one.
    """
    if callable(path):
        name = getattr(path, "__name__", "path.to.it")
        raise ApiParamError("path", path, "a path, as text", f"Write .{decorator}({name!r}) above the function.")
