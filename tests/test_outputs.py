"""What a call has put out, as its caller keeps it."""

from __future__ import annotations

from typing import Any

import pytest

import epyrpc
from epyrpc import outputs, results
from epyrpc.outputs import CallOutput


def display(text: str, identifier: str | None = None, kind: str = "display") -> tuple[Any, ...]:
    return {"text/plain": text}, {"m": 1}, {} if identifier is None else {"display_id": identifier}, kind


def said(output: CallOutput) -> list[str]:
    return [entry["text"] if "text" in entry else f"<{entry['data']['text/plain']}>" for entry in output.as_list()]


def test_text_and_displays_keep_their_order_in_the_notebooks_format() -> None:
    output = CallOutput()
    output.add_text("stdout", "a")
    output.add_text("stdout", "b")
    output.add_text("stderr", "c")
    output.add_display(*display("d"))
    output.add_text("stdout", "e")
    assert output.as_list() == [
        {"output_type": "stream", "name": "stdout", "text": "ab"},
        {"output_type": "stream", "name": "stderr", "text": "c"},
        {"output_type": "display_data", "data": {"text/plain": "d"}, "metadata": {"m": 1}},
        {"output_type": "stream", "name": "stdout", "text": "e"},
    ]
    assert (output.text("stdout"), output.text("stderr")) == ("abe", "c")


def test_updates_and_clearing_do_what_a_notebook_does() -> None:
    output = CallOutput()
    output.add_display(*display("first", "x"))
    output.add_text("stdout", "text")
    output.add_display(*display("second", "x", "update"))
    assert said(output) == ["<second>", "text"]
    output.add_display(*display("", None, "clear later"))
    assert said(output) == ["<second>", "text"]
    output.add_text("stdout", "new")
    assert said(output) == ["new"]
    output.add_display(*display("", None, "clear"))
    assert said(output) == []
    assert output.text("stdout") == "textnew"


def test_the_oldest_go_first_and_the_list_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "OUTPUT_LIMIT", 10)
    monkeypatch.setattr(outputs, "DISPLAY_BYTES", 25)
    output = CallOutput()
    for i in range(4):
        output.add_display(*display(str(i) * 10))
        output.add_text("stdout", str(i) * 10)
    assert said(output) == ["[2 earlier displays dropped]\n", "<2222222222>", "<3333333333>", "3333333333"]
    assert output.text("stdout") == "[30 characters dropped]\n3333333333"


def test_a_result_replays_what_it_has_put_out(capsys: pytest.CaptureFixture[str]) -> None:
    def speak() -> None:
        import sys

        sys.stdout.write("one\n")
        sys.stderr.write("two\n")

    with epyrpc.spawn("speaker") as speaker:
        result = speaker.submit(speak)
        result.result(30)
    assert result.outputs == [
        {"output_type": "stream", "name": "stdout", "text": "one\n"},
        {"output_type": "stream", "name": "stderr", "text": "two\n"},
    ]
    capsys.readouterr()
    result.show()
    assert capsys.readouterr() == ("one\n", "two\n")


def test_a_result_without_output_has_none() -> None:
    with epyrpc.spawn("mute", start_method="thread") as mute:
        result = mute.submit(lambda: 1)
        assert result.result(30) == 1
        assert result.outputs == []
        result.show()


def test_displays_are_replayed_as_text_without_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    from epyrpc.transactions import HeadTransactionIdGenerator, TransactionManager

    result: results.AsyncResult = TransactionManager(HeadTransactionIdGenerator()).new("path")
    result._apply_note("display", display("<plot>"))
    result.show()
    assert capsys.readouterr().out == "<plot>\n"
