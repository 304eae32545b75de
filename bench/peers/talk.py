"""How the bench talks with an engine's process: a JSON object a line, one question at a time.

Between questions the process waits for its standard input and takes no CPU: what it computes with sleeps a
few milliseconds after its last work. Standard library only: every peer uses it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import NotStarted, clean_environment

STOP_S = 20.0
LOG_TAIL = 2000

Action = Callable[..., dict[str, Any]]


def serve(actions: Mapping[str, Action]) -> None:
    """Answers what comes on the standard input until it ends. What libraries print goes to standard error."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            question = json.loads(line)
            answer = actions[question.pop("do")](**question)
            print(json.dumps(answer), file=answers, flush=True)


class Peer:
    """A running engine."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    def ask(self, do: str, **options: object) -> dict[str, Any]:
        """One question and its answer. Raises `NotStarted` when the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **options}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            # What it says last, it says while it ends.
            self._process.wait(STOP_S)
            tail = self._log.read_text(errors="replace")[-LOG_TAIL:]
            raise NotStarted(f"`{self.name}` ended when asked for `{do}`; its output ends with:\n{tail}")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def running(name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Peer]:
    """Runs an engine until the block ends; its output goes to a log in `folder`."""
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
            env={**clean_environment(), **environment},
        )  # fmt: skip
    try:
        yield Peer(name, process, log)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
