"""Several bodies under one name: what ``%body spawn NAME --processes N`` binds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from epyrpc.jupyter.display import BodyList

if TYPE_CHECKING:
    from collections.abc import Iterator

    from epyrpc.bodies.body import Body


class BodyGroup:
    """Some bodies that were started together, ``NAME_1`` to ``NAME_N``; each takes calls of its own.

    It shares no work among them.

    Parameters
    ----------
    name : str
        What the group was spawned as.
    bodies : list of Body
        Its members.
    """

    def __init__(self, name: str, bodies: list[Body]) -> None:
        self.name = name
        self.bodies = tuple(bodies)

    @property
    def alive(self) -> bool:
        """Whether a process of the group runs."""
        return any(body.alive for body in self.bodies)

    def stop(self, timeout: float = 5.0) -> None:
        """Stop every member, see `Body.stop`."""
        for body in self.bodies:
            body.stop(timeout)

    def __iter__(self) -> Iterator[Body]:
        return iter(self.bodies)

    def __len__(self) -> int:
        return len(self.bodies)

    def __getitem__(self, index: int) -> Body:
        return self.bodies[index]

    def __repr__(self) -> str:
        return repr(BodyList(self.bodies))

    def _repr_html_(self) -> str:
        return BodyList(self.bodies)._repr_html_()


__all__ = ["BodyGroup"]
