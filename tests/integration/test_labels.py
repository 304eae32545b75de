"""Labels: a caller's header only tightens, and a conversation keeps what it once carried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.bundle import HELPDESK, WARD
from tests.integration.caller import Caller, Said
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import GatewayProcess
from tests.integration.scripted_engine import ScriptedEngine
from tests.redis_server import RedisServer

HIGHEST = ("secret", "financial", "health", "personal")


def labels_of(said: Said) -> tuple[str, ...]:
    """What the request was judged with, as the signed receipt says."""
    assert said.status == 200, said.body
    assert f"labels={','.join(said.receipt().labels)}" in said.headers["x-douane-decision"]
    return said.receipt().labels


def turns(*texts: str) -> list[dict[str, Any]]:
    """A conversation: the caller's turns, with answers between them."""
    messages: list[dict[str, Any]] = []
    for text in texts:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": f"about {text}"}]
    return messages[:-1]


@pytest.mark.parametrize(
    ("key", "header", "judged"),
    [
        (HELPDESK, "public", ("internal", "personal")),
        (HELPDESK, "confidential", ("confidential", "personal")),
        (HELPDESK, None, ("internal", "personal")),
        (WARD, "public", ("public", "health", "personal")),
        (WARD, None, HIGHEST),
        (WARD, "", HIGHEST),
        (WARD, ",", HIGHEST),
    ],
)
def test_a_header_only_tightens(
    gateway: GatewayProcess, key: str, header: str | None, judged: tuple[str, ...]
) -> None:
    said = gateway.caller(key).ask(f"tighten {header}", labels=header, max_tokens=2)

    assert labels_of(said) == judged


def test_the_labels_of_several_headers_join(demo: Caller) -> None:
    body = b'{"model":"gpt-oss-20b","max_tokens":2,"messages":[{"role":"user","content":"joined"}]}'
    headers = [
        ("authorization", f"Bearer {demo.key}"),
        ("x-douane-labels", "Confidential"),
        ("X-Douane-Labels", "public, personal"),
    ]
    response = demo.http.post("/v1/chat/completions", content=body, headers=headers)

    assert "labels=confidential,personal" in response.headers["x-douane-decision"]


@pytest.mark.parametrize(
    "labels", ["sekret", "secret personal", "public,", "secret\t,nonsense", "*", "public;secret"]
)
def test_a_label_outside_the_vocabulary_is_refused_with_the_words_that_exist(
    demo: Caller, labels: str
) -> None:
    said = demo.ask("unknown", labels=labels, max_tokens=2)
    if labels == "public,":  # nothing after the comma is no label
        assert labels_of(said) == ("public",)
        return

    assert (said.status, said.code) == (400, "unknown_label")
    assert "x-douane-labels" in said.error["message"]
    assert said.receipt().outcome == "refused"


def test_a_later_turn_is_judged_with_the_labels_of_an_earlier_one(demo: Caller) -> None:
    first = demo.ask(messages=turns("a patient"), labels="secret, health", max_tokens=2)
    second = demo.ask(messages=turns("a patient", "and more"), max_tokens=2)
    third = demo.ask(
        messages=turns("a patient", "and more", "and more still"), labels="personal", max_tokens=2
    )
    other = demo.ask(messages=turns("a customer"), max_tokens=2)

    assert labels_of(first) == ("secret", "health")
    assert labels_of(second) == ("secret", "health")
    assert labels_of(third) == ("secret", "health", "personal")
    assert labels_of(other) == ("public",)


def test_on_a_machine_that_never_served_a_tenant_no_past_is_lost(demo: Caller) -> None:
    assert labels_of(demo.ask(messages=turns("never", "seen"), max_tokens=2)) == ("public",)
    assert labels_of(demo.ask("a session", metadata={"session_id": "new"}, max_tokens=2)) == ("public",)


def test_a_session_keeps_its_labels_when_the_client_rewrites_its_history(
    scripted_gateway: GatewayProcess, script: ScriptedEngine
) -> None:
    caller = scripted_gateway.caller()
    session = {"session_id": "case-4711"}
    first = caller.ask("the whole story", labels="confidential", metadata=session)

    second = caller.ask("a summary of it", metadata=session)
    other = caller.ask("a summary of something else", metadata={"session_id": "case-4712"})

    assert labels_of(first) == ("confidential",)
    assert labels_of(second) == ("confidential",)
    assert labels_of(other) == ("public",)


def test_a_refused_turn_taints_too(
    gateway: GatewayProcess, scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway
) -> None:
    script.status, script.error = 503, {"message": "down", "code": "x"}
    own = start(scripted_settings)
    refused = own.caller().ask(messages=turns("a formula"), labels="secret")
    script.status = 200

    second = own.caller().ask(messages=turns("a formula", "and more"))

    assert refused.status == 503
    assert labels_of(second) == ("secret",)


def test_after_a_restart_what_the_store_forgot_counts_as_the_highest_labels(
    scripted_settings: dict[str, Any], script: ScriptedEngine, start: StartGateway, tmp_path: Path
) -> None:
    settings = {**scripted_settings, "state_dir": str(tmp_path / "state")}
    before = start(settings)
    assert labels_of(before.caller().ask(messages=turns("old"), labels="public")) == ("public",)
    assert before.caller(HELPDESK).ask("something").status == 200
    assert before.stop() == 0

    after = start(settings)

    assert labels_of(after.caller().ask(messages=turns("old", "newer"))) == HIGHEST
    assert labels_of(after.caller(HELPDESK).ask(messages=turns("old", "newer"))) == (
        "confidential",
        "financial",
        "personal",
    )
    script.text = "about quite new"  # what was really answered is readable; what is made up is not
    assert labels_of(after.caller().ask(messages=turns("quite new"))) == ("public",)
    assert labels_of(after.caller().ask(messages=turns("quite new", "and on"))) == ("public",)
    assert labels_of(after.caller().ask(messages=turns("and on", "made up"))) == HIGHEST


@pytest.mark.needs("redis-server")
def test_gateways_share_labels_through_redis_and_an_emptied_one_counts_as_the_highest(
    scripted_settings: dict[str, Any],
    script: ScriptedEngine,
    start: StartGateway,
    own_redis: RedisServer,
    tmp_path: Path,
) -> None:
    settings = {**scripted_settings, "redis_url": own_redis.url, "state_dir": str(tmp_path / "state")}
    one, other = start(settings), start(settings)

    assert labels_of(one.caller().ask(messages=turns("shared"), labels="secret")) == ("secret",)
    assert labels_of(other.caller().ask(messages=turns("shared", "and more"))) == ("secret",)
    own_redis.kill()
    own_redis.start()  # empty, as after an eviction or a failover that lost its writes
    for gateway in (one, other):
        gateway.caller().ask("wake up")

    assert labels_of(other.caller().ask(messages=turns("innocent", "and more"))) == HIGHEST
