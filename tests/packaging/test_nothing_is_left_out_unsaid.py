"""The plugin of tests/not_run.py, on small suites of their own, with and without CI and xdist."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CONFTEST = """
import pytest
from tests import needs
from tests.not_run import NotRun, in_ci

def pytest_configure(config):
    needs.TOOLS["a-tool"] = needs.Tool(("no-such-command-anywhere",), "apt-get install a-tool")
    needs.FIXTURES["tool_server"] = "a-tool"
    config.addinivalue_line("markers", "needs(*tools): ...")
    config.pluginmanager.register(NotRun(in_ci()), "not-run")

@pytest.fixture
def tool_server():
    raise AssertionError("started without its tool")
"""
SUITE = """
import pytest

def test_plain():
    pass

@pytest.mark.needs("a-tool")
def test_marked():
    pass

def test_by_fixture(tool_server):
    pass
"""
SKIPPING = """
import pytest

def test_plain():
    pass

def test_that_skips():
    pytest.skip("no reason")
"""


def run(folder: Path, suite: str, ci: str, *options: str) -> tuple[int, str]:
    """Exit status and output of pytest over one test module."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_suite.py").write_text(suite)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    environment = inherited | {"CI": ci, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_outside_ci_a_missing_tool_leaves_its_tests_out_and_the_end_names_them(
    tmp_path: Path, options: list[str]
) -> None:
    status, output = run(tmp_path, SUITE, "", *options)

    assert status == 0
    assert "2 tests need `a-tool`: apt-get install a-tool" in output
    assert "test_suite.py::test_marked\n" in output
    assert "test_suite.py::test_by_fixture\n" in output
    assert " 1 passed" in output.splitlines()[-1]


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_in_ci_a_missing_tool_fails_its_tests_before_their_fixtures_start(
    tmp_path: Path, options: list[str]
) -> None:
    status, output = run(tmp_path, SUITE, "1", *options)

    assert status == 1
    assert output.count("needs `a-tool`, which is not on this machine: apt-get install a-tool") >= 2
    assert "started without its tool" not in output
    assert " 1 passed, 2 errors" in output.splitlines()[-1]


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_in_ci_a_test_that_skips_itself_fails_the_run(tmp_path: Path, options: list[str]) -> None:
    status, output = run(tmp_path, SKIPPING, "true", *options)

    assert status == 1
    assert "test_suite.py::test_that_skips skipped itself" in output
    assert "CI is set: what is not run counts as failed" in output


def test_outside_ci_a_test_that_skips_itself_is_named(tmp_path: Path) -> None:
    status, output = run(tmp_path, SKIPPING, "0")

    assert status == 0
    assert "test_suite.py::test_that_skips skipped itself" in output


def test_a_module_that_skips_itself_counts_as_not_run(tmp_path: Path) -> None:
    module = "import pytest\npytest.skip('all of it', allow_module_level=True)\n"
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")

    status, output = run(tmp_path, module, "1")

    assert status == 1
    assert "test_suite.py skipped itself" in output
