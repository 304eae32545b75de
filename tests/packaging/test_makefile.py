"""The make targets: the same commands for a reader, for CI and for the documents."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SPREAD = "-n 2 --dist loadscope --no-loadscope-reorder"
TARGETS = ("run", "test", "check", "bench", "demo", "lock", "clean")

pytestmark = pytest.mark.needs("make")


def make(*arguments: str) -> str:
    """What make prints, with nothing done but printing."""
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_alone_lists_the_targets_and_does_nothing_else() -> None:
    listed = re.findall(r"^  make (\S+) +\S", make(), re.MULTILINE)

    assert set(TARGETS) <= set(listed)
    assert make() == make("help")


@pytest.mark.parametrize(
    ("target", "environment", "command"),
    [
        ("run", "run", "exec .venv/bin/douane serve --demo"),
        ("demo", "run", "exec .venv/bin/douane demo"),
        (
            "test",
            "dev",
            f'exec .venv/bin/python -m pytest {SPREAD} -m "not proof" ',
        ),
        ("bench", "dev", "exec .venv/bin/python -m bench.gateway --json"),
    ],
)
def test_a_target_sees_to_its_environment_and_gives_its_place_to_the_program(
    target: str, environment: str, command: str
) -> None:
    printed = make(
        "-n", "VENV=.venv", "PYTHON=python3", "PYTEST_ARGS=", "BENCH_ARGS=--json", target
    ).splitlines()

    assert printed[-2:] == [f"python3 requirements/install.py {environment}", command]


def test_ci_runs_the_same_targets_as_a_reader() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    assert lines[-5:] == [
        "status=0",
        *(f"make {target} || status=1" for target in ("check", "prove", "test")),
        'exit "$status"',
    ]
    assert "export CI=1" in lines


def test_what_make_test_leaves_to_make_prove_is_where_make_prove_looks() -> None:
    proofs = re.search(r"^PROOFS := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert proofs is not None
    places = [ROOT / place for place in proofs.group(1).split()]
    marked = [
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark." + "proof" in path.read_text(encoding="utf-8")
    ]

    assert marked
    assert all(any(path.is_relative_to(place) for place in places) for path in marked)


def test_a_missing_python_is_named() -> None:
    done = subprocess.run(
        ["make", "venv-run", "PYTHON=python-that-is-not-there"], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert "`python-that-is-not-there` is not there: install Python 3.11 or later" in done.stderr
