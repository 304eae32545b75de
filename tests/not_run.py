"""The pytest plugin that lets nothing be left out unsaid: it lists what did not run, and forbids it in CI."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests import needs


def in_ci() -> bool:
    """Whether this run is CI's, where a test that did not run is a failure."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def needed(item: pytest.Item) -> set[str]:
    """The tools that a test declares by marker or by fixture."""
    named = {name for mark in item.iter_markers("needs") for name in mark.args}
    return named | {needs.FIXTURES[f] for f in getattr(item, "fixturenames", ()) if f in needs.FIXTURES}


class NotRun:
    """One run's account. With xdist each worker keeps one and hands it to the process that sums up."""

    def __init__(self, ci: bool) -> None:
        self.ci = ci
        self.left_out: dict[str, list[str]] = {}  # tool -> the tests that were not run for want of it
        self.skipped: list[str] = []

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Takes out what cannot run here; in CI everything stays in, and fails."""
        if self.ci:
            return
        out: list[pytest.Item] = []
        for item in items:
            absent = needs.missing(needed(item))
            for name in absent:
                self.left_out.setdefault(name, []).append(item.nodeid)
            if absent:
                out.append(item)
        if out:
            config.hook.pytest_deselected(items=out)
            items[:] = [item for item in items if item not in out]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A missing tool fails each test that needs it, before any of its fixtures starts."""
        for name, tool in needs.missing(needed(item)).items():
            pytest.fail(f"needs `{name}`, which is not on this machine: {tool.install}", pytrace=False)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remembers a test that skipped itself."""
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remembers a module that skipped itself."""
        if report.skipped:
            self.skipped.append(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Takes over a worker's list; each worker collects every test, so one list is all of them."""
        self.left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A worker hands over its list. In CI a run with skips has failed, however green the rest."""
        handed_over = getattr(session.config, "workeroutput", None)
        if handed_over is not None:
            handed_over["left_out"] = self.left_out
        elif self.ci and self.skipped and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Names what was not run, and how to have it run next time."""
        if not self.left_out and not self.skipped:
            return
        terminalreporter.section("NOT RUN", red=self.ci, yellow=not self.ci)
        for name, tests in sorted(self.left_out.items()):
            terminalreporter.line(f"{len(tests)} tests need `{name}`: {needs.TOOLS[name].install}")
            for test in tests:
                terminalreporter.line(f"  {test}")
        for test in self.skipped:
            terminalreporter.line(f"{test} skipped itself")
        if self.ci:
            terminalreporter.line("CI is set: what is not run counts as failed")
