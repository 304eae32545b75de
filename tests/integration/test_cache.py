"""The exact cache: who shares an answer, in which form it is told again, and what is never kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.integration.bundle import HELPDESK, bundle_with_keys, edit, without_examples
from tests.integration.caller import Said
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import GatewayProcess, until
from tests.integration.scripted_engine import ScriptedEngine
from tests.redis_server import RedisServer

TOOL_CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def question() -> str:
    """One that nobody has asked yet."""
    return f"question {uuid4()}"


def told(said: Said) -> dict[str, Any]:
    """What an answer says, whichever its form."""
    if not said.streamed:
        body = said.json()
        message = body["choices"][0]["message"]
        finish, usage = body["choices"][0]["finish_reason"], body["usage"]
        return {**{k: v for k, v in message.items() if v}, "finish": finish, "usage": usage}
    whole: dict[str, Any] = {"role": "assistant"}
    for event in said.events():
        whole |= {"usage": event["usage"]} if event.get("usage") else {}
        for choice in event["choices"]:
            whole |= {"finish": choice["finish_reason"]} if choice["finish_reason"] else {}
            for name in ("content", "reasoning"):
                if choice["delta"].get(name):
                    whole[name] = whole.get(name, "") + choice["delta"][name]
            if choice["delta"].get("tool_calls"):
                calls = [
                    {k: v for k, v in call.items() if k != "index"} for call in choice["delta"]["tool_calls"]
                ]
                whole["tool_calls"] = whole.get("tool_calls", []) + calls
    return whole


def test_the_same_request_is_answered_once_and_told_again(
    scripted_gateway: GatewayProcess, script: ScriptedEngine
) -> None:
    caller, text = scripted_gateway.caller(), question()

    miss, hit = caller.ask(text), caller.ask(text)

    assert (miss.cache, hit.cache) == ("miss", "hit")
    assert len(script.received) == 1
    assert told(hit) == told(miss)
    assert hit.json()["id"] != miss.json()["id"]
    first, again = miss.receipt(), hit.receipt()
    assert (first.outcome, again.outcome) == ("answered", "cached")
    assert again.attempts == ()
    assert again.cache.origin is not None
    assert (again.cache.origin.receipt, again.cache.origin.place) == (first.id, "local-engine")
    assert again.cache.place == "store-memory"
    assert hit.place == "local-engine"


@pytest.mark.parametrize(
    "answer",
    [{"text": "just words"}, {"text": "words", "reasoning": "a thought"}, {"tool_calls": [TOOL_CALL]}],
)
@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False), (True, True)])
def test_an_answer_is_told_again_in_either_form(
    scripted_gateway: GatewayProcess, script: ScriptedEngine, answer: dict[str, Any], first: bool, then: bool
) -> None:
    for name, value in answer.items():
        setattr(script, name, value)
    caller, text = scripted_gateway.caller(), question()
    usage: dict[str, Any] = {"stream_options": {"include_usage": True}}

    miss = caller.ask(text, tools=TOOLS, stream=first, **(usage if first else {}))
    hit = caller.ask(text, tools=TOOLS, stream=then, **(usage if then else {}))

    assert (miss.cache, hit.cache, len(script.received)) == ("miss", "hit", 1)
    if first == then or "text" not in answer:
        assert told(hit) == told(miss)
    else:  # the scripted stream ends each word with a space
        assert {**told(hit), "content": told(hit)["content"].strip()} == {
            **told(miss),
            "content": told(miss)["content"].strip(),
        }
    assert hit.receipt().outcome == "cached"
    assert hit.streamed == then
    if then:
        assert hit.body.endswith(b"data: [DONE]\n\n")
        assert len({event["id"] for event in hit.events()}) == 1


def test_fields_that_do_not_shape_an_answer_do_not_part_it(
    scripted_gateway: GatewayProcess, script: ScriptedEngine
) -> None:
    caller, text = scripted_gateway.caller(), question()
    caller.ask(text)

    assert caller.ask(text, user="somebody", service_tier="auto", store=False).cache == "hit"
    assert caller.ask(text, temperature=None, stop=None).cache == "hit"
    assert caller.ask(text, model="openai/gpt-oss-20b").cache == "hit"


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1},
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"stop": ["x"]},
        {"reasoning_effort": "low"},
        {"tools": TOOLS},
        {"messages": [{"role": "system", "content": "be brief"}]},
        {"top_p": 0.5},
        {"labels": "internal"},
        {"labels": "personal"},
    ],
)
def test_whatever_shapes_an_answer_or_its_residency_parts_it(
    scripted_gateway: GatewayProcess, script: ScriptedEngine, fields: dict[str, Any]
) -> None:
    caller, text = scripted_gateway.caller(), question()
    said = {"role": "user", "content": text}
    caller.ask(text)

    other = caller.ask(
        text, **{**fields, **({"messages": [*fields["messages"], said]} if "messages" in fields else {})}
    )

    assert other.cache == "miss"
    assert len(script.received) == 2


def test_two_tenants_share_nothing(scripted_gateway: GatewayProcess, script: ScriptedEngine) -> None:
    text, labels = question(), "internal, personal"
    first = scripted_gateway.caller().ask(text, labels=labels)
    other = scripted_gateway.caller(HELPDESK).ask(text, labels=labels)

    assert (first.receipt().labels, other.receipt().labels) == (("internal", "personal"),) * 2
    assert other.cache == "miss"
    assert len(script.received) == 2


def test_an_answer_that_broke_off_is_not_kept(
    scripted_gateway: GatewayProcess, script: ScriptedEngine
) -> None:
    caller, text = scripted_gateway.caller(), question()
    script.break_after = 3
    broken = caller.ask(text, stream=True)
    script.break_after = None

    assert broken.receipt().outcome == "incomplete"
    assert list(broken.events())[-1]["error"]["code"] == "stream_broken"
    assert caller.ask(text, stream=True).cache == "miss"
    assert caller.ask(text, stream=True).cache == "hit"


def test_an_answer_whose_caller_left_is_not_kept(
    scripted_gateway: GatewayProcess, script: ScriptedEngine
) -> None:
    text, script.pause_s = question(), 0.2
    body = {"model": "gpt-oss-20b", "stream": True, "messages": [{"role": "user", "content": text}]}
    headers = {"authorization": f"Bearer {scripted_gateway.caller().key}"}
    with scripted_gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        next(response.iter_raw())
    assert script.hung_up.wait(40)
    script.pause_s = 0.0

    assert scripted_gateway.caller().ask(text, stream=True).cache == "miss"


def test_nothing_is_kept_at_a_place_where_the_labels_do_not_permit_it(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, tmp_path: Path
) -> None:
    bundle = bundle_with_keys(tmp_path / "bundle")
    without_examples(bundle)
    edit(
        bundle / "places.yaml",
        "  - id: store-memory          # cache, limits and taints inside the gateway's process\n"
        "    kind: memory\n    country: DE\n",
        "  - id: store-memory\n    kind: memory\n    country: US\n",
    )
    caller = start({**scripted_settings, "policies": str(bundle)}).caller()
    public, personal = question(), question()

    assert [caller.ask(public).cache for _ in range(2)] == ["miss", "hit"]
    assert [caller.ask(personal, labels="personal").cache for _ in range(2)] == ["off", "off"]
    assert len(script.received) == 3


@pytest.mark.parametrize(
    "settings", [{"memory_place": None}, {"memory_place": "nowhere"}, {"cache_ttl_s": 0}]
)
def test_a_store_without_a_place_or_a_time_keeps_nothing(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, settings: dict[str, Any]
) -> None:
    caller, text = start({**scripted_settings, **settings}).caller(), question()

    assert [caller.ask(text).cache for _ in range(2)] == ["off", "off"]
    assert len(script.received) == 2


def test_another_revision_asks_anew(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, tmp_path: Path
) -> None:
    bundle = bundle_with_keys(tmp_path / "bundle")
    gateway = start({**scripted_settings, "policies": str(bundle), "policy_poll_s": 0.1})
    caller, text = gateway.caller(), question()
    before = [caller.ask(text).cache for _ in range(2)]

    edit(bundle / "bundle.yaml", "serial: 1 ", "serial: 2 ")
    until(lambda: gateway.events("policy_loaded"), "the new revision is in force")

    assert before == ["miss", "hit"]
    assert [caller.ask(text).cache for _ in range(2)] == ["miss", "hit"]


@pytest.mark.needs("redis-server")
def test_gateways_with_one_redis_and_one_keys_folder_share_answers_and_a_stranger_does_not_start(
    scripted_settings: dict[str, Any],
    script: ScriptedEngine,
    start: StartGateway,
    own_redis: RedisServer,
    tmp_path: Path,
) -> None:
    settings = {**scripted_settings, "redis_url": own_redis.url, "state_dir": str(tmp_path / "state")}
    one, other, text = start(settings), start(settings), question()
    miss = one.caller().ask(text)
    hit = other.caller().ask(text, stream=True)

    assert (miss.cache, hit.cache) == ("miss", "hit")
    assert hit.receipt().cache.place == "store-redis"
    fetched = other.caller().get(f"/v1/receipts/{miss.receipt().id}")
    assert fetched.json()["jws"] == miss.jws
    assert httpx.codes.is_success(fetched.status_code)
    with pytest.raises(RuntimeError, match="another keys folder is in use with this store"):
        start({**settings, "state_dir": str(tmp_path / "another")})
