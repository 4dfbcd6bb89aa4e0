"""How calls and bodies look in a notebook: text and static tables, for saved notebooks, exports and terminals.

The static forms say the last state that was known. Live widgets will stand in front of them, as one more MIME type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epyrpc.bodies.body import CARD_HEADER
from epyrpc.observing import describe_value, detail
from epyrpc.results import AsyncResult, CallState, Stream, format_seconds
from epyrpc.tables import escape, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epyrpc.bodies.body import Body

GLYPHS = {
    CallState.PENDING: "○",
    CallState.RUNNING: "◐",
    CallState.STREAMING: "»",
    CallState.DONE: "✓",
    CallState.FAILED: "×",
    CallState.TIMED_OUT: "◷",
    CallState.CANCELLED: "⊘",
    CallState.LOST: "△",
}
CALL_HEADER = ("State", "Call", "Body", "Id", "Elapsed", "Detail")
UNFINISHED = "Last known state: the notebook was saved while this call ran."


def call_html(result: AsyncResult) -> str:
    """Return a call as a small static table."""
    state, *facts = _facts(result)
    html = table(CALL_HEADER, [(f"{GLYPHS[state]} {state}", *facts)], code=(1,))
    return html if state.ended else f"{html}<p>{escape(UNFINISHED)}</p>"


def call_text(result: AsyncResult) -> str:
    """Return what stands for a call in a saved notebook: it does not change as the call goes on."""
    return f"AsyncResult({result.path}{f' on {result.target}' if result.target else ''})"


def call_line(result: AsyncResult) -> str:
    """Return a call as one line for a terminal."""
    return " · ".join(str(fact) for fact in _facts(result) if fact != "")


def _facts(result: AsyncResult) -> tuple[Any, ...]:
    """Return what stands under `CALL_HEADER`, the state as such."""
    what = detail(result)  # first: it may find that the reply cannot be decoded, which is a failure
    return (result.state, result.path, result.target, result.id, format_seconds(result.elapsed), what)


class BodyList:
    """Some bodies as text and as a static table: what ``%body list`` shows."""

    def __init__(self, bodies: Sequence[Body]) -> None:
        self._lines = [" · ".join([body.name, *body._facts()]) for body in bodies]
        self._rows = [body._card() for body in bodies]

    def __repr__(self) -> str:
        return "\n".join(self._lines) or "no bodies: %body spawn NAME starts one"

    def _repr_html_(self) -> str:
        return table(CARD_HEADER, self._rows, code=(0,)) if self._rows else f"<p>{escape(self)}</p>"


def register(ip: Any) -> None:
    """Show calls as text and tables."""
    formatters = ip.display_formatter.formatters
    text = call_text if hasattr(ip, "kernel") else call_line
    for kind in (AsyncResult, Stream):
        formatters["text/plain"].for_type(kind, lambda obj, p, cycle: p.text(text(_call_of(obj))))
        formatters["text/html"].for_type(kind, lambda obj: call_html(_call_of(obj)))


def unregister(ip: Any) -> None:
    """Undo `register`."""
    for kind in (AsyncResult, Stream):
        for name in ("text/plain", "text/html"):
            ip.display_formatter.formatters[name].pop(kind, None)


def _call_of(obj: AsyncResult | Stream) -> AsyncResult:
    return obj.call if isinstance(obj, Stream) else obj


__all__ = ["BodyList", "call_html", "call_line", "call_text", "describe_value", "detail", "register", "unregister"]
