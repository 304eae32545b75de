"""The bench of the host's work: what it makes of times and streams, and one short run of each kind."""

from __future__ import annotations

import json
import os

import pytest

from bench import host
from bench.host import NOTE, Served, Stepped, percentile, prompt, rows_of, serving, step_time, told
from bench.null import null_engine
from bench.streams import counted, events, request_of
from local_engine.engine import Engine
from local_engine.kv import BLOCK_TOKENS
from local_engine.sampling import SamplingParams
from local_engine.steps import Step, Token
from local_engine.vocabulary import Vocabulary, load_vocabulary


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """The real one."""
    return load_vocabulary()


def stream(*objects: object, end: str = "data: [DONE]\n\n", head: str = "HTTP/1.1 200 OK") -> bytes:
    """A response of chunked server-sent events, two of them in each piece."""
    data = "".join(f"data: {json.dumps(one)}\n\n" for one in objects) + end
    pieces = [data[at : at + 100] for at in range(0, len(data), 100)]
    framed = "".join(f"{len(piece):x}\r\n{piece}\r\n" for piece in pieces)
    return f"{head}\r\ntransfer-encoding: chunked\r\n\r\n{framed}0\r\n\r\n".encode()


def chunk(**delta: str) -> dict[str, object]:
    """A chunk of one choice."""
    return {"choices": [{"index": 0, "delta": delta}]}


ANSWER = stream(
    chunk(role="assistant", content=""),
    chunk(content="one"),
    chunk(content=" two three"),
    chunk(),
    {"choices": [], "usage": {"completion_tokens": 7}},
)


def test_tokens_are_those_of_the_usage_and_chunks_those_that_carry_text() -> None:
    assert counted(ANSWER) == (7, 2)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (stream(chunk(content="x"), end=""), "did not end"),
        (stream(chunk(content="x"), end='data: {"error": {}}\n\n'), "did not end"),
        (stream(head="HTTP/1.1 503 Service Unavailable"), "HTTP/1.1 503"),
    ],
    ids=["cut off", "an error", "refused"],
)
def test_a_stream_that_did_not_end_well_is_no_measurement(answer: bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        list(events(answer))


def test_cpu_is_told_for_each_token_and_by_thread() -> None:
    cpu_s = {10: 0.0014, 11: 0.0001, 12: 0.0007}
    found = told(5.0, [ANSWER, ANSWER], 0.5, cpu_s, main_thread=10, client_s=0.05)

    assert found == Served(
        step_ms=5.0,
        streams=2,
        tokens=14,
        chunks=4,
        tokens_per_s=28.0,
        chunks_per_token=0.286,
        cpu_us=157.1,
        event_loop_us=100.0,
        engine_us=50.0,
        client_busy=0.1,
    )


def test_a_percentile_is_a_value_that_so_many_do_not_exceed() -> None:
    values = [float(n) for n in range(100, 0, -1)]

    assert [percentile(values, share) for share in (0.5, 0.95, 1.0)] == [50, 95, 100]
    assert percentile([3.0], 0.95) == 3


def test_prompts_share_no_block() -> None:
    first, second = (prompt(number, 40) for number in range(2))

    assert len(first) == len(second) == 40
    assert first[:BLOCK_TOKENS] != second[:BLOCK_TOKENS]


def stepped(batch: int, median_us: float) -> Stepped:
    return Stepped(batch, 1000, True, 9, median_us, 2 * median_us)


def a_server(tokens_per_s: float, step_ms: float = 0.0) -> Served:
    return Served(step_ms, 64, 100, 90, tokens_per_s, 0.9, 50.0, 30.0, 15.0, 0.1)


def test_every_goal_stands_beside_what_was_measured() -> None:
    rows = rows_of([stepped(1, 150), stepped(64, 600.1)], [a_server(10_000), a_server(9_999.9, 5.0)])

    assert [row.met for row in rows] == [True, False, True, False]
    assert [row.goal for row in rows] == ["≤ 150 µs", "≤ 600 µs", "≥ 10000 tokens/s", "≥ 10000 tokens/s"]
    assert rows[0].what == "engine.step at batch 1, context 1,000, overlap on: median"
    assert rows[3].what == "the server on one core, 64 streams, a step each 5 ms"


@pytest.mark.parametrize(("tokens_per_s", "status"), [(10_000, 0), (9_999, 1)])
def test_the_exit_status_says_whether_the_goals_are_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tokens_per_s: float, status: int
) -> None:
    monkeypatch.setattr(host, "step_time", lambda vocabulary, batch, *how: stepped(batch, 100))
    monkeypatch.setattr(host, "serving", lambda *how, core: a_server(tokens_per_s))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: None)

    assert host.main(["--json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert found["note"] == NOTE
    assert len(found["rows"]) == len(found["steps"]) + len(found["servers"]) == 10
    assert {row["met"] for row in found["rows"]} == {True, status == 0}
    assert host.main([]) == status
    assert capsys.readouterr().out.startswith(f"{NOTE}\n")


@pytest.mark.parametrize("overlap", [False, True])
def test_a_step_is_timed_when_all_sequences_decode(vocabulary: Vocabulary, overlap: bool) -> None:
    found = step_time(vocabulary, 3, 40, overlap, 20)

    assert (found.batch, found.context_tokens, found.overlap, found.steps) == (3, 40, overlap, 20)
    assert 0 < found.median_us <= found.p95_us


@pytest.mark.parametrize("overlap", [False, True])
def test_without_a_model_an_answer_is_a_final_message_of_text(vocabulary: Vocabulary, overlap: bool) -> None:
    engine = null_engine(Engine, vocabulary, context_tokens=512, overlap=overlap)
    said: list[Step] = []
    prompt = vocabulary.encode("hello assistant")[:1] + vocabulary.encode("assistant")
    engine.submit(prompt, SamplingParams(60), said.append)
    engine._take_in()
    while len(said) < 61:
        engine.step()
    engine.close()
    tokens = [step.id for step in said if isinstance(step, Token)]

    assert b"".join(map(vocabulary.token_bytes, tokens[:3])) == b"<|channel|>final<|message|>"
    assert "\ufffd" not in b"".join(map(vocabulary.token_bytes, tokens[3:])).decode()
    assert len(set(tokens)) > 50


def test_the_server_streams_to_its_client() -> None:
    cores = sorted(os.sched_getaffinity(0))
    found = serving(0.0, streams=2, tokens=40, core=cores[0])

    assert (found.streams, found.tokens) == (2, 80)
    assert 2 <= found.chunks <= 80 - 6
    assert found.tokens_per_s > 0
    assert found.cpu_us >= found.event_loop_us >= 0


def test_each_request_is_a_new_one() -> None:
    assert request_of(1, 10) != request_of(2, 10)
    assert b'"max_completion_tokens": 10' in request_of(1, 10)
