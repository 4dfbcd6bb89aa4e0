"""What the gallery shows: every state of every view."""

from __future__ import annotations

import time
from typing import Any

from epyrpc_widgets.live import module, styles
from tests.browser.gallery import Piece

ERROR = "RuntimeError: Optimal parameters not found: Number of calls to function has reached maxfev = 800."
SOURCE = [
    [5, '    t, counts = run["t"], run["counts"]'],
    [6, "    guess = (counts.max(), 1.0, counts.min())"],
    [7, "    popt, pcov = curve_fit(model, t, counts, p0=guess)"],
    [8, '    return pd.Series(popt, ["A", "tau", "offset"])'],
]
PRINTED = "".join(f"chunk {n}/40\n" for n in range(1, 39)) + (
    "resampling 2,000 × 4,096 counts\n\x1b[32mok\x1b[0m    chunk 7/8   \x1b[2m0.61 s\x1b[0m\n"
    "\x1b[32mok\x1b[0m    chunk 8/8   \x1b[2m0.60 s\x1b[0m\n"
    "\x1b[1;33mwarning\x1b[0m 3 resamples hit the bound \x1b[36mtau > 0\x1b[0m and were dropped\n"
)
TABLE = (
    "<table class='dataframe'><thead><tr><th></th><th>median</th><th>2.5 %</th></tr></thead><tbody>"
    "<tr><th>A</th><td>412.6</td><td>405.1</td></tr><tr><th>tau</th><td>2.310</td><td>2.228</td></tr></tbody></table>"
)


def row(state: str, path: str, identifier: str, seconds: float, **more: Any) -> dict[str, Any]:
    """Return a call's row, as a view's trait has it."""
    ended = state not in ("pending", "running", "streaming")
    return {
        "state": state,
        "id": identifier,
        "path": path,
        "target": "worker",
        "started": time.time() - seconds,
        "elapsed": seconds if ended else 0.0,
        "ended": ended,
        "text": "",
        "progress": None,
        "parts": 0,
        "unread": 0,
        "bytes": 0,
        "button": "" if state == "done" else "retry" if ended else "cancel",
        "retry_of": None,
        "final": ended,
        **more,
    }


def call(shown: dict[str, Any], detail: dict[str, Any] | None = None) -> Piece:
    """Return a row on its own, opened if its details are given."""
    piece = Piece(module("row", "call"), styles("call"), {"row": shown, "retries": []})
    if detail is not None:
        full = {"args": None, "args_note": "", "outputs": [], "result": None, "error": None, "timings": [], **detail}
        piece.replies["open"] = [[{"kind": "full", "now": time.time(), "detail": full}, None]]
        piece.opened = ".epy-head"
    return piece


def states() -> list[dict[str, Any]]:
    """Return a row in each state."""
    return [
        row("pending", "fit.decay", "H131", 0.2, text="2nd in line"),
        row("running", "bootstrap.median", "H128", 2.2, progress=[34, 50, 12.4, 1.3]),
        row("running", "load.readings", "H127", 8.1, text="› reading run_07.parquet"),  # noqa: RUF001
        row("streaming", "rows.filtered", "H125", 12.5, parts=1204, bytes=41_200_000),
        row("done", "fit.decay", "H121", 1.24, text="Series (3): A=412.6, tau=2.31, offset=8.0"),
        row("failed", "fit.decay", "H122", 0.842, text=ERROR),
        row("timed out", "simulate.cascade", "H124", 30.0, text="limit 30 s · handler interrupted"),
        row("cancelled", "bootstrap.median", "H126", 2.71, text="by you · handler stopped itself"),
        row("lost", "simulate.cascade", "H119", 48.3, text="body died: signal 9 (SIGKILL)", target="crunch_2"),
    ]


def calls() -> list[Piece]:
    """Picture 01 of the looks."""
    frames = [
        {"place": "Cell [5]", "line": 7, "function": "decay", "source": SOURCE},
        {"folded": ["minpack_py.py, line 983, in curve_fit\n    raise RuntimeError"], "where": "scipy/_minpack_py.py"},
    ]
    error = {"message": ERROR, "frames": frames, "drawn": "", "text": "…", "where": "raised in body worker"}
    opened = call(row("failed", "fit.decay", "H132", 0.842, text=ERROR), {"error": error})
    return [*map(call, states()), opened]


def opened() -> list[Piece]:
    """Picture 02."""
    detail = {
        "args": [["counts", "ndarray (4096,) float64"], ["resamples", "2000"], ["seed", "7"]],
        "outputs": [{"output_type": "stream", "name": "stdout", "text": PRINTED}],
        "result": {"data": {"text/html": TABLE}, "metadata": {}, "caption": "DataFrame 2 × 2 · 232 B"},
        "timings": [["encode", 0.0004], ["send", 0.0001], ["wait", 0.812], ["run", 5.21], ["reply", 0.0013]],
        "facts": "handler worker 2 of 4 · sent 32.9 kB · received 488 B",
    }
    return [call(row("done", "bootstrap.median", "H128", 6.02, text="DataFrame 2 × 2"), detail)]


def gathered() -> Piece:
    """Twelve calls of picture 03."""
    done = [row("done", "fit.decay", f"H{140 + n}", 1.2 + n / 100, text=f"tau=2.3{n} ± 0.04") for n in range(6)]
    failed = row("failed", "fit.decay", "H146", 0.842, text=ERROR)
    running = [row("running", "fit.decay", f"H{147 + n}", 0.8, progress=[34 - 9 * n, 50, 41, 0.6]) for n in range(3)]
    rows = [*done[:3], failed, *done[3:], *running, *[row("pending", "fit.decay", f"H{150 + n}", 0.8) for n in (0, 1)]]
    summary = {
        "counts": {"pending": 2, "running": 3, "done": 6, "failed": 1},
        "total": 12,
        "started": time.time() - 3.4,
        "elapsed": 0.0,
        "over": False,
        "retry": 0,
        "hidden": 0,
    }
    full = {"kind": "full", "now": time.time(), "rows": dict(enumerate(rows))}
    return Piece(
        module("row", "total", "list"), styles("call", "list"), {"summary": summary}, {"hello": [[full, None]]}
    )


def body(state: str = "running", **more: Any) -> Piece:
    """A card of picture 04."""
    alive = state == "running"
    card = {
        "name": "worker",
        "state": state,
        "pid": 4242 if alive or state == "stopping" else None,
        "thread": False,
        "transport": "queue",
        "started": time.time() - 724,
        "lived": 192.0,
        "last_pid": 4377,
        "ended": time.time() - 60,
        "workers": 4,
        "busy": 4 if alive else 0,
        "waiting": 12 if alive else 0,
        "calls": 1284,
        "rate": 48.0,
        "cpu": [80 + 13 * (n % 5) for n in range(50)] + [87],
        "rss": [700_000_000 + 2_000_000 * n for n in range(56)] + [812_000_000],
        "paths": ["fit.decay", "fit.linear", "bootstrap.median", "load.readings", "rows.filtered"],
        "more_paths": 3,
        "handlers": 8,
        "exitcode": None,
        "why": "",
        "earlier_lines": 0,
        "last_lines": ["fit.py:41: RuntimeWarning: overflow encountered in exp"],
        "stopping_since": 0.0,
        "stop_seconds": 5.0,
        **more,
    }
    return Piece(module("spark", "body"), styles("body"), {"card": card})


def cards() -> list[Piece]:
    """Picture 04."""
    members = [
        {"name": f"crunch_{n}", "state": "running", "pid": 5010 + n, "busy": True, "done": 160 + n, "cpu": 99,
         "rss": 412_000_000, "now": "simulate", "items": [632 + 8 * n, 639 + 8 * n], "since": time.time() - 1.2,
         "replaces": ""}
        for n in range(1, 4)
    ]  # fmt: skip
    members.append(
        {"name": "crunch_4", "state": "starting", "pid": 5190, "busy": False, "done": 0, "cpu": 4, "rss": 38_000_000,
         "now": "", "items": None, "since": 0.0, "replaces": "replaces pid 5014, signal 11 (SIGSEGV)"}
    )  # fmt: skip
    pool = {
        "name": "crunch",
        "state": "running",
        "processes": 4,
        "transport": "queue",
        "started": time.time() - 220,
        "busy": 3,
        "queued": 42,
        "done": 650,
        "rate": 48.2,
        "cpu": [2.8 + 0.1 * (n % 4) for n in range(50)] + [2.96],
        "rss": [1_200_000_000 + 1_000_000 * n for n in range(50)] + [1_270_000_000],
        "members": members,
    }
    words = [
        "loading model.npz (1.9 GB)",
        "\x1b[33mUserWarning\x1b[0m: float32 input promoted to float64",
        "cascade 3/20",
    ]
    why = "signal 9 (SIGKILL), often the out-of-memory killer · 3 calls lost, simulate.cascade was running"
    return [
        body(),
        Piece(module("spark", "pool"), styles("body", "pool"), {"card": pool}),
        body("stopping", busy=2, stopping_since=time.time() - 0.1),
        body("died", why=why, exitcode=-9, last_lines=words, earlier_lines=211),
    ]


def monitor() -> list[Piece]:
    """Picture 05."""
    now = time.time()
    words = ["H", "N", "worker", "crunch_1", "crunch_2", "fit.decay", "bootstrap.median", "simulate", "ask.rate"]
    words += ["model.fit", "training.epoch"]
    numbers: list[float] = []
    count = 0

    def add(
        path: str, target: str, state: int, ago: float, waited: float, ran: float, worker: int = 0, **bits: int
    ) -> None:
        nonlocal count
        count += 1
        code = state + 8 * bits.get("incoming", 0) + 16 * bits.get("event", 0)
        size = 0 if bits.get("event") else 48 + 997 * (count % 70)
        numbers.extend([count, bits.get("incoming", 0), 14_700 + count, words.index(path), words.index(target), code,
                        now - ago, waited, waited + ran, worker + 1, size])  # fmt: skip

    for n in range(110):  # older than what the timeline shows
        add("fit.decay", "worker", 3, 58 - 0.45 * n, 0.01, 0.3, n % 3)
        if n % 40 == 20:
            add("fit.decay", "worker", 4, 58 - 0.45 * n, 0.01, 0.3, 1)
    for n in range(4):
        add("bootstrap.median", "worker", 3, 9.8 - 1.6 * n, 0.1, 1.3, 0)
        add("fit.decay", "worker", 3, 9.7 - 1.1 * n, 0.05, 0.8, 1)
        add("training.epoch", "worker", 3, 8.5 - 1.3 * n, 0, 0, event=1)
    for n in range(14):
        add("simulate", f"crunch_{1 + n % 2}", 3, 9.6 - 0.6 * n, 0.01, 0.95)
    add("simulate", "crunch_2", 7, 0.8, 0.01, 0.63)
    add("bootstrap.median", "worker", 6, 8.4, 0.2, 2.3, 2)
    add("fit.decay", "worker", 4, 5.2, 0.14, 0.842, 1)
    add("bootstrap.median", "worker", 5, 3.8, 0.31, 2.0, 3)
    add("ask.rate", "worker", 3, 4.0, 0.0002, 0.081, 0, incoming=1)
    add("model.fit", "worker", 1, 3.5, 0.002, 0, 0)
    add("ask.rate", "worker", 1, 3.1, 0.0003, 0, 0, incoming=1)
    add("fit.decay", "worker", 0, 3.0, -1, 0)
    summary = {
        "counts": [12, 8, 1, 14_806, 3, 1, 2, 1],
        "events": 4,
        "dropped": 4_834,
        "since": now - 1500,
        "limit": 10_000,
        "rates": [[11 + n % 3, 0.5 + 0.02 * (n % 5), 2.0 + (n % 9) / 9] for n in range(60)],
        "workers": {"worker": 4, "crunch_1": 1, "crunch_2": 1},
    }
    failed = next(i for i in range(0, len(numbers), 11) if numbers[i + 5] == 4 and numbers[i + 8] > 0.9)
    waits = {
        "title": "3 calls wait for one another", "seconds": 3, "cancel": "H14833", "deadlock": False, "show": "H14830",
        "chain": "H14830 model.fit on worker → N77 ask.rate on head → H14833 fit.rate no free handler on worker",
    }  # fmt: skip
    full = {
        "kind": "full",
        "now": now,
        "first_word": 0,
        "words": words,
        "errors": {int(numbers[failed]): ERROR},
        "summary": summary,
        "waits": waits,
    }
    detail = {"args": [["readings", "DataFrame 4096 × 2"], ["p0", "None"]], "outputs": [], "result": None,
              "error": {"message": ERROR, "frames": [], "drawn": "", "text": "…", "where": ""},
              "timings": [["encode", 0.0006], ["send", 0.0001], ["wait", 0.141], ["run", 0.842], ["reply", 0.0009]],
              "facts": "handler worker 2"}  # fmt: skip
    look = [[{"kind": "detail", "number": int(numbers[failed]), "detail": detail, "can_retry": True}, None]]
    replies = {"hello": [[full, numbers]], "look": look}
    return [Piece(module("store", "timeline", "spark", "monitor"), styles("monitor"), {"summary": summary}, replies)]


def maps() -> list[Piece]:
    """The maps of picture 03: open, and finished."""

    def piece(state: str, done: int, failed: int = 0, opened: bool = False) -> Piece:
        over = state != "running"
        summary = {
            "state": state,
            "path": "simulate",
            "pool": "crunch",
            "processes": 4,
            "counts": {"done": done - failed, "failed": failed, "running": 0 if over else 32},
            "tally": {"failed": failed} if failed else {},
            "total": 1000,
            "started": time.time() - 13.5,
            "elapsed": 20.6 if over else 0.0,
            "over": over,
            "note": "results 0–631 handed over in order · chunks of 8, chosen from a run time of 82 ms an item · "
            "1 item ran again after `crunch_4` died",
        }
        bodies = [
            {
                "body": f"crunch_{n + 1}",
                "items": None if over else [632 + 8 * n, 639 + 8 * n],
                "at": 7 - 2 * n,
                "done": 172 - 4 * n,
                "cpu": 99 - n,
            }
            for n in range(4)
        ]
        return Piece(
            module("row", "total", "map"),
            styles("call", "list"),
            {"summary": summary, "bodies": bodies},
            opened=".epy-listhead" if opened else "",
        )

    return [piece("running", 650, opened=True), piece("done", 1000), piece("failed", 400, 1), piece("cancelled", 300)]
