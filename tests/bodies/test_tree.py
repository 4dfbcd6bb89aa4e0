"""``worker.api``: the tree of what a body handles."""

from __future__ import annotations

import epyrpc
from epyrpc.bodies.tree import draw_tree


def test_tree_shows_paths_signatures_and_docstrings(body: epyrpc.Body) -> None:
    assert repr(body.api).startswith("worker handles nothing yet")

    def decay(t, tau=2.0):
        """Return what is left."""
        return t / tau

    body.set_handler("fit.decay", decay)
    body.set_handler("fit.deep.line", lambda x: x)
    body.set_handler("fit", lambda: None)
    first, line = decay.__code__.co_firstlineno, decay.__code__.co_firstlineno + 5
    assert repr(body.api).splitlines() == [
        "worker",
        f"└─ fit()                  v1 · test_tree.py:{line + 1}",
        f"   ├─ decay(t, tau=2.0)   v1 · test_tree.py:{first}   Return what is left.",
        "   └─ deep",
        f"      └─ line(x)          v1 · test_tree.py:{line}",
    ]
    assert dir(body.api) == ["fit"]


def test_tree_is_still_the_api(body: epyrpc.Body) -> None:
    body.set_handler("fit.double", lambda x: 2 * x)
    assert body.api.fit.double(4)(timeout=5) == 8
    assert body.api.namespace == ""


def test_tree_of_a_stopped_body_says_so(body: epyrpc.Body) -> None:
    body.stop()
    assert repr(body.api).startswith("worker: body 'worker' is stopped")
    assert dir(body.api) == []


def test_empty_tree_has_no_lines() -> None:
    assert draw_tree({}) == []
