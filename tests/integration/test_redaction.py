"""What a place is not to be shown, it is sent as a placeholder; the caller's answer holds it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.bundle import bundle_with_keys
from tests.integration.caller import Caller
from tests.integration.gateway_process import GatewayProcess, running_gateway
from tests.integration.regions import Regions
from tests.integration.scripted_engine import ScriptedEngine

MAIL, OTHER, IBAN = "ada.lovelace@example.org", "grace@example.net", "DE89370400440532013000"
DETECTORS = r"""
detect:
  - {kinds: [email], labels: [personal]}
  - {kinds: [iban], labels: [financial]}
redact:
  - {kinds: [email, iban, case], at: {place_in: local-engine}}
patterns:
  - {id: case, pattern: 'case-[0-9]{4}', labels: [personal]}
"""


@pytest.fixture(scope="module")
def redacting(
    scripted_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway whose local engine is not to be shown addresses, accounts and case numbers."""
    bundle = bundle_with_keys(tmp_path_factory.mktemp("redacting") / "bundle")
    (bundle / "detectors.yaml").write_text(DETECTORS)
    settings = {**scripted_settings, "policies": str(bundle)}
    with running_gateway(tmp_path_factory.mktemp("gateway"), settings) as running:
        yield running


@pytest.fixture
def caller(redacting: GatewayProcess, script: ScriptedEngine) -> Caller:
    return redacting.caller()


@pytest.mark.parametrize("stream", [False, True])
def test_the_backend_sees_placeholders_and_the_caller_does_not(
    caller: Caller, script: ScriptedEngine, stream: bool
) -> None:
    script.text = "I wrote to <EMAIL_1> and <EMAIL_2>, not <EMAIL_3> about <IBAN_1>."
    script.reasoning = "Mail <EMAIL_2>"
    said = caller.ask(f"write to {MAIL}, {OTHER} and {MAIL} of {IBAN}, {stream}", stream=stream)

    [received] = script.received
    assert received["messages"][0]["content"] == (
        f"write to <EMAIL_1>, <EMAIL_2> and <EMAIL_1> of <IBAN_1>, {stream}"
    )
    assert said.text.strip() == f"I wrote to {MAIL} and {OTHER}, not <EMAIL_3> about {IBAN}."
    assert OTHER in said.body.decode()
    receipt = said.receipt()
    assert receipt.labels == ("public", "financial", "personal")
    assert receipt.attempts[0].redacted == {"email": 3, "iban": 1}


def test_the_cache_gives_the_restored_answer_again(caller: Caller, script: ScriptedEngine) -> None:
    script.text = "noted: <EMAIL_1>"
    first = caller.ask(f"note {MAIL} for the cache")
    again = caller.ask(f"note {MAIL} for the cache")
    streamed = caller.ask(f"note {MAIL} for the cache", stream=True)

    assert (first.cache, again.cache, streamed.cache) == ("miss", "hit", "hit")
    assert [one.text for one in (first, again, streamed)] == [f"noted: {MAIL}"] * 3
    assert len(script.received) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_arguments_of_tools_go_out_without_and_come_back_with_it(
    caller: Caller, script: ScriptedEngine, stream: bool
) -> None:
    arguments = '{"to": "<EMAIL_1>", "iban": "<IBAN_1>"}'
    script.tool_calls = [
        {"id": "c2", "type": "function", "function": {"name": "send", "arguments": arguments}}
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "look_up"}}
    call["function"]["arguments"] = json.dumps({"who": MAIL, "account": IBAN, "n": 1})  # type: ignore[index]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": f"look them up, {stream}"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": f"{MAIL} is known"},
    ]
    tool = {"type": "function", "function": {"name": "send", "description": f"sends, such as to {MAIL}"}}
    said = caller.ask(messages=messages, tools=[tool], stream=stream)

    [received] = script.received
    assert json.loads(received["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "who": "<EMAIL_1>",
        "account": "<IBAN_1>",
        "n": 1,
    }
    assert received["messages"][2]["content"] == "<EMAIL_1> is known"
    assert received["tools"][0]["function"]["description"] == "sends, such as to <EMAIL_1>"
    if stream:
        deltas = [choice["delta"] for event in said.events() for choice in event["choices"]]
        told = "".join(
            part["function"]["arguments"] for delta in deltas for part in delta.get("tool_calls") or ()
        )
    else:
        told = said.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(told) == {"to": MAIL, "iban": IBAN}


def test_a_request_that_spells_a_placeholder_itself_gets_another_kind(
    caller: Caller, script: ScriptedEngine
) -> None:
    script.text = "<EMAIL_1> or <EMAIL_A1>"
    said = caller.ask(f"is <EMAIL_1> the same as {MAIL}?")

    assert script.received[0]["messages"][0]["content"] == "is <EMAIL_1> the same as <EMAIL_A1>?"
    assert said.text == f"<EMAIL_1> or {MAIL}"


def test_a_request_without_any_goes_out_and_comes_back_as_it_is(
    caller: Caller, script: ScriptedEngine
) -> None:
    script.text = "<EMAIL_1>"
    said = caller.ask("nothing to hide", logprobs=True)

    assert said.text == "<EMAIL_1>"
    assert said.receipt().attempts[0].redacted == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True},
        {"stop": ["<"]},
        {"tools": [{"type": "function", "function": {"name": "case-1234"}}]},
    ],
    ids=["logprobs", "a stop within a placeholder", "a tool's name"],
)
def test_what_cannot_be_written_without_it_is_not_sent_to_that_place(
    caller: Caller, script: ScriptedEngine, regions: Regions, fields: dict[str, Any]
) -> None:
    said = caller.ask(f"write to {MAIL}", labels="secret", **fields)

    assert said.status in (400, 503)
    assert script.received == []
    assert regions.touched() == set()
    assert MAIL not in said.body.decode()


def test_redaction_permits_nothing_that_labels_deny(
    caller: Caller, script: ScriptedEngine, regions: Regions
) -> None:
    script.status, script.error = 503, {"message": "down"}
    said = caller.ask(f"write to {MAIL} from Leipzig")

    assert said.receipt().labels == ("public", "personal")
    assert regions.touched() <= {"eu-central-1", "eu-north-1", "eu-south-1", "eu-west-1"}
