"""Redaction obliges by the bundle a request came in under, and by the one in force when it is tried."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.backends.base import Unreachable
from gateway.context import GatewayContext
from gateway.detect import redacting
from gateway.detect.placeholders import Redactor
from gateway.detect.redacting import Obliged, RedactingBackend, Unredactable, Withdrawn, redact
from gateway.detect.rules import DetectorRules
from gateway.facts import Facts
from gateway.openai import ChatRequest, parse_chat
from gateway.policy.bundle import Bundle
from gateway.policy.load import compile_files
from gateway.policy.permit import permit
from gateway.policy.source.directory import Files
from gateway.routing.attempt import Attempt
from gateway.trail import Trail
from tests.policy.bundles import default_files

ABROAD = "\nredact:\n- {kinds: [email], outside: {place_in: EEA}}\n"
MAIL = "ada@example.org"


def bundle(redaction: str) -> Bundle:
    files = default_files()
    return compile_files(
        Files({**files, "detectors.yaml": files["detectors.yaml"] + redaction.encode()})
    ).bundle


def without_the_us() -> Bundle:
    """REDACTING, but that nobody may be answered in the US."""
    files = {name: text for name, text in default_files().items() if name != "claims.yaml"}
    permits = "residency/90-permits.yaml"
    changed = files[permits].replace(b"place_in: [EEA, GB, US]", b"place_in: [EEA, GB]")
    detectors = files["detectors.yaml"] + ABROAD.encode()
    return compile_files(Files({**files, permits: changed, "detectors.yaml": detectors})).bundle


PLAIN, REDACTING = bundle("\n"), bundle(ABROAD)


def obliged(came_in: Bundle, in_force: Bundle, detected: tuple[str, ...]) -> Obliged:
    """The backends of one request; a backend is as good as its place here."""
    backends = {place: SimpleNamespace(place=came_in.places[place]) for place in BACKENDS}
    caller = came_in.tenants["demo"].caller
    trail = SimpleNamespace(bundle=came_in, detected=detected, caller=caller)
    context = SimpleNamespace(backends=backends, policies=SimpleNamespace(current=in_force))
    return Obliged(cast("Trail", trail), cast("GatewayContext", context))


BACKENDS = ("bedrock-frankfurt", "bedrock-virginia", "local-engine")


@pytest.mark.parametrize(
    ("came_in", "in_force", "detected", "wrapped"),
    [
        (PLAIN, PLAIN, ("email",), set()),
        (REDACTING, REDACTING, ("email",), {"bedrock-virginia"}),
        (REDACTING, REDACTING, ("iban",), set()),
        (REDACTING, REDACTING, (), set()),
        (REDACTING, PLAIN, ("email",), {"bedrock-virginia"}),
        (PLAIN, REDACTING, ("email",), {"bedrock-virginia"}),
        (PLAIN, REDACTING, (), {"bedrock-virginia"}),  # what the new bundle finds is not known yet
    ],
)
def test_either_bundle_obliges(
    came_in: Bundle, in_force: Bundle, detected: tuple[str, ...], wrapped: set[str]
) -> None:
    backends = obliged(came_in, in_force, detected)

    assert set(backends) == set(BACKENDS)
    assert {place for place in backends if isinstance(backends[place], RedactingBackend)} == wrapped


def chat(**fields: Any) -> ChatRequest:
    body = {"model": "gpt-oss-20b", "messages": [{"role": "user", "content": f"to {MAIL}"}], **fields}
    return parse_chat(json.dumps(body).encode())


async def refused(request: ChatRequest, **changes: Any) -> str:
    """What is said of a request that cannot be written without it; no backend is there to be asked."""
    backends = obliged(REDACTING, REDACTING, ("email",))
    backend = backends["bedrock-virginia"]
    assert isinstance(backend, RedactingBackend)
    rules = backend._redactor.rules[0]
    backend._redactor = replace(backend._redactor, rules=(replace(rules, **changes),))
    with pytest.raises(Unredactable) as raised:
        await backend.complete(cast("Any", None), request, "req_1")
    assert raised.value.try_next
    assert MAIL not in str(raised.value)
    return raised.value.kind


async def test_what_cannot_be_written_without_it_is_not_sent() -> None:
    cut = [{"type": "text", "text": "ada@exam"}, {"type": "text", "text": "ple.org"}]
    call = {"id": MAIL, "type": "function", "function": {"name": "f", "arguments": "{}"}}

    assert await refused(chat(stop=["ab<"])) == "unredactable"
    assert await refused(chat(stop=["EMAIL"])) == "unredactable"
    assert await refused(chat(messages=[{"role": "user", "content": cut}])) == "unredactable"
    assert await refused(chat(messages=[{"role": "assistant", "tool_calls": [call]}])) == "unredactable"
    assert await refused(chat(), text_bytes_max=4) == "unredactable"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("in_force", "sent"),
    [
        (replace(bundle(ABROAD), revision="sha256:the-same-rules"), True),
        (bundle(ABROAD.replace("[email]", "[email, iban]")), False),
        (without_the_us(), False),
    ],
)
async def test_a_bundle_that_comes_into_force_while_a_long_text_is_written_anew_is_asked_too(
    in_force: Bundle, sent: bool, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = obliged(REDACTING, REDACTING, ("email",))
    backend = backends["bedrock-virginia"]
    assert isinstance(backend, RedactingBackend)
    received: list[ChatRequest] = []

    async def answer(_: Attempt, redacted: ChatRequest, request_id: str) -> None:
        received.append(redacted)
        raise Unreachable("nobody is there")

    backend._backend = cast("Any", SimpleNamespace(place=backend.place, complete=answer, stream=answer))

    def slowly(request: ChatRequest, redactor: Redactor) -> Any:
        written = redact(request, redactor)
        cast("Any", backends.context.policies).current = in_force
        return written

    monkeypatch.setattr(redacting, "redact", slowly)
    facts = Facts("demo", "DE", "general", "gpt-oss-20b", REDACTING.vocabulary.lowest)
    attempt = Attempt(backend.place, permit(facts, REDACTING), 1.0, 1.0)
    request = chat(messages=[{"role": "user", "content": f"{MAIL} " + "so " * 10_000}])
    with pytest.raises(Unreachable if sent else Withdrawn):
        await (backend.stream if stream else backend.complete)(attempt, request, "req_1")

    assert [MAIL in json.dumps(one.forwarded()) for one in received] == ([False] if sent else [])


def test_everything_that_is_text_is_written_without_it() -> None:
    backend = obliged(REDACTING, REDACTING, ("email",))["bedrock-virginia"]
    assert isinstance(backend, RedactingBackend)
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "f", "arguments": json.dumps({MAIL: [1, MAIL]})},
    }
    raw = {"id": "d", "type": "function", "function": {"name": "f", "arguments": f"not JSON: {MAIL}"}}
    request = chat(
        messages=[
            {"role": "system", "content": MAIL, "name": MAIL},
            {"role": "user", "content": [{"type": "text", "text": MAIL}]},
            {"role": "assistant", "reasoning": MAIL, "refusal": MAIL, "tool_calls": [call, raw]},
            {"role": "tool", "tool_call_id": "c", "content": f"{MAIL} and {MAIL}"},
        ],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"enum": [MAIL, True, 1.5]}}}],
        response_format={"type": "json_schema", "json_schema": {"name": "s", "description": MAIL}},
        stop=[MAIL],
        seed=7,
    )
    redacted, placeholders = redact(request, backend._redactor)

    assert placeholders.things == {"<EMAIL_1>": MAIL}
    assert placeholders.counts == {"email": 13}
    assert redacted.forwarded() == json.loads(json.dumps(request.forwarded()).replace(MAIL, "<EMAIL_1>"))
    assert redacted.stop == ["<EMAIL_1>"]
    assert request.stop == [MAIL]


def test_arguments_that_spell_half_a_character_can_still_be_sent() -> None:
    backend = obliged(REDACTING, REDACTING, ("email",))["bedrock-virginia"]
    assert isinstance(backend, RedactingBackend)
    function = {"name": "f", "arguments": '{"a": "\\ud800 ada\\u0040example.org"}'}
    call = {"id": "c", "type": "function", "function": function}
    redacted, _ = redact(chat(messages=[{"role": "assistant", "tool_calls": [call]}]), backend._redactor)

    [message] = redacted.forwarded()["messages"]
    assert message["tool_calls"][0]["function"]["arguments"] == '{"a": "\\ud800 <EMAIL_1>"}'


def test_rules_that_redact_what_no_label_names_look_for_it_all_the_same() -> None:
    files = default_files() | {"detectors.yaml": b"redact:\n- {kinds: [iban], outside: {place_in: EEA}}\n"}
    rules = compile_files(Files(files)).bundle.detectors

    assert isinstance(rules, DetectorRules)
    assert rules.scanner.wanted == {"iban"}
    assert rules.labels_of(["iban"], PLAIN.vocabulary) is None
