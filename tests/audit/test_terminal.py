"""What a forged file says cannot steer the auditor's terminal."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from gateway.cli.audit import audit
from gateway.cli.printable import printable

from .chains import chain, line_of, rehashed, written


def test_unprintable_characters_are_spelled_out_and_all_others_kept() -> None:
    assert printable("a\x1b[2J\nß→\u202e\x00") == "a\\x1b[2J\\nß→\\u202e\\x00"


def test_escape_sequences_in_an_altered_file_are_spelled_out(tmp_path: Path) -> None:
    (record,) = chain(1)
    steering = rehashed(record, request="req\x1b[2J", replica="\x1b]0;intact\x07")

    result = CliRunner().invoke(audit, ["verify", str(written(tmp_path / "chain", [line_of(steering)]))])

    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "request req\\x1b[2J began" in result.output
