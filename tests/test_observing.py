"""Observers of calls: what they say is what happened."""

from __future__ import annotations

import gc
import random
from collections import Counter

import pytest

from epyrpc import ApiBase, MemoryTransportDetails, TransportFactory, observe, results, snapshot
from epyrpc.errors import BodyLost, CodecError, NoDataError
from epyrpc.messages import STARTED, Frame
from epyrpc.observing import Observer
from epyrpc.results import AsyncResult, CallState
from epyrpc.snapshots import describe_value
from epyrpc.transactions import HeadTransactionIdGenerator, NeckTransactionIdGenerator, TransactionManager

ENDS = ("release", "fail", "cancel", "expire", "lose")


def manager() -> TransactionManager:
    return TransactionManager(HeadTransactionIdGenerator())


def move(calls: TransactionManager, result: AsyncResult, how: str) -> CallState:
    """Do to a call what the other end, or a person, does; return its state then."""
    if how == "start":
        calls.deliver(Frame(STARTED, 0, result._tid, "", None, b"", []))
        return CallState.RUNNING
    if how == "release":
        calls.release(result.id, 1)
        return CallState.DONE
    if how == "fail":
        calls.release(result.id, ValueError("no"))
        return CallState.FAILED
    if how == "cancel":
        result.cancel()
        return CallState.CANCELLED
    if how == "expire":
        calls.expire(result, 1.0)
        return CallState.TIMED_OUT
    calls._retire(result._tid, CallState.LOST, BodyLost("body 'w' was stopped"))
    return CallState.LOST


def test_ten_thousand_random_transitions_are_told_as_they_happened() -> None:
    dice = random.Random(7)
    calls = manager()
    expected: dict[str, CallState] = {}
    living: list[AsyncResult] = []
    with observe(limit=20_000) as observer:
        for step in range(10_000):
            if not living or dice.random() < 0.45:
                result = calls.new(f"path{dice.randrange(5)}")
                living.append(result)
                expected[str(result.id)] = CallState.PENDING
            else:
                result = dice.choice(living)
                how = dice.choice(("start", *ENDS))
                expected[str(result.id)] = move(calls, result, how)
                if how != "start":
                    living.remove(result)
            if step % 97 == 0:
                observer.poll()
                observer.validate()
        observer.poll()
        observer.validate()
        assert {record.id: record.state for record in observer} == expected
        assert +observer.counts == Counter(expected.values())
        assert observer.dropped == 0


def test_calls_that_nobody_asks_after_are_told_as_they_happened() -> None:
    dice = random.Random(8)
    calls = manager()
    expected: dict[str, CallState] = {}
    living: list[AsyncResult] = []
    held: list[AsyncResult] = []
    with observe(limit=20_000) as observer:
        for _ in range(12_000):  # enough for several looks by who makes them
            if len(living) < 700 or dice.random() < 0.4:
                living.append(calls.new(f"path{dice.randrange(5)}"))
                expected[str(living[-1].id)] = CallState.PENDING
                continue
            result = living.pop(dice.randrange(len(living)))
            expected[str(result.id)] = move(calls, result, dice.choice(("release", "release", *ENDS)))
            if dice.random() < 0.1:
                held.append(result)
            del result
        assert len(observer._new) < 1_000
        observer.poll()
        observer.validate()
        assert {record.id: record.state for record in observer} == expected
        assert +observer.counts == Counter(expected.values())
        found = {record.id: record.call for record in observer}
        assert all(found[str(result.id)] is result for result in (*held, *living))
        gc.collect()  # an error and its traceback hold each other
        last = [observer.last(f"path{n}") for n in range(5)]
        known = {id(call) for call in (*held, *living, *last)}
        still = {id(record.call) for record in observer if record.state is CallState.DONE and record.call is not None}
        assert still <= known
        assert known <= {id(call) for _, call in observer.held()}


def test_what_was_told_as_being_under_way_is_told_of_again_or_is_gone() -> None:
    calls = manager()
    with observe(limit=10) as observer:
        ends, unsent, lasts = calls.new("a"), calls.new("b"), calls.new("c")
        observer.take()
        calls.release(ends.id, None)
        calls.forget(unsent)
        observer.look()
        for _ in range(20):
            calls.release(calls.new("d").id, None)  # drive the first one out before it is told of
        gone = [*observer.take().gone, *observer.take().gone]
        assert sorted(gone) == [1, 2]
        assert [record.path for record in observer.under_way()] == ["c"]
        assert lasts.state is CallState.PENDING


def test_each_change_is_told_once() -> None:
    calls = manager()
    with observe() as observer:
        result = calls.new("a.b")
        assert [r.state for r in observer.poll()] == [CallState.PENDING]
        assert observer.poll() == []
        move(calls, result, "start")
        assert [r.state for r in observer.poll()] == [CallState.RUNNING]
        assert observer.poll() == []
        move(calls, result, "fail")
        assert [(r.state, r.error) for r in observer.poll()] == [(CallState.FAILED, "ValueError: no")]
        assert observer.poll() == []


def test_old_records_go_and_running_ones_stay() -> None:
    calls = manager()
    with observe(limit=10) as observer:
        running = calls.new("long")
        for _ in range(100):
            calls.release(calls.new("short").id, None)
        observer.poll()
        observer.validate()
        assert len(observer.records()) == 11
        assert observer.records()[0].id == str(running.id)
        assert observer.dropped == 90
        assert observer.counts[CallState.DONE] == 100
        observer.clear()
        assert [record.path for record in observer] == ["long"]
        assert +observer.counts == {CallState.PENDING: 1}


@pytest.mark.capability("X36")
def test_results_are_not_kept_alive_but_for_the_last_of_a_path() -> None:
    calls = manager()
    with observe() as observer:
        for value in range(3):
            calls.release(calls.new("a").id, value)
        observer.poll()
        gc.collect()
        assert [record.call is None for record in observer] == [True, True, False]
        last = observer.last("a")
        assert last is not None
        assert last.result() == 2
        assert observer.last("b") is None


def test_calls_wait_to_be_looked_at_in_bounded_number() -> None:
    calls = manager()
    with observe(limit=5) as observer:
        for _ in range(10_050):
            calls.release(calls.new("a").id, None)
        assert len(observer._new) <= 10_000


def test_a_reply_that_cannot_be_decoded_becomes_a_failure() -> None:
    class Bad:
        def __reduce__(self) -> object:
            return (int, ("no number",))

    calls = manager()
    with observe() as observer:
        result = calls.new("a")
        calls.release(result.id, Bad())
        assert [r.state for r in observer.poll()] == [CallState.DONE]
        with pytest.raises(CodecError, match="no number"):
            result.result()
        assert [r.state for r in observer.poll()] == [CallState.FAILED]
        assert observer.counts[CallState.DONE] == 0


def test_a_call_that_was_never_sent_leaves_no_record() -> None:
    calls = manager()
    with observe() as observer:
        result = calls.new("a")
        observer.poll()
        calls.forget(result)
        observer.poll()
        observer.poll()
        assert observer.records() == []
        assert not +observer.counts


def test_nobody_is_asked_when_nobody_observes() -> None:
    first, second = observe(), observe()
    manager().new("a")
    first.close()
    first.close()
    manager().new("b")
    assert [r.path for r in first.poll()] == ["a"]
    assert [r.path for r in second.poll()] == ["a", "b"]
    second.close()
    assert results.watch is None


def test_calls_and_events_of_both_ends_are_seen() -> None:
    details = MemoryTransportDetails()
    head_ipc = TransportFactory.get(details, manager())
    neck_ipc = TransportFactory.get(details.invert(), TransactionManager(NeckTransactionIdGenerator()))

    class Neck(ApiBase):
        def _handler_half(self, x: int) -> float:
            if x < 0:
                raise ValueError("negative")
            return x / 2

        def _handler_note(self, x: int) -> None:
            assert x == 5

    with observe() as observer:
        head, neck = ApiBase("t", ipc=head_ipc), Neck("t", ipc=neck_ipc)
        head_ipc.connect()
        neck_ipc.connect()
        assert head.half(4)() == 2
        with pytest.raises(ValueError, match="negative"):
            head.half(-1)()
        head.note(5)(solicited=False)
        assert head.half(6)() == 3  # one worker, in order: the event is over
        for node in (head, neck):
            node.teardown()
        for ipc in (head_ipc, neck_ipc):
            ipc.close()
        observer.poll()
        seen = Counter((r.incoming, r.event, r.path.rpartition(".")[2], str(r.state)) for r in observer)
    assert seen[(False, False, "half", "done")] == seen[(True, False, "half", "done")] == 2
    assert seen[(False, False, "half", "failed")] == seen[(True, False, "half", "failed")] == 1
    assert seen[(False, True, "note", "done")] == seen[(True, True, "note", "done")] == 1
    failed = next(r for r in observer if r.incoming and r.state is CallState.FAILED)
    assert failed.error == "ValueError: negative"
    assert failed.waited is not None
    assert 0 <= failed.waited <= failed.elapsed


def test_snapshot_of_a_call_that_prints_and_counts() -> None:
    calls = manager()
    result = calls.new("fit.decay")
    result.target = "worker"
    result._apply_note("output", ("stdout", "one\ntwo\n"))
    move(calls, result, "start")
    seen = snapshot(result)
    assert (seen.state, seen.path, seen.target) == (CallState.RUNNING, "fit.decay", "worker")
    assert seen.detail.endswith("two")
    before = seen.output
    result._apply_note("output", ("stdout", "three\n"))
    result._apply_note("progress", (3, 50, None, None))
    seen = snapshot(result)
    assert seen.output > before
    assert seen.progress is not None
    assert seen.detail == "3/50"
    with pytest.raises(NoDataError):
        manager().get_result(result.id)


def test_the_repr_of_a_large_value_is_not_made_whole() -> None:
    assert len(describe_value(list(range(10_000_000)))) < 50_000
    assert len(describe_value("x" * 10_000_000)) < 50_000


def test_limit_of_an_observer() -> None:
    assert Observer().limit == 10_000
