"""A function that takes much along is warned of, once; what is passed on purpose is not."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import pytest

from epyrpc import Body, LargeCaptureWarning, doctor

TEXT = (
    r"^{name} takes 2\.0 MB along each time it is sent, its closure 'data' \(bytes\); push it once: "
    r"worker\.push\(data_there=data\), and name data_there in the function instead$"
)


@pytest.mark.parametrize("way", ["set_handler", "call", "submit"])
def test_large_capture_is_warned_of_once_at_the_users_line(
    worker: Body, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_warned", weakref.WeakSet())  # each way is asked about the same code
    data = b"x" * 2_000_000

    def measure() -> int:
        return len(data)

    def use() -> Any:
        if way == "set_handler":
            return worker.set_handler("measure", measure)
        return worker.call(measure) if way == "call" else worker.submit(measure).result()

    with pytest.warns(LargeCaptureWarning, match=TEXT.format(name="measure")) as caught:
        use()
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use()
        worker.restart()


def test_large_arguments_are_not_warned_of(worker: Body) -> None:
    data = b"x" * 2_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert worker.call(len, data) == len(data)
        assert worker.call(lambda x: len(x), data) == len(data)
        worker.push(data_there=data)
        assert worker.call(lambda: len(data_there)) == len(data)  # type: ignore[name-defined]  # noqa: F821 - the body's
