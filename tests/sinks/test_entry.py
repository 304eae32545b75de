"""An entry opens as it was written, with its tenant's key, and not when anything of it was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli.main import main
from gateway.facts import Facts
from gateway.keys.keyring import TenantKeys
from gateway.keys.opening import MASTER_KEY, open_keys
from gateway.keys.wrapping import MasterKey
from gateway.labels import Labels
from gateway.policy.load import load_bundle
from gateway.policy.permit import permit
from gateway.settings import Settings
from gateway.sinks.detail import Detail
from gateway.sinks.entry import EntryInvalid, line_of, open_line
from gateway.sinks.story import Story
from tests.integration.bundle import POLICIES

KEYS = TenantKeys.apart(bytes(range(32)))


@pytest.fixture(scope="module")
def story() -> Story:
    bundle = load_bundle(POLICIES)
    facts = Facts("demo", "DE", "general", "gpt-oss-20b", Labels("public", frozenset()))
    return Story(
        request="req_1", answer_id="chatcmpl-req_1", receipt="rcpt_1", tenant="demo", key="demo", facts=facts,
        permitted=permit(facts, bundle), revision=bundle.revision, serial=1, rules=("one",), route="everyone",
        cache="miss", processed=True, at_worst=(), outcome="answered", status=200, code=None, usage=None,
        stream=False, answer_sha256="00", started_s=1.0, ended_s=2.0,
        ended_at=datetime(2026, 1, 1, tzinfo=UTC), timings=(), traceparent=None,
        body=b'{"asked":\n"\\u001b[31m"}', delivered=(b'{"said":1}',),
    )  # fmt: skip


def test_content_opens_as_it_was(story: Story) -> None:
    line = line_of(story, Detail.CONTENT, KEYS)
    opened = open_line(line, KEYS)

    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert opened.content == {"request": {"asked": "\x1b[31m"}, "answer": {"said": 1}}
    assert opened.head == json.loads(line_of(story, Detail.METADATA, KEYS)) | {"detail": "content"}


def test_equal_contents_look_unalike(story: Story) -> None:
    assert line_of(story, Detail.CONTENT, KEYS) != line_of(story, Detail.CONTENT, KEYS)


def change(name: str, value: Any) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps({**json.loads(line), name: value}).encode()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (change("request", "req_2"), "does not open"),
        (change("labels", ["public", "personal"]), "does not open"),
        (change("tenant", "globex-us"), "does not open"),
        (change("sealed", "AQ=="), "does not open"),
        (change("sealed", "&"), "no entry"),
        (change("sealed", None), "no entry"),
        (change("detail", "metadata"), "taken out, or put in"),
        (change("v", 2), "version `2`"),
        (lambda line: line[:-20], "no entry"),
        (lambda line: b"[]", "no entry"),
        (lambda line: b"{}", "no entry"),
    ],
)
def test_what_was_changed_does_not_open(story: Story, changed: Callable[[bytes], bytes], said: str) -> None:
    with pytest.raises(EntryInvalid, match=said):
        open_line(changed(line_of(story, Detail.CONTENT, KEYS)), KEYS)


def test_content_that_was_taken_out_is_missed(story: Story) -> None:
    entry = json.loads(line_of(story, Detail.CONTENT, KEYS))
    del entry["sealed"]

    with pytest.raises(EntryInvalid, match="taken out"):
        open_line(json.dumps(entry).encode(), KEYS)


@pytest.fixture
def written(story: Story, tmp_path: Path) -> Path:
    """A directory with a master key and a log of two entries."""
    (tmp_path / "state").mkdir()
    MasterKey.create(tmp_path / "state" / MASTER_KEY)
    keys = open_keys(Settings(state_dir=tmp_path / "state")).ring
    lines = line_of(story, Detail.CONTENT, keys) + line_of(story, Detail.METADATA, keys)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "a-000001.jsonl").write_bytes(lines)
    return tmp_path


def read(written: Path, *arguments: str, environ: dict[str, str] | None = None) -> Any:
    given = ["log", "read", "--state-dir", str(written / "state"), *arguments]
    return CliRunner().invoke(main, given, env=environ)


def test_the_command_prints_what_a_terminal_cannot_obey(written: Path) -> None:
    done = read(written, str(written / "log"))
    first, second = (json.loads(line) for line in done.stdout.splitlines())

    assert done.exit_code == 0
    assert first["request"] == second["request"] == "req_1"
    assert first["content"] == {"request": {"asked": "\x1b[31m"}, "answer": {"said": 1}}
    assert (second["detail"], second["content"]) == ("metadata", None)
    assert "\x1b" not in done.stdout


def test_the_command_finds_the_log_in_the_settings_and_chooses(written: Path) -> None:
    environ = {"DOUANE_CONTENT_LOG": str(written / "log"), "DOUANE_CONTENT_LOG_PLACE": "content-log"}

    assert len(read(written, environ=environ).stdout.splitlines()) == 2
    assert len(read(written, "--request", "req_1", environ=environ).stdout.splitlines()) == 2
    assert read(written, "--request", "req_2", environ=environ).stdout == ""
    assert read(written, "--tenant", "acme-de", environ=environ).stdout == ""


def test_the_command_says_which_lines_are_damaged(written: Path) -> None:
    file = written / "log" / "a-000001.jsonl"
    file.write_bytes(file.read_bytes() + b"torn")
    done = read(written, str(file))

    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == f"douane: {file}:3: it is no entry of a content log\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "DOUANE_CONTENT_LOG is not set"),
        (["no-such-file"], "`no-such-file` cannot be read"),
        (["--state-dir", "no-such-state", "x"], "there is no master key"),
    ],
)
def test_the_command_says_what_it_lacks(written: Path, arguments: list[str], said: str) -> None:
    done = read(written, *arguments)

    assert done.exit_code == 3
    assert said in done.stderr
