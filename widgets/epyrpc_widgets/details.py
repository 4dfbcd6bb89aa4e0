"""What an opened row shows of a call: arguments, output, result, error, timings; bounded, and fit for JSON."""

from __future__ import annotations

import base64
import linecache
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import epyrpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from epyrpc import AsyncResult, PoolResult

TEXT_LIMIT = 100_000  # characters of output sent to a page
DISPLAY_LIMIT = 8_000_000  # of one display
REPR_LIMIT = 300
ARGUMENTS_SHOWN = 20
CONTEXT_LINES = 2
HOPS = (("encode", "encode"), ("send", "send"), ("queued", "wait"), ("ran", "run"), ("reply", "reply"))


def detail_of(call: AsyncResult | PoolResult) -> dict[str, Any]:
    """Return everything about a call; on the kernel's main thread, since results are formatted there."""
    state = str(epyrpc.snapshot(call).state)
    arguments, note = arguments_of(call)
    return {
        "args": arguments,
        "args_note": note,
        "outputs": outputs_of(call),
        "result": result_of(call) if state == "done" else None,
        "error": error_of(call) if state in ("failed", "lost", "timed out") else None,
        "timings": timings_of(call),
        "facts": facts_of(call),
    }


def arguments_of(call: AsyncResult | PoolResult) -> tuple[list[list[str]] | None, str]:
    """Return names and bounded reprs of what the handler got, or None and why."""
    given = call.arguments
    if given is None:
        return None, "" if call.recall is None else "not kept, since they are large"
    positional, named = given
    pairs = [("", value) for value in positional] + list(named.items())
    shown = [[name, _short(value)] for name, value in pairs[:ARGUMENTS_SHOWN]]
    if len(pairs) > ARGUMENTS_SHOWN:
        shown.append(["", f"… {len(pairs) - ARGUMENTS_SHOWN} more"])
    return shown, ""


def has_argument(call: AsyncResult | PoolResult, text: str) -> bool:
    """Whether what the handler got has a text in it, in the words in which it is shown; case is ignored."""
    shown, _ = arguments_of(call)
    return any(text in f"{name}={value}".lower() for name, value in shown or ())


def _short(value: Any) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{type(value).__name__} {shape} {dtype}"
    if isinstance(value, (str, bytes, list, tuple)) and len(value) > 10 * REPR_LIMIT:
        value = value[: 10 * REPR_LIMIT]
    try:
        text = " ".join(repr(value).split())
    except Exception as exc:  # a repr of the user's; the rest is still worth seeing
        text = f"{type(value).__name__} whose repr raises {type(exc).__name__}"
    return text if len(text) <= REPR_LIMIT else f"{text[: REPR_LIMIT - 1]}…"


def outputs_of(call: AsyncResult | PoolResult) -> list[dict[str, Any]]:
    """Return what a call has put out, in order; of long text the end."""
    kept: list[dict[str, Any]] = []
    left = TEXT_LIMIT
    for output in reversed(call.outputs):
        if output["output_type"] == "stream":
            text = output["text"]
            if len(text) > left:
                text = f"[{len(text) - left:,} earlier characters are in the cell]\n{text[len(text) - left :]}"
            left -= len(text)
            kept.append({**output, "text": text})
            if left <= 0:
                break
        else:
            kept.append({**output, "data": sendable(output["data"])})
    return kept[::-1]


def sendable(data: dict[str, Any]) -> dict[str, Any]:
    """Return a MIME bundle as text that JSON takes, without what is too large for a page."""
    found = {}
    for kind, value in data.items():
        text = base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
        if isinstance(text, (str, dict, list)) and (not isinstance(text, str) or len(text) <= DISPLAY_LIMIT):
            found[kind] = text
    return found


def result_of(call: AsyncResult | PoolResult) -> dict[str, Any] | None:
    """Return the value of a call in its richest form, and what it is in a few words."""
    value = call.result()
    if value is None:
        return None
    data, metadata = _format(value)
    shape = getattr(value, "shape", None)
    caption = ""
    if isinstance(shape, tuple):
        size = getattr(value, "nbytes", None)
        facts = [f"{type(value).__name__} {' × '.join(str(n) for n in shape)}"]
        if isinstance(size, int):
            facts.append(f"{size:,} B")
        caption = " · ".join(facts)
    return {"data": sendable(data), "metadata": metadata, "caption": caption}


def _format(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from IPython import get_ipython

    ip = get_ipython()
    if ip is None or isinstance(value, (str, bytes)) or (isinstance(value, (list, dict, tuple)) and len(value) > 1000):
        return {"text/plain": _short(value)}, {}
    data, metadata = ip.display_formatter.format(value)
    return data or {"text/plain": _short(value)}, metadata


def error_of(call: AsyncResult | PoolResult) -> dict[str, Any]:
    """Return what went wrong: the message, the frames in the user's code with their lines, the whole text to copy."""
    error = call.exception()
    if error is None:  # ignored, as asked
        return {"message": "ignored, as ignore_errors asks", "frames": [], "drawn": "", "text": "", "where": ""}
    cause = error.__cause__
    remote = getattr(cause, "frames", None)
    drawn = getattr(error, "_render_traceback_", None)
    lines = getattr(drawn, "lines", None)  # as the body drew it, with its colours
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__)) if remote else str(error)
    return {
        "message": f"{type(error).__name__}: {error}",
        "frames": list(frames_of(remote)) if remote and not lines else [],
        "drawn": "\n".join(lines) if lines else "",
        "text": text,
        "where": f"raised in body {call.target}" if remote and call.target else "",
    }


def frames_of(frames: list[Any]) -> Iterator[dict[str, Any]]:
    """Give the frames: those of cells and of the user's files open, those of installed packages folded."""
    house = str(Path(epyrpc.__file__).parent) + "/"
    folded: list[str] = []
    where = ""
    for file, line, function, source in frames:
        if file.startswith(house):
            continue
        if "site-packages" in file or file.startswith(("<frozen", f"{sys.base_prefix}/lib")):
            folded.append(f"{file}, line {line}, in {function}\n    {source.strip()}")
            where = "/".join(file.rsplit("/", 3)[1:])
            continue
        if folded:
            yield {"folded": folded, "where": where}
            folded = []
        yield {
            "place": _place(file),
            "line": line,
            "function": function,
            "source": _source(file, line, source),
        }
    if folded:
        yield {"folded": folded, "where": where}


def _place(file: str) -> str:
    from IPython import get_ipython

    ip = get_ipython()
    known = ip.compile.format_code_name(file) if ip is not None else None
    return " ".join(known) if known else file


def _source(file: str, line: int, source: str) -> list[list[Any]]:
    """Return numbered lines around one, where this process knows the same file."""
    lines = linecache.getlines(file)
    here = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    if not here or (source and source.strip() != here):
        return [[line, source.strip()]] if source else []
    first, last = max(1, line - CONTEXT_LINES), min(len(lines), line + CONTEXT_LINES)
    return [[n, lines[n - 1].rstrip("\n")] for n in range(first, last + 1)]


def timings_of(call: AsyncResult | PoolResult) -> list[list[Any]]:
    """Return ``[name, seconds]`` of each hop that is known, in order."""
    timings = call.timings
    return [[label, timings[name]] for name, label in HOPS if name in timings]


def facts_of(call: AsyncResult | PoolResult) -> str:
    """Return which worker has run a call, and what it took on the wire, in a line."""
    seen = epyrpc.snapshot(call)
    facts = [f"handler worker {seen.worker}"] if seen.worker else []
    facts += [f"{what} {_bytes(size)}" for what, size in (("sent", seen.sent), ("received", seen.received)) if size]
    return " · ".join(facts)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} GB"


__all__ = [
    "arguments_of",
    "detail_of",
    "error_of",
    "facts_of",
    "frames_of",
    "has_argument",
    "outputs_of",
    "result_of",
    "sendable",
    "timings_of",
]
