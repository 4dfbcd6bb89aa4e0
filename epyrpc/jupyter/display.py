"""How calls and bodies look in a notebook: text and static tables, for saved notebooks, exports and terminals.

The static forms say the last state that was known. In a notebook a live view stands in front of them, as one more MIME
type; the package that makes it is met here and nowhere else, when the first such thing is displayed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from IPython.display import display

from epyrpc.bodies import pool_progress
from epyrpc.bodies.body import CARD_HEADER, Body
from epyrpc.bodies.map_run import MapRun
from epyrpc.bodies.pool import Pool
from epyrpc.bodies.pool_jobs import PoolResult
from epyrpc.bodies.pool_map import MapResults
from epyrpc.clock import format_seconds
from epyrpc.following import FollowUp
from epyrpc.gathering import Gathered
from epyrpc.results import AsyncResult, CallState
from epyrpc.snapshots import describe_value, detail
from epyrpc.streams import Stream
from epyrpc.tables import escape, table

if TYPE_CHECKING:
    from collections.abc import Sequence

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
VIEW = "application/vnd.jupyter.widget-view+json"
LIVE: tuple[type, ...] = (
    AsyncResult,
    Stream,
    Body,
    Pool,
    Gathered,
    PoolResult,
    MapRun,
    MapResults,
)  # what has a live view
HINT = "For live rows: pip install ipywidgets anywidget"
_hinted: list[bool] = []
ROWS_SHOWN = 5
MAP_HEADER = ("State", "Map", "Pool", "Items", "Failed", "Elapsed")
SHOWN_LIVE = "How far it had come was shown live."
UNFINISHED = "Last known state: the notebook was saved while this call ran."


def call_html(result: AsyncResult | PoolResult) -> str:
    """Return a call as a small static table."""
    state, *facts = _facts(result)
    html = table(CALL_HEADER, [(f"{GLYPHS[state]} {state}", *facts)], code=(1,))
    return html if state.ended else f"{html}<p>{escape(UNFINISHED)}</p>"


def call_text(result: AsyncResult | PoolResult) -> str:
    """Return what stands for a call in a saved notebook: it does not change as the call goes on."""
    if isinstance(result, PoolResult):
        return f"PoolResult({result.path})"
    return f"AsyncResult({result.path}{f' on {result.target}' if result.target else ''})"


def calls_html(calls: Gathered) -> str:
    """Return gathered calls as a small static table, failures first."""
    failures = (CallState.FAILED, CallState.LOST, CallState.TIMED_OUT)
    first = sorted(calls, key=lambda call: call.state not in failures)[:ROWS_SHOWN]
    rows = []
    for call in first:
        state, *facts = _facts(call)
        rows.append((f"{GLYPHS[state]} {state}", *facts))
    html = table(CALL_HEADER, rows, code=(1,))
    states = calls.states
    tally = ", ".join(f"{states[state]:,} {state}" for state in CallState if states[state])
    if calls:
        spent = max(call.elapsed for call in calls)
        many = f"{len(calls):,} call{'' if len(calls) == 1 else 's'} in {format_seconds(spent)}: {tally}."
        hidden = len(calls) - len(rows)
        html += f"<p>{many}{f' {hidden:,} more rows not shown.' if hidden else ''}</p>"
    return html if calls.done() else f"{html}<p>{escape(UNFINISHED.replace('this call', 'these calls'))}</p>"


def map_text(run: MapRun) -> str:
    """Return what stands for a map in a saved notebook."""
    total = run.look().total
    return f"map of {run.path} on {run.pool}{'' if total is None else f': {total:,} items'}"


def map_html(run: MapRun) -> str:
    """Return a map as a small static table."""
    seen = run.look()
    total = "?" if seen.total is None else f"{seen.total:,}"
    facts = (run.path, run.pool, f"{seen.done:,}/{total}", f"{seen.failed:,}", format_seconds(seen.elapsed))
    html = table(MAP_HEADER, [(f"{GLYPHS[seen.state]} {seen.state}", *facts)], code=(1,))
    return html if seen.state.ended else f"{html}<p>{escape(UNFINISHED.replace('this call', 'this map'))}</p>"


def show_map(run: MapRun) -> bool:
    """Show a map that begins, live; False where there is no live view."""
    bundle = live_view(run)
    if bundle is None:
        return False
    total = run.look().total
    row = (run.path, run.pool, "?" if total is None else f"{total:,}")
    html = f"{table(MAP_HEADER[1:4], [row], code=(0,))}<p>{SHOWN_LIVE}</p>"  # true in a saved notebook too
    display({**bundle, "text/html": html, "text/plain": map_text(run)}, raw=True)  # type: ignore[no-untyped-call]
    return True


def call_line(result: AsyncResult | PoolResult) -> str:
    """Return a call as one line for a terminal."""
    return " · ".join(str(fact) for fact in _facts(result) if fact != "")


def _facts(result: AsyncResult | PoolResult) -> tuple[Any, ...]:
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
    """Show calls and bodies as text, tables and, in a notebook, live views."""
    formatters = ip.display_formatter.formatters
    text = call_text if hasattr(ip, "kernel") else call_line
    for kind in (AsyncResult, Stream, PoolResult):
        formatters["text/plain"].for_type(kind, lambda obj, p, cycle: p.text(text(_call_of(obj))))
        formatters["text/html"].for_type(kind, lambda obj: call_html(_call_of(obj)))
    # A cell that ends with ar.then(...) has said what is to be shown, and when.
    ip.display_formatter.ipython_display_formatter.for_type(FollowUp, lambda obj: None)
    formatters["text/html"].for_type(Gathered, calls_html)
    for maps in (MapRun, MapResults):
        formatters["text/html"].for_type(maps, lambda obj: map_html(_run_of(obj)))
    if hasattr(ip, "kernel"):
        pool_progress.show_live = show_map
        for maps in (MapRun, MapResults):
            formatters["text/plain"].for_type(maps, lambda obj, p, cycle: p.text(map_text(_run_of(obj))))
        formatters["text/plain"].for_type(Gathered, lambda obj, p, cycle: p.text(f"{len(obj)} calls"))
        for shown in LIVE:
            ip.display_formatter.mimebundle_formatter.for_type(shown, live_view)


def unregister(ip: Any) -> None:
    """Undo `register`."""
    pool_progress.show_live = lambda run: False
    for kind in (AsyncResult, Stream, PoolResult, Gathered, MapRun, MapResults):
        for name in ("text/plain", "text/html"):
            ip.display_formatter.formatters[name].pop(kind, None)
    ip.display_formatter.ipython_display_formatter.pop(FollowUp, None)
    for shown in LIVE:
        ip.display_formatter.mimebundle_formatter.pop(shown, None)


def live_view(thing: Any, include: Any = None, exclude: Any = None) -> dict[str, Any] | None:
    """Return the live view of a thing as one more MIME type beside text and table; None where there is none."""
    widgets = _widgets()
    return None if widgets is None else bundle_of(widgets.view_of(thing))


def make_monitor() -> Any:
    """Return a live view of all transactions from now on; None where there is none."""
    widgets = _widgets()
    return None if widgets is None else widgets.TransactionMonitor()


def bundle_of(view: Any) -> dict[str, Any] | None:
    """Return the MIME type of a view, and what the front end finds it by."""
    bundle = view._repr_mimebundle_() if view is not None else None
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    return {VIEW: data[VIEW]} if data and VIEW in data else None


def _widgets() -> Any:
    try:
        import epyrpc_widgets
    except ImportError:  # the text and the table serve
        _give_hint()
        return None
    return epyrpc_widgets


def _give_hint() -> None:
    if not _hinted:
        _hinted.append(True)
        print(HINT, file=sys.stderr)  # noqa: T201 - for the person in front of the notebook, once


def _call_of(obj: AsyncResult | Stream | PoolResult) -> AsyncResult | PoolResult:
    return obj.call if isinstance(obj, Stream) else obj


def _run_of(obj: MapRun | MapResults) -> MapRun:
    return obj.run if isinstance(obj, MapResults) else obj


__all__ = [
    "BodyList",
    "call_html",
    "call_line",
    "call_text",
    "describe_value",
    "detail",
    "live_view",
    "register",
    "unregister",
]
