"""The content log holds content where `log` is permitted, and digests where only `record` is."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import Broken
from gateway.context import GatewayContext
from gateway.keys.opening import open_keys
from gateway.sinks.content_log import ContentLog
from gateway.sinks.entry import Opened
from gateway.sinks.files import RotatedFiles
from gateway.sinks.reading import read_entries
from tests.gateway.inprocess import chat, gateway, records, script, word
from tests.sinks.bundle import CONTENT_LOG, bundle_with_sinks, forbid_log, permit_log


@dataclass
class Logged:
    """A gateway with a content log; `entries` is what it holds once the gateway has stopped."""

    context: GatewayContext
    policies: Path
    directory: Path
    state: Path
    entries: list[Opened] = field(default_factory=list)

    def told(self, outcome: str) -> float:
        return told(self.context, "content_log", outcome)


def told(context: GatewayContext, sink: str, outcome: str) -> float:
    labels = {"sink": sink, "outcome": outcome}
    return context.metrics.registry.get_sample_value("douane_sink_entries_total", labels) or 0.0


@asynccontextmanager
async def logging_gateway(tmp_path: Path, **settings: Any) -> AsyncIterator[Logged]:
    policies = bundle_with_sinks(tmp_path / "policies")
    given = {"content_log": tmp_path / "log", "content_log_place": CONTENT_LOG, **settings}
    async with gateway(tmp_path / "state", policies, **given) as context:
        logged = Logged(context, policies, tmp_path / "log", tmp_path / "state")
        yield logged
    logged.entries += opened(logged)


def opened(logged: Logged) -> list[Opened]:
    keys = open_keys(logged.context.settings).ring
    lines = list(read_entries([logged.directory], keys))
    assert [line.problem for line in lines if line.problem] == []
    return [line.entry for line in lines if line.entry is not None]


async def test_what_no_detector_reads_is_not_in_the_log(tmp_path: Path) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context)
        unread: dict[str, Any] = {"metadata": {"note": "DE89370400440532013000"}, "user": "ada@example.org"}
        client = chat("said last", safety_identifier="bob@example.org", **unread)
        twice = b'"content": "DE89370400440532013000", "content": "said last"'
        client.body = client.body.replace(b'"content": "said last"', twice)
        await client.ask(logged.context)

    (entry,) = logged.entries
    assert entry.head["labels"] == ["public"]
    assert entry.content is not None
    assert entry.content["request"] == {
        "model": "gpt-oss-20b",
        "messages": [{"role": "user", "content": "said last"}],
    }


async def test_a_permitted_request_is_there_with_its_answer_sealed(tmp_path: Path) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context, text="the answer's own words")
        client = chat("the prompt's own words")
        await client.ask(logged.context)
        audit = records(logged.context)

    (entry,) = logged.entries
    assert entry.content == {"request": json.loads(client.body), "answer": json.loads(client.answer)}
    assert (entry.head["detail"], entry.head["tenant"], entry.head["labels"]) == (
        "content",
        "demo",
        ["public"],
    )
    assert entry.head["request_hmac"] == audit[0].fields["request_hmac"]
    assert entry.head["answer_hmac"] == audit[1].fields["answer_hmac"]
    assert logged.told("content") == 1
    (file,) = logged.directory.iterdir()
    assert b"own words" not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(logged.directory.stat().st_mode) == 0o700


async def test_a_stream_is_there_as_the_events_that_were_sent(tmp_path: Path) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context)
        client = chat("hello", stream=True)
        await client.ask(logged.context)

    (entry,) = logged.entries
    assert entry.content is not None
    sent = [line for line in client.answer.decode().split("\n\n") if line.startswith("data: {")]
    assert [json.loads(line.removeprefix("data: ")) for line in sent] == entry.content["events"]
    assert len(sent) == 2


async def test_a_stream_that_broke_is_there_as_far_as_it_was_sent(tmp_path: Path) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context, steps=((word("half"),), Broken("cut")))
        await chat("hello", stream=True).ask(logged.context)

    (entry,) = logged.entries
    assert entry.content is not None
    assert entry.head["outcome"] == "incomplete"
    assert [next(iter(event)) for event in entry.content["events"]] == ["id", "error"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cached_answer_is_there_too(tmp_path: Path, stream: bool) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context)
        for _ in range(2):
            client = chat("hello", stream=stream)
            await client.ask(logged.context)
        assert client.header("x-douane-cache") == "hit"

    first, second = logged.entries
    assert (first.head["cache"], second.head["cache"]) == ("miss", "hit")
    assert first.content is not None
    assert second.content is not None
    assert second.content["request"] == first.content["request"]
    assert len(second.content["events" if stream else "answer"]) > 1


@pytest.mark.parametrize("stream", [False, True])
async def test_labels_that_forbid_log_leave_digests_only(tmp_path: Path, stream: bool) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context)
        client = chat("hello", labels="confidential", stream=stream)
        await client.ask(logged.context)
        audit = records(logged.context)

    assert client.status == 200
    (entry,) = logged.entries
    assert entry.content is None
    assert entry.head["detail"] == "metadata"
    assert entry.head["request_hmac"] == audit[0].fields["request_hmac"]
    assert entry.head["answer_hmac"] == audit[1].fields["answer_hmac"]
    assert logged.told("metadata") == 1


async def test_where_record_is_forbidden_there_is_nothing(tmp_path: Path) -> None:
    """The place abroad may log, but not record what is internal: then not even content is written."""
    async with logging_gateway(tmp_path, content_log_place="log-abroad") as logged:
        script(logged.context)
        internal, public = chat("inside words", labels="internal"), chat("hello")
        await internal.ask(logged.context)
        await public.ask(logged.context)

    assert (internal.status, public.status) == (200, 200)
    assert [entry.head["labels"] for entry in logged.entries] == [["public"]]
    assert logged.told("withheld") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stricter_bundle_before_the_end_withholds_the_content(tmp_path: Path, stream: bool) -> None:
    async with logging_gateway(tmp_path) as logged:
        engine = script(logged.context)

        async def swap() -> None:
            forbid_log(logged.policies)
            assert await logged.context.policies.reload()
            script(logged.context)

        engine.before = swap
        await chat("hello", stream=stream).ask(logged.context)

    (entry,) = logged.entries
    assert (entry.head["detail"], entry.content) == ("metadata", None)


async def test_a_looser_bundle_before_the_end_adds_no_content(tmp_path: Path) -> None:
    async with logging_gateway(tmp_path) as logged:
        forbid_log(logged.policies)
        assert await logged.context.policies.reload()
        engine = script(logged.context)

        async def swap() -> None:
            permit_log(logged.policies)
            assert await logged.context.policies.reload()
            script(logged.context)

        engine.before = swap
        await chat("hello").ask(logged.context)

    assert [entry.content for entry in logged.entries] == [None]


async def test_a_stricter_bundle_withholds_also_what_still_waits_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context)
        holding, released = threading.Event(), threading.Event()
        write = RotatedFiles.write

        def write_when_released(self: RotatedFiles, line: bytes) -> None:
            holding.set()
            assert released.wait(60)
            write(self, line)

        monkeypatch.setattr(RotatedFiles, "write", write_when_released)
        await chat("first").ask(logged.context)
        assert await asyncio.to_thread(holding.wait, 60)
        answered = chat("second")
        await answered.ask(logged.context)
        third = chat("third")
        forbid_log(logged.policies)
        assert await logged.context.policies.reload()
        script(logged.context)
        await third.ask(logged.context)
        assert (answered.status, third.status) == (200, 200)  # nobody waits for the log
        released.set()

    assert [entry.head["detail"] for entry in logged.entries] == ["content", "metadata", "metadata"]


async def test_a_request_that_was_turned_away_leaves_no_content(tmp_path: Path) -> None:
    """The gateway itself may not read what is financial here; the content log could keep it."""
    async with logging_gateway(tmp_path) as logged:
        script(logged.context)
        client = chat("hello", labels="financial")
        await client.ask(logged.context)
        (refused,) = records(logged.context)

    assert client.status == 403
    (entry,) = logged.entries
    assert entry.content is None
    assert (entry.head["outcome"], entry.head["code"]) == ("refused", "residency_denied")
    assert entry.head["request_hmac"] == refused.fields["request_hmac"]


async def test_a_failed_request_is_there_with_the_error_that_was_delivered(tmp_path: Path) -> None:
    async with logging_gateway(tmp_path) as logged:
        engine = script(logged.context)

        async def fail() -> None:
            raise Broken("cut")

        engine.before = fail
        client = chat("hello")
        await client.ask(logged.context)

    assert client.status == 503
    (entry,) = logged.entries
    assert entry.content == {"request": json.loads(client.body), "answer": json.loads(client.answer)}


async def test_before_labels_are_known_nothing_is_written(tmp_path: Path) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context)
        nobody, unlabelled = chat("hello", key="sk-nobody"), chat("hello", labels="no-such-label")
        await nobody.ask(logged.context)
        await unlabelled.ask(logged.context)

    assert (nobody.status, unlabelled.status) == (401, 400)
    assert logged.entries == []


async def test_what_finds_the_queue_full_is_dropped_and_counted(tmp_path: Path) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context)
        files = RotatedFiles(tmp_path / "small", "small", 10_000, 2)
        narrow = ContentLog(files, CONTENT_LOG, logged.context.metrics, waiting_bytes_max=2000)
        sinks = replace(logged.context.sinks, content_log=narrow)
        context = replace(logged.context, sinks=sinks)
        long, short = chat("x" * 3000), chat("short")
        await long.ask(context)
        await short.ask(context)
        assert (long.status, short.status) == (200, 200)
        await narrow.aclose()
        assert (logged.told("dropped"), logged.told("content")) == (1, 1)


async def test_a_full_disk_is_counted_and_said_once_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with logging_gateway(tmp_path) as logged:
        script(logged.context)
        caplog.set_level("INFO", "douane")
        write, calls = RotatedFiles.write, []

        def full_twice(self: RotatedFiles, line: bytes) -> None:
            calls.append(line)
            if len(calls) < 3:
                raise OSError(28, "No space left on device")
            write(self, line)

        monkeypatch.setattr(RotatedFiles, "write", full_twice)
        for text in ("one", "two", "three"):
            client = chat(text)
            await client.ask(logged.context)
            assert client.status == 200

    said = [record.msg for record in caplog.records if record.name == "douane"]
    assert [event for event in said if event.startswith("content_log")] == [
        "content_log_unavailable",
        "content_log_available",
    ]
    assert (logged.told("failed"), logged.told("content"), len(logged.entries)) == (2, 1, 1)


async def test_files_are_changed_at_their_size_and_the_oldest_go(tmp_path: Path) -> None:
    async with logging_gateway(tmp_path, content_log_file_bytes=2048, content_log_files=3) as logged:
        script(logged.context)
        for number in range(9):
            await chat(f"number {number}").ask(logged.context)

    files = sorted(logged.directory.iterdir())
    assert len(files) == 3
    assert all(file.stat().st_size <= 2048 for file in files)
    asked = [entry.content["request"]["messages"][0]["content"] for entry in logged.entries if entry.content]
    assert asked == [f"number {number}" for number in range(9)][-len(asked) :]
    assert len(asked) >= 3
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_a_line_that_could_not_be_written_whole_is_cut_off_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RotatedFiles(tmp_path / "log", "one", 10_000, 2)
    files.write(b"first\n")
    with monkeypatch.context() as patched:
        real, results = os.write, [3]

        def three_bytes_then_full(descriptor: int, data: bytes) -> int:
            if not results:
                raise OSError(28, "No space left on device")
            return int(real(descriptor, data[: results.pop()]))

        patched.setattr("os.write", three_bytes_then_full)
        with pytest.raises(OSError, match="No space"):
            files.write(b"second\n")
    files.write(b"third\n")
    files.close()

    (file,) = (tmp_path / "log").iterdir()
    assert file.read_bytes() == b"first\nthird\n"


def test_a_file_that_somebody_removed_is_begun_anew(tmp_path: Path) -> None:
    files = RotatedFiles(tmp_path / "log", "one", 10_000, 2)
    files.write(b"first\n")
    next((tmp_path / "log").iterdir()).unlink()
    files.write(b"second\n")
    files.close()

    assert [file.read_bytes() for file in (tmp_path / "log").iterdir()] == [b"second\n"]
