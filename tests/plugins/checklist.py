"""The checklist's rows beside the tests that prove them; `make checklist` prints the table.

A test says which rows it proves with ``@pytest.mark.capability("S3a", "E12")``, or by its name: ``test_s3a_...``. Cells
of notebooks count for the rows that say ``notebooks = true`` in ``tests/checklist.toml``. Either way the test carries
the mark, so ``pytest -m capability`` selects the tests of the checklist. A mark that names no row is an error, always.

With ``--checklist`` the run ends with the table, and fails when a row that is not deferred has a failing test or no
test that ran.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROWS_FILE = Path(__file__).resolve().parent.parent / "checklist.toml"

_NAMED = re.compile(r"^test_([mstexd]\d+[a-z]?)(?=_|$|\[)")


@dataclass
class Row:
    """One promised capability and what its tests did."""

    id: str
    table: str
    text: str
    deferred: str = ""  # why there is nothing to test yet
    later: str = ""  # the part that a later issue brings; the rest is tested now
    notebooks: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)  # {outcome: tests}

    @property
    def status(self) -> str:
        """One of: pass, FAIL, no test, not yet built."""
        if self.outcomes["failed"]:
            return "FAIL"
        if self.outcomes["passed"]:
            return "pass"
        return "not yet built" if self.deferred else "no test"

    @property
    def kept(self) -> bool:
        """Whether the promise is kept, or is not this version's."""
        return self.status == "pass" or (self.status == "not yet built")

    def line(self) -> str:
        """Return the row as the table shows it."""
        counts = [f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()) if count and outcome]
        remark = f" ({self.deferred})" if self.deferred else f" (later: {self.later})" if self.later else ""
        return f"  {self.id:<5} {self.status:<14} {', '.join(counts):<22} {self.text}{remark}".rstrip()


def read_rows(path: Path = ROWS_FILE) -> dict[str, Row]:
    """Read the rows; a second row of the same id, or an unknown key, is an error."""
    rows: dict[str, Row] = {}
    for table in tomllib.loads(path.read_text(encoding="utf-8"))["table"]:
        for entry in table["rows"]:
            row = Row(table=table["title"], **entry)
            if row.id in rows:
                raise ValueError(f"{path.name}: two rows are called {row.id}")
            rows[row.id] = row
    return rows


def add_options(parser: pytest.Parser) -> None:
    """Add ``--checklist``."""
    parser.getgroup("epyrpc").addoption(
        "--checklist",
        action="store_true",
        help="end with the table of the checklist's rows; fail when one of them fails or has no test",
    )


class Checklist:
    """The plugin: marks, outcomes, table."""

    def __init__(self, config: pytest.Config) -> None:
        self.rows = read_rows()
        self.wanted = config.getoption("--checklist")
        self._by_name = {row_id.lower(): row_id for row_id in self.rows}
        self._seen: dict[str, tuple[tuple[str, ...], str]] = {}  # {nodeid: (row ids, outcome)}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Give each test its rows, before pytest selects by mark."""
        unknown = []
        for item in items:
            named = [row_id for marker in item.iter_markers("capability") for row_id in marker.args]
            unknown += [f"{item.nodeid}: {row_id!r}" for row_id in named if row_id not in self.rows]
            named += [row_id for row_id in self._implied(item) if row_id not in named]
            if named:
                item.add_marker(pytest.mark.capability(*named))
                item.stash[_rows] = tuple(dict.fromkeys(named))
        if unknown:
            raise pytest.UsageError(f"no such row in {ROWS_FILE.name}: " + "; ".join(unknown))

    def _implied(self, item: pytest.Item) -> list[str]:
        if item.path.suffix == ".ipynb":
            return [row.id for row in self.rows.values() if row.notebooks]
        match = _NAMED.match(item.name)
        row_id = self._by_name.get(match[1]) if match else None
        return [row_id] if row_id else []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        """Write the rows into the report, which xdist carries to the controller."""
        report = yield
        report.capability = list(item.stash.get(_rows, ()))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test's worst phase."""
        rows = tuple(getattr(report, "capability", ()))
        if not rows:
            return
        before = self._seen.get(report.nodeid, (rows, "passed"))[1]
        now = report.outcome if report.when == "call" or report.outcome != "passed" else before
        worst = before if before == "failed" or (before == "skipped" and now == "passed") else now
        self._seen[report.nodeid] = (rows, worst)

    def _count(self) -> None:
        for row in self.rows.values():
            row.outcomes.clear()
        for rows, outcome in self._seen.values():
            for row_id in rows:
                self.rows[row_id].outcomes[outcome] += 1

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Fail a run of which the table shows a promise not kept."""
        self._count()
        if not self.wanted or hasattr(session.config, "workerinput"):  # an xdist worker sees only its part
            return
        if exitstatus in (0, pytest.ExitCode.NO_TESTS_COLLECTED) and not all(row.kept for row in self.rows.values()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table."""
        if not self.wanted:
            return
        table = ""
        terminalreporter.section("checklist")
        for row in self.rows.values():
            if row.table != table:
                table = row.table
                terminalreporter.write_line(table, bold=True)
            terminalreporter.write_line(row.line(), red=not row.kept, green=row.status == "pass")
        totals = Counter(row.status for row in self.rows.values())
        summary = ", ".join(f"{totals[status]} {status}" for status in _STATUSES if totals[status])
        terminalreporter.write_line(f"{len(self.rows)} rows: {summary}", bold=True)


_STATUSES = ("pass", "FAIL", "no test", "not yet built")
_rows = pytest.StashKey["tuple[str, ...]"]()
