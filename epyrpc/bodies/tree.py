"""What a body handles, as a tree that a person reads: what ``worker.api`` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epyrpc.errors import EpyrpcError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from epyrpc.bodies.body import Body


class ApiTree:
    """A view of what a body handles; everything else it is asked for, it asks the body's `ApiBase`.

    Its text is the tree of paths, with signatures and docstrings, as they are at that moment, and for what the head has
    registered the version, ``v2``, and where it was written: the cell, or file and line.
    """

    def __init__(self, body: Body) -> None:
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body._api, name)

    def __dir__(self) -> list[str]:
        try:
            return sorted({path.partition(".")[0] for path in self._body._paths_soon()})
        except EpyrpcError:  # completion must not fail because a body is gone
            return []

    def __repr__(self) -> str:
        try:
            described = self._body.describe()
        except EpyrpcError as exc:
            return f"{self._body.name}: {exc}"
        if not described:
            name = self._body.name
            return f"{name} handles nothing yet: {name}.set_handler('path.to.it', function) adds a handler"
        versions = self._body._versions
        origins = {
            p: " · ".join(filter(None, (f"v{versions[p][0]}", versions[p][1]))) for p in described if p in versions
        }
        return "\n".join([self._body.name, *draw_tree(described, origins)])


def draw_tree(described: Mapping[str, tuple[str, str]], origins: Mapping[str, str] | None = None) -> list[str]:
    r"""Return the lines of a tree of dotted paths.

    Parameters
    ----------
    described : mapping
        ``{path: (signature, first line of the docstring)}``
    origins : mapping, optional
        ``{path: what stands behind the signature}``

    Examples
    --------
    >>> print(*draw_tree({"fit.decay": ("(t, y)", "Fit a decay."), "fit.line": ("(x, y)", "")}), sep="\n")
    └─ fit
       ├─ decay(t, y)   Fit a decay.
       └─ line(x, y)
    """
    root: dict[str, Any] = {}
    for path in sorted(described):
        node = root
        for part in path.split("."):
            node = node.setdefault(part, {})
    lines = list(_branches(root, "", "", described, origins or {}))
    width = max((len(label) for label, origin, doc in lines if origin or doc), default=0)
    further = max((len(origin) + 3 for _, origin, _ in lines if origin), default=0)
    return [
        f"{label:<{width}}{f'   {origin}' if origin else '':<{further}}   {doc}".rstrip() if origin or doc else label
        for label, origin, doc in lines
    ]


def _branches(
    node: dict[str, Any],
    above: str,
    indent: str,
    described: Mapping[str, tuple[str, str]],
    origins: Mapping[str, str],
) -> Iterator[tuple[str, str, str]]:
    """Yield ``(line, origin, docstring)`` for everything below a node."""
    for index, (name, below) in enumerate(node.items()):
        last = index == len(node) - 1
        path = f"{above}.{name}" if above else name
        signature, doc = described.get(path, ("", ""))
        yield f"{indent}{'└─ ' if last else '├─ '}{name}{signature}", origins.get(path, ""), doc
        yield from _branches(below, path, indent + ("   " if last else "│  "), described, origins)


__all__ = ["ApiTree", "draw_tree"]
