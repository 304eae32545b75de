"""A load shows a bar on a terminal and one plain line elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from local_engine.loading import Loading


def loaded(*, terminal: bool) -> str:
    """What is shown of a load of two tensors."""
    shown = io.StringIO()
    with Loading(3 << 20, Console(file=shown, force_terminal=terminal, width=100)) as progress:
        progress("embedding.weight", 1 << 20)
        progress("norm.scale", 2 << 20)
    return shown.getvalue()


def test_elsewhere_it_is_one_plain_line() -> None:
    shown = loaded(terminal=False)

    assert shown.startswith("loaded 3.0 MiB in ")
    assert shown.endswith(" s\n")
    assert shown.count("\n") == 1
    assert "\x1b" not in shown


def test_on_a_terminal_it_is_a_bar_that_goes_away() -> None:
    shown = loaded(terminal=True)

    assert "loading" in shown
    assert "\x1b[2K" in shown
    assert shown.rpartition("\x1b")[2].endswith(" s\n")


def test_a_load_that_fails_claims_nothing() -> None:
    shown = io.StringIO()
    with pytest.raises(RuntimeError), Loading(1, Console(file=shown)):
        raise RuntimeError

    assert shown.getvalue() == ""
