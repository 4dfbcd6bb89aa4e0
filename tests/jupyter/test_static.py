"""Static tables of many calls: what a saved notebook shows."""

from __future__ import annotations

import re

import epyrpc
from epyrpc.jupyter.display import calls_html, map_html
from epyrpc.transactions import HeadTransactionIdGenerator, TransactionManager
from tests.test_observing import move


def text_of(html: str) -> str:
    """Return the words of a table, without its tags."""
    return re.sub(r"<[^>]+>", " ", html)


def test_gathered_calls_are_five_rows_failures_first_and_a_sentence() -> None:
    manager = TransactionManager(HeadTransactionIdGenerator())
    gathered = epyrpc.gather(manager.new("fit.decay") for _ in range(12))
    for number, call in enumerate(gathered):
        move(manager, call, "fail" if number == 7 else "release")
    html = calls_html(gathered)
    assert html.count("<tr>") == 6
    assert "× failed" in html.split("<tr>")[2]
    assert re.search(r"12 calls in .+s: 11 done, 1 failed\. 7 more rows not shown\.", text_of(html))
    assert not re.search("style|class|script", html)


def test_calls_under_way_say_that_this_is_the_last_known_state() -> None:
    manager = TransactionManager(HeadTransactionIdGenerator())
    html = text_of(calls_html(epyrpc.gather([manager.new("fit.decay")])))
    assert "1 call in" in html
    assert "Last known state: the notebook was saved while these calls ran." in html


def test_a_map_is_a_row() -> None:
    with epyrpc.Pool(1, name="crunch") as pool:
        results = pool.map(abs, range(3))
        assert list(results) == [0, 1, 2]
        assert "✓ done abs crunch 3/3 0" in " ".join(text_of(map_html(results.run)).split())  # type: ignore[attr-defined]
