"""`douane audit verify`, as an auditor runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.audit.verify import LIMITS, limits
from gateway.cli.audit import audit
from tests.receipts.samples import KEY, SIGNER

from .chains import REPLICA, chain, line_of, rehashed, written
from .signed import last_checkpoint, read, two_replicas, write

RECORDS = chain(4)
LINES = [line_of(record) for record in RECORDS]


def douane(*arguments: str) -> Result:
    return CliRunner().invoke(audit, ["verify", *arguments], catch_exceptions=False)


def test_an_intact_chain_exits_0_and_says_what_was_checked_and_what_was_not(tmp_path: Path) -> None:
    result = douane(str(written(tmp_path / "chain.jsonl", LINES)))

    assert result.exit_code == 0
    assert result.output == (
        f"intact  replica {REPLICA}: 4 records, 1 to 4, head {RECORDS[-1]['hash']}\n"
        f"not found by this check alone: {'; '.join(LIMITS)}\n"
    )


def test_an_altered_chain_exits_1_and_names_line_and_reason(tmp_path: Path) -> None:
    path = written(tmp_path / "chain.jsonl", [LINES[0], *LINES[2:], LINES[2]])

    result = douane(str(path))

    assert result.exit_code == 1
    assert result.output.splitlines()[:3] == [
        f"altered  replica {REPLICA}: 4 records, 1 to 3, head {RECORDS[2]['hash']}",
        f"  {path}:2: dropped: record 2 is missing before this line",
        f"  {path}:4: duplicated: record 3 stands at {path}:2 already",
    ]


def test_the_same_as_json(tmp_path: Path) -> None:
    path = written(tmp_path / "chain.jsonl", [LINES[0], *LINES[2:]])

    result = douane(str(path), "--format", "json")

    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "intact": False,
        "chains": [
            {
                "replica": REPLICA,
                "files": [str(path)],
                "records": 3,
                "first": 1,
                "last": 4,
                "head": RECORDS[-1]["hash"],
                "alterations": [
                    {
                        "file": str(path),
                        "line": 2,
                        "code": "dropped",
                        "message": "record 2 is missing before this line",
                    }
                ],
                "warnings": [],
                "unfinished": [{"file": str(path), "line": 1, "request": "req_1"}],
                "signed": None,
                "anchored": None,
                "intact": False,
            }
        ],
        "not_found_by_this_check": list(LIMITS),
    }


def test_requests_without_an_end_are_listed_and_are_no_fault(tmp_path: Path) -> None:
    begins = [record for record in chain(31) if record["kind"] == "begin"]
    previous, lines = "0" * 64, []
    for number, record in enumerate(begins, start=1):
        sealed = rehashed(record, seq=number, prev=previous)
        previous = sealed["hash"]
        lines.append(line_of(sealed))
    path = written(tmp_path / "chain.jsonl", lines)

    result = douane(str(path))

    assert result.exit_code == 0
    shown = [line for line in result.output.splitlines() if ": unfinished: " in line]
    assert shown[0] == (
        f"  {path}:1: unfinished: request req_1 began and has no end: in flight, or cut off by a crash"
    )
    assert len(shown) == 10
    assert "  and 6 more without an end; `--format json` lists them" in result.output.splitlines()


def test_an_empty_chain_is_intact(tmp_path: Path) -> None:
    result = douane(str(written(tmp_path / f"{REPLICA}.jsonl", [])))

    assert (result.exit_code, result.output.splitlines()[0]) == (0, f"intact  replica {REPLICA}: no record")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read: No such file or directory"), (b"hello\n", "is not an audit file: line 1: ")],
)
def test_what_cannot_be_read_exits_3(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "chain.jsonl"
    if content is not None:
        path.write_bytes(content)

    text, document = douane(str(path)), douane(str(path), "--format", "json")

    assert (text.exit_code, document.exit_code) == (3, 3)
    assert f"`{path}` {reason}" in text.output
    assert f"`{path}` {reason}" in json.loads(document.output)["error"]


def test_no_file_at_all_exits_3() -> None:
    result = douane()

    assert (result.exit_code, result.output) == (
        3, "error: no file was named; name the files to check, such as `var/audit/*.jsonl`\n",
    )  # fmt: skip


@pytest.fixture
async def signed_audit(tmp_path: Path) -> tuple[Path, Path]:
    """The directory of two signed chains, and the live file of the first."""
    live, _ = await two_replicas(tmp_path / "audit", SIGNER)
    return tmp_path / "audit", live


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(KEY.public.pem())
    return path


def test_a_directory_stands_for_all_of_its_files_and_the_key_says_how_far_they_are_signed(
    signed_audit: tuple[Path, Path], key_file: Path
) -> None:
    directory, live = signed_audit
    result = douane(str(directory), "--key", str(key_file))

    assert result.exit_code == 0
    assert result.output.splitlines()[:2] == [
        f"intact  replica {live.stem}: 28 records, 1 to 28, head {read(live)[-1]['hash']}",
        "  signed up to record 24",
    ]
    assert result.output.splitlines()[-1] == "not found by this check alone: " + "; ".join(
        limits(keyed=True, anchored=False)
    )


def test_a_kept_checkpoint_is_an_anchor(
    signed_audit: tuple[Path, Path], key_file: Path, tmp_path: Path
) -> None:
    directory, live = signed_audit
    kept = CliRunner().invoke(audit, ["checkpoint", str(directory)], catch_exceptions=False)
    assert (kept.exit_code, len(kept.output.splitlines())) == (0, 2)
    anchor = tmp_path / "kept.txt"
    anchor.write_text(kept.output)
    asked = (str(directory), "--key", str(key_file), "--anchor", str(anchor))
    intact = douane(*asked)
    write(live, read(live)[:15])

    result = douane(*asked)

    assert intact.exit_code == 0
    assert "  anchored up to record 24" in intact.output.splitlines()
    assert result.exit_code == 1
    assert f": cut: the chain ends at record 15, and a checkpoint ({anchor}:" in result.output


def test_a_chain_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "chain.jsonl", LINES)

    result = CliRunner().invoke(audit, ["checkpoint", str(path)], catch_exceptions=False)

    assert (result.exit_code, result.output) == (
        1, f"error: the chain of replica `{REPLICA}` has no checkpoint yet\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--anchor", "ANCHOR"), "an anchor is only worth its signature; give the key with `--key` too"),
        (("--key", "KEY", "--anchor", "NOTHING"), "holds no anchor; give a checkpoint"),
        (("--key", "NOTHING"), "holds no public key in PEM form"),
    ],
)
def test_what_cannot_be_checked_against_exits_3(
    signed_audit: tuple[Path, Path], key_file: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "nothing.txt").write_text("nothing\n")
    (tmp_path / "anchor.txt").write_text(last_checkpoint(read(signed_audit[1])))
    named = {"KEY": key_file, "NOTHING": tmp_path / "nothing.txt", "ANCHOR": tmp_path / "anchor.txt"}

    result = douane(str(signed_audit[0]), *(str(named.get(one, one)) for one in arguments))

    assert result.exit_code == 3
    assert reason in result.output


def test_an_empty_directory_is_no_audit(tmp_path: Path) -> None:
    result = douane(str(tmp_path))

    assert (result.exit_code, result.output) == (
        3, f"error: there is no audit file (`*.jsonl`) in `{tmp_path}`\n",
    )  # fmt: skip
