"""A stand-in for the wire between a kernel and a page, and a flusher that runs when a test says so."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import comm
import ipywidgets
import pytest
from comm.base_comm import BaseComm

import epyrpc_widgets.calls
from epyrpc_widgets.live import Flusher, LiveView


class Page(BaseComm):
    """What a page knows of one widget: its state, and the messages that it got."""

    pages: list[Page] = []  # noqa: RUF012 - of all widgets, emptied by the fixture

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: dict[str, Any] = {}
        self.messages: list[dict[str, Any]] = []
        self.buffers: list[Any] = []
        self.sent = 0
        Page.pages.append(self)
        super().__init__(*args, **kwargs)

    def publish_msg(
        self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **keys: Any
    ) -> None:
        """Take a message of the kernel, as it would come out of JSON."""
        data = json.loads(json.dumps(data)) if data else {}
        if msg_type == "comm_open":
            self.state = data["state"]
            return
        self.sent += 1
        if data.get("method") == "update":
            self.state.update(data["state"])
        elif data.get("method") == "custom":
            self.messages.append(data["content"])
            self.buffers.append([bytes(b) for b in buffers or []])

    def say(self, content: dict[str, Any]) -> None:
        """Send the kernel a custom message."""
        self.handle_msg({"content": {"data": {"method": "custom", "content": copy.deepcopy(content)}}, "buffers": []})

    def last(self, kind: str) -> dict[str, Any]:
        """Return the last message of a kind."""
        return next(message for message in reversed(self.messages) if message["kind"] == kind)


class ManualFlusher(Flusher):
    """Makes a round when it is told to, and has no thread."""

    def add(self, view: LiveView) -> None:
        """Look after a view."""
        if view not in self._views:
            self._views.append(view)

    @property
    def views(self) -> list[LiveView]:
        """Return the views that may still change."""
        return list(self._views)


@pytest.fixture
def flusher(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManualFlusher]:
    """Give every widget a page of its own, and a flusher that waits to be told."""
    flusher = ManualFlusher()
    monkeypatch.setattr(comm, "create_comm", Page)
    for module in ("calls", "bodies", "lists", "maps", "monitor", "pools"):
        found = getattr(epyrpc_widgets, module, None)
        if found is not None and hasattr(found, "flusher"):
            monkeypatch.setattr(found, "flusher", flusher)
    Page.pages = []
    yield flusher
    ipywidgets.Widget.close_all()


def page_of(widget: Any) -> Page:
    """Return the page of a widget."""
    found = widget.comm
    assert isinstance(found, Page)
    return found
