"""Every state of every view, in each theme and width: nothing sticks out, nothing complains; the pictures are kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import gallery, scenes
from tests.browser.lab import CHROMIUM_FLAGS

SCENES = {
    "calls": scenes.calls,
    "opened": scenes.opened,
    "gathered": lambda: [scenes.gathered()],
    "maps": scenes.maps,
    "cards": scenes.cards,
    "monitor": scenes.monitor,
}
FAILED = '.epy-item[data-state="failed"]'

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS, headless=True)
        yield started
        started.close()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    heard: list[str] = []
    yield heard
    assert heard == []


def new_page(browser: Any, complaints: list[str], width: int, **options: Any) -> Any:
    """Open a page that notes what its console complains of."""
    page = browser.new_page(viewport={"width": width, "height": 300}, **options)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    return page


@pytest.mark.parametrize(
    ("theme", "width"),
    [("light", 600), *itertools.product(["light", "dark", "contrast", "forced"], [2000, 900, 400])],
)
def test_pictures(browser: Any, complaints: list[str], repository: Path, theme: str, width: int) -> None:
    folder = repository / "build" / "screenshots" / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    forced = {"forced_colors": "active"} if theme == "forced" else {}
    page = new_page(browser, complaints, width, device_scale_factor=1.5, **forced)
    for name, scene in SCENES.items():
        gallery.show(page, "contrast" if theme == "forced" else theme, scene())
        if name == "monitor":
            page.locator(FAILED).first.click()
            page.evaluate(gallery.SETTLED)
        assert page.evaluate(gallery.STICKING_OUT) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        (folder / f"{name}-{theme}-{width}.png").write_bytes(page.screenshot(full_page=True))
    page.close()


@pytest.mark.parametrize("width", [900, 600])
def test_a_path_is_not_cut_while_there_is_room(browser: Any, complaints: list[str], width: int) -> None:
    page = new_page(browser, complaints, width)
    gallery.show(page, "light", scenes.calls())
    cut = "nodes => nodes.filter(n => n.scrollWidth > n.clientWidth + 1).map(n => n.textContent)"
    assert page.locator(".epy-path").evaluate_all(cut) == []
    page.close()


def test_the_timeline_has_the_workers_lanes(browser: Any, complaints: list[str]) -> None:
    page = new_page(browser, complaints, 900)
    gallery.show(page, "light", scenes.monitor())
    lanes = page.evaluate("pieces[0].place.firstChild.timeline().lines")
    workers = [f"worker·{n}" for n in range(1, 5)]
    assert lanes == ["crunch_1", "crunch_2", *workers, "events", "here"]
    page.close()


def test_the_timeline_is_panned_zoomed_and_followed(browser: Any, complaints: list[str]) -> None:
    from playwright.sync_api import expect

    page = new_page(browser, complaints, 900)
    monitor = scenes.monitor()
    page.clock.set_fixed_time(1000 * monitor[0].replies["hello"][0][0]["now"])  # no call leaves the window meanwhile
    gallery.show(page, "light", monitor)
    follow = page.get_by_role("button", name="Follow")
    window = lambda: page.evaluate("pieces[0].place.firstChild.timeline()")  # noqa: E731 - shorter to read below
    assert window()["until"] is None
    assert window()["span"] == 10

    canvas = page.locator(".epy-canvas")
    canvas.focus()
    canvas.press("ArrowLeft")
    expect(follow).to_have_attribute("aria-pressed", "false")
    canvas.press("+")
    assert window()["span"] == 5
    canvas.press("-")
    canvas.press("ArrowDown")
    expect(page.locator(".epy-monitor > .epy-hidden[aria-live]")).to_have_text("lane crunch_1, 6 calls")
    follow.click()
    expect(follow).to_have_attribute("aria-pressed", "true")

    box = page.locator(".epy-overview").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] - 60, middle)  # inside the window, which is dragged to the left
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 260, middle, steps=4)
    page.mouse.up()
    expect(follow).to_have_attribute("aria-pressed", "false")
    page.evaluate(gallery.SETTLED)  # its edge is where it was drawn last
    before = window()
    assert before["span"] == 10
    left = page.evaluate("pieces[0].place.firstChild.timeline().left")
    page.mouse.move(box["x"] + left, middle)  # its left edge
    page.mouse.down()
    page.mouse.move(box["x"] + left - 100, middle, steps=4)
    page.mouse.up()
    assert window()["span"] > 15
    assert window()["until"] == before["until"]
    page.close()


def test_a_detail_that_is_not_known_any_more_says_so(browser: Any, complaints: list[str]) -> None:
    from playwright.sync_api import expect

    page = new_page(browser, complaints, 900)
    (piece,) = scenes.monitor()
    del piece.replies["look"]
    gallery.show(page, "light", [piece])
    page.locator(FAILED).first.click()
    side = page.locator(".epy-side")
    expect(side).to_contain_text("RuntimeError: Optimal parameters")
    number = page.evaluate("pieces[0].heard.find(content => content.kind === 'look').number")
    page.evaluate("number => pieces[0].say([{ kind: 'detail', number, detail: null, can_retry: false }, null])", number)
    expect(side).to_contain_text("Its result has been let go, so there is no more to tell.")
    page.close()


def test_keys_reach_the_table_and_its_filters(browser: Any, complaints: list[str]) -> None:
    from playwright.sync_api import expect

    page = new_page(browser, complaints, 900)
    gallery.show(page, "light", scenes.monitor())
    grid = page.get_by_role("grid")
    grid.focus()
    grid.press("ArrowDown")
    grid.press("End")
    expect(page.locator('.epy-item[aria-selected="true"]')).to_have_count(1)
    grid.press("/")
    search = page.get_by_role("searchbox")
    expect(search).to_be_focused()
    search.fill("model.fit")
    expect(page.locator(".epy-item:visible")).to_have_count(1)
    search.press("Escape")
    expect(grid).to_be_focused()
    search.fill("nothing like it")
    expect(page.locator(".epy-empty")).to_contain_text("Nothing matches.")
    page.get_by_role("button", name="Clear filters").click()
    expect(grid).to_have_attribute("aria-rowcount", "143")
    page.close()


def test_rows_say_to_a_reader_what_they_show(browser: Any, complaints: list[str]) -> None:
    page = new_page(browser, complaints, 900)
    gallery.show(page, "light", [*scenes.calls(), *scenes.maps()])
    labels = page.locator(".epy-head").evaluate_all("nodes => nodes.map(n => n.getAttribute('aria-label'))")
    assert labels[5] == "failed, fit.decay on worker, 842 milliseconds"
    assert labels[8] == "lost, simulate.cascade on crunch_2, 48.3 seconds"
    bars = page.get_by_role("progressbar").evaluate_all("nodes => nodes.map(n => n.getAttribute('aria-valuetext'))")
    assert bars[0] == "34 of 50, about 1 second left"
    assert page.locator(".epy-listhead").first.get_attribute("aria-expanded") == "true"
    page.close()
