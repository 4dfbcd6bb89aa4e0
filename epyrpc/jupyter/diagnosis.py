"""``%body why`` and ``%body reload``: why something waits, and code that was edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epyrpc import places
from epyrpc.bodies.waiting import waiting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from epyrpc.bodies.body import Body
    from epyrpc.bodies.waiting import Waiting


def why(chosen: Iterable[Body]) -> Waiting:
    """Return what the calls of some bodies wait for; those of all where none is named."""
    return waiting(*(body.name for body in chosen if body.alive))


def reload(body: Body, modules: list[str]) -> str:
    """Load edited modules anew, here and in a body; return what was done."""
    loaded = body.reload(*modules)
    count = len(body._handlers)
    there = f" and in {body.name}" if loaded else f"; {body.name} has not loaded {'them' if len(modules) > 1 else 'it'}"
    sent = f"; {count} handler{'s were' if count > 1 else ' was'} sent again" if count else ""
    return f"{', '.join(modules)} loaded anew here{there}{sent}"


def name_cells(ip: Any) -> None:
    """Let places in the notebook's code be called by their cells, ``In[4]``."""

    def name_of_cell(filename: str) -> str:
        number = getattr(ip.compile, "_filename_map", {}).get(filename)  # IPython's own; without it, files have names
        return f"In[{number}]" if number is not None else ""

    places.name_of_cell = name_of_cell


def forget_cells() -> None:
    """Undo `name_cells`."""
    places.name_of_cell = lambda filename: ""


__all__ = ["forget_cells", "name_cells", "reload", "why"]
