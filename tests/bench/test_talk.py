"""An engine's process is asked a question at a time, and its end is told with what it said last."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from bench.peers.build import ROOT
from bench.peers.talk import running
from bench.processes import NotStarted, python

HERE = {"PYTHONPATH": str(ROOT)}


def program(folder: Path) -> list[str]:
    file = folder / "engine.py"
    file.write_text(
        textwrap.dedent(
            """
            import os
            from bench.peers.talk import serve

            def double(number):
                print("a library says something")
                return {"number": 2 * number}

            def leave():
                raise SystemExit("no more memory")

            serve({"double": double, "leave": leave, "about": lambda: dict(color=os.environ["COLOR"])})
            """
        )
    )
    return python(str(file))


def test_questions_are_answered_in_their_order_whatever_is_printed(tmp_path: Path) -> None:
    with running("engine", program(tmp_path), tmp_path, HERE | {"COLOR": "red"}) as peer:
        answers = [peer.ask("double", number=number) for number in (1, 2)]
        about = peer.ask("about")

    assert answers == [{"number": 2}, {"number": 4}]
    assert about == {"color": "red"}
    assert (tmp_path / "engine.log").read_text() == "a library says something\n" * 2


def test_an_engine_that_ends_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(NotStarted, match=r"(?s)`engine` ended when asked for `leave`.*no more memory"),
        running("engine", program(tmp_path), tmp_path, HERE) as peer,
    ):
        peer.ask("leave")
