"""`douane audit export`: the chain's own lines, or flat rows; whole or not at all, and never over a file."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from gateway.audit.export import NotExported, draft_of
from gateway.audit.parquet import COLUMNS, write_parquet
from gateway.audit.reading import Reading
from gateway.audit.verify import verify_files
from gateway.cli.audit import audit

from .chains import chain, line_of, written
from .traffic import FRANKFURT, LOCAL, Traffic


def douane(*arguments: object) -> Result:
    return CliRunner().invoke(audit, ["export", *map(str, arguments)], catch_exceptions=False)


def test_without_a_filter_the_export_is_the_chain_itself(traffic: Traffic, tmp_path: Path) -> None:
    target = tmp_path / "export.jsonl"

    result = douane(traffic.audit, "--to", target)

    assert (result.exit_code, result.output) == (0, f"{len(traffic.links)} records in {target}\n")
    assert target.read_bytes() == traffic.chain.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    (report,) = verify_files([target])
    assert report.intact


def test_with_a_filter_it_holds_beginning_and_end_of_what_fits(traffic: Traffic, tmp_path: Path) -> None:
    target = tmp_path / "export.jsonl"

    result = douane(traffic.audit, "--tenant", "acme-de", "--to", target)

    numbers = [traffic.record("personal", kind).sequence for kind in ("begin", "end")]
    lines = traffic.chain.read_bytes().splitlines(keepends=True)
    assert result.exit_code == 0
    assert target.read_bytes() == b"".join(lines[number - 1] for number in numbers)


def test_parquet_has_flat_typed_columns_and_times_in_utc(traffic: Traffic, tmp_path: Path) -> None:
    target = tmp_path / "export.parquet"

    result = douane(traffic.audit, "--to", target, "--form", "parquet")

    assert result.exit_code == 0
    table = pyarrow.parquet.read_table(target)
    assert table.schema.names == [*(column.name for column in COLUMNS), "line"]
    types = {
        name: str(table.schema.field(name).type) for name in ("time", "seq", "stream", "labels", "tenant")
    }
    assert types == {
        "time": "timestamp[us, tz=UTC]",
        "seq": "int64",
        "stream": "bool",
        "labels": "list<element: string>",
        "tenant": "string",
    }
    rows = table.to_pylist()
    assert [row["line"].encode() for row in rows] == traffic.chain.read_bytes().splitlines()
    begin, end = (traffic.record("spilled", kind) for kind in ("begin", "end"))
    began, ended = rows[begin.sequence - 1], rows[end.sequence - 1]
    assert began["time"] == datetime.fromisoformat(begin.time).astimezone(UTC)
    assert (began["kind"], began["labels"], began["route"], began["outcome"]) == (
        "begin", ["public"], "everyone", None,
    )  # fmt: skip
    assert began["saw"][0].startswith(LOCAL)
    assert (ended["outcome"], ended["answered_at"], ended["status"], ended["began"]) == (
        "answered", FRANKFURT, 200, begin.sequence,
    )  # fmt: skip
    assert (ended["tried_places"], ended["tried_kinds"]) == ([FRANKFURT], ["spill"])
    assert (ended["prompt_tokens"], ended["completion_tokens"]) == (5, 3)
    assert (ended["hash"], ended["prev"]) == (end.hash, end.previous)


def test_parquet_is_written_in_groups_of_rows(tmp_path: Path) -> None:
    source = written(tmp_path / "chain.jsonl", [line_of(record) for record in chain(25)])

    count = write_parquet(Reading.of([source]).in_order(), tmp_path / "e.parquet", group_rows=10)

    file = pyarrow.parquet.ParquetFile(tmp_path / "e.parquet")
    assert count == 25
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [10, 10, 5]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_file_that_is_there_is_never_written_over(traffic: Traffic, tmp_path: Path, form: str) -> None:
    target = tmp_path / "export"
    target.write_text("mine")

    result = douane(traffic.audit, "--to", target, "--form", form)

    assert result.exit_code == 3
    assert f"`{target}` is there already" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert target.read_text() == "mine"


def test_a_file_that_is_made_meanwhile_is_not_written_over_either(tmp_path: Path) -> None:
    target = tmp_path / "export"

    def write() -> None:
        with draft_of(target) as file:
            file.write(b"ours")
            target.write_text("theirs")

    with pytest.raises(NotExported, match="was made meanwhile"):
        write()

    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    assert target.read_text() == "theirs"


def test_an_export_that_breaks_off_leaves_nothing_behind(tmp_path: Path) -> None:
    def break_off() -> None:
        with draft_of(tmp_path / "export") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()

    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_it_says_so(traffic: Traffic, tmp_path: Path) -> None:
    result = douane(traffic.audit, "--to", tmp_path / "missing" / "export")

    assert (result.exit_code, "cannot be written" in result.output) == (3, True)


def test_without_pyarrow_the_extra_is_named_and_nothing_is_written(traffic: Traffic, tmp_path: Path) -> None:
    target = tmp_path / "export.parquet"
    program = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from gateway.cli.main import main\n"
        f"main(['audit', 'export', {str(traffic.audit)!r}, '--to', {str(target)!r}, '--form', 'parquet'])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.returncode == 3
    assert "install `douane[parquet]`" in done.stderr
    assert list(tmp_path.iterdir()) == []
