"""``%transactions``: the calls and events of this notebook, watched from its first use on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.display import display

from epyrpc.clock import format_seconds
from epyrpc.jupyter import display as looks
from epyrpc.observing import observe
from epyrpc.results import CallState
from epyrpc.tables import table

if TYPE_CHECKING:
    from epyrpc.observing import Observer, Record

USAGE = "%transactions shows the calls and events of this notebook, from its first use on; %transactions stop ends that"
SHOWN = 10  # in the static forms
HEADER = ("State", "Call", "Body", "Id", "Elapsed", "Detail")
TEXT = "the transactions of this notebook"


class Transactions:
    """What has been observed so far: as text, as a static table, and, in a notebook, as the monitor.

    Parameters
    ----------
    observer : Observer
        Who knows of them.
    monitor : widget or None
        The live view, where there is one.
    """

    def __init__(self, observer: Observer, monitor: Any) -> None:
        self.observer = observer
        self.monitor = monitor

    def _last(self) -> list[Record]:
        self.observer.poll()
        ended_badly = (CallState.FAILED, CallState.LOST, CallState.TIMED_OUT)
        calls = [record for record in self.observer.records() if not record.event]
        calls.sort(key=lambda record: (record.state in ended_badly, record.number))
        return calls[::-1][:SHOWN]

    def _counts(self) -> str:
        counts = [f"{self.observer.counts[state]:,} {state}" for state in CallState if self.observer.counts[state]]
        return " · ".join(counts) or "no transactions yet"

    def __repr__(self) -> str:
        lines = [" · ".join(str(fact) for fact in _facts(record) if fact) for record in self._last()]
        return "\n".join([self._counts(), *lines])

    def _repr_html_(self) -> str:
        last = self._last()
        return f"<p>{self._counts()}</p>" + (table(HEADER, [_facts(r) for r in last], code=(1,)) if last else "")

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = looks.bundle_of(self.monitor) if self.monitor is not None else None
        if bundle is None:
            return {"text/plain": repr(self)}
        return {**bundle, "text/plain": TEXT}  # constant, since it is what a saved notebook is compared by


def _facts(record: Record) -> tuple[str, ...]:
    arrow = " (answered here)" if record.incoming else ""
    elapsed = format_seconds(record.elapsed)
    return (str(record.state), record.path + arrow, record.target, record.id, elapsed, record.error)


@magics_class
class WatchingMagics(Magics):
    """The magic ``%transactions``."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._shown: Transactions | None = None

    @no_var_expand
    @line_magic
    def transactions(self, line: str) -> None:
        """Show the calls and events of this notebook, from the first use of this on; ``%transactions stop`` ends it."""
        word = line.strip()
        if word in ("--help", "-h"):
            print(USAGE)  # noqa: T201 - it is what was asked for
        elif word == "stop":
            self.stop()
        elif word:
            raise UsageError(f"%transactions: {word!r} is not known. {USAGE}")
        else:
            self._show()

    def _show(self) -> None:
        if self._shown is None:
            monitor = looks.make_monitor() if hasattr(self.shell, "kernel") else None
            self._shown = Transactions(observe() if monitor is None else monitor.observer, monitor)
        display(self._shown)  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Observe no more."""
        shown, self._shown = self._shown, None
        if shown is None:
            return
        if shown.monitor is not None:
            shown.monitor.stop()
        shown.observer.close()


def load(ip: Any) -> WatchingMagics:
    """Add the magic."""
    magics = WatchingMagics(ip)
    ip.register_magics(magics)
    return magics


def unload(ip: Any, magics: WatchingMagics) -> None:
    """Remove the magic, and observe no more."""
    magics.stop()
    ip.magics_manager.magics["line"].pop("transactions", None)
    ip.magics_manager.registry.pop(WatchingMagics.__name__, None)


__all__ = ["Transactions", "WatchingMagics", "load", "unload"]
