"""Any message of a labelled conversation brings its labels into any other, told at one gateway and sent again
at another; with the `openai` package unchanged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import redis
from openai import OpenAI

from tests.integration.bundle import HELPDESK
from tests.integration.gateway_process import GatewayProcess, running_gateway
from tests.integration.regions import Regions
from tests.integration.scripted_engine import ScriptedEngine
from tests.integration.test_openai_client import client
from tests.redis_server import RedisServer

pytestmark = pytest.mark.needs("redis-server")

LOCAL, CLOUD = "gpt-oss-20b", "gpt-oss-120b"  # the engine runs the small one: the large one is Bedrock's
SECRET = {"x-douane-labels": "secret"}
NO_CLOUD = "permitted_backend_unavailable"  # only our own engine may, and it does not have that model
TOOLS: Any = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"case":4711}'}}
Message = dict[str, Any]

numbers = itertools.count()


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def gateways(
    scripted_settings: dict[str, Any], shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    """Two workers of one machine: what the second knows of the first, the store has told it."""
    folder: Path = tmp_path_factory.mktemp("replays")
    settings = {
        **scripted_settings,
        "engine_models": [LOCAL],
        "redis_url": shared_redis.url,
        "state_dir": str(folder / "state"),
    }
    with (
        running_gateway(folder / "one", settings) as one,
        running_gateway(folder / "other", settings) as other,
    ):
        yield one, other


@pytest.fixture
def sdk(gateways: tuple[GatewayProcess, GatewayProcess]) -> Iterator[OpenAI]:
    with client(gateways[0]) as opened:
        yield opened


@pytest.fixture
def elsewhere(gateways: tuple[GatewayProcess, GatewayProcess]) -> Iterator[OpenAI]:
    with client(gateways[1]) as opened:
        yield opened


@pytest.fixture
def case(script: ScriptedEngine) -> str:
    """Words that no other test says; the engine answers with them."""
    name = f"case {next(numbers)}"
    script.text = f"the findings on {name}"
    return name


def user(content: Any) -> Message:
    return {"role": "user", "content": content}


def ask(sdk: OpenAI, messages: Sequence[Message], **more: Any) -> Any:
    completions: Any = sdk.chat.completions  # its types are of literal requests
    return completions.create(messages=list(messages), **more)


def plain(sdk: OpenAI, messages: list[Message], **more: Any) -> Message:
    """Asks the engine; the answer as the package gives it back."""
    answer = ask(sdk, messages, model=LOCAL, **more)
    return dict(answer.choices[0].message.model_dump(exclude_none=True))


def streamed(sdk: OpenAI, messages: list[Message], **more: Any) -> Message:
    """The same as a stream, put together from what was said and called: no reasoning, ids of its own."""
    content, calls = "", dict[int, Message]()
    for chunk in ask(sdk, messages, model=LOCAL, stream=True, **more):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for part in choice.delta.tool_calls or ():
                call = calls.setdefault(part.index, {"name": "", "arguments": ""})
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""
    own = [{"id": f"own-{at}", "type": "function", "function": call} for at, call in calls.items()]
    return {"role": "assistant", "content": content, **({"tool_calls": own} if own else {})}


def in_cloud(sdk: OpenAI, *messages: Message, **more: Any) -> str:
    """Asks for what only a cloud has, in a conversation of its own: `answered`, or why it was refused."""
    try:
        ask(sdk, messages, model=CLOUD, **more)
    except openai.APIStatusError as refused:
        return str(refused.code)
    return "answered"


def require_secret(sdk: OpenAI, regions: Regions, *messages: Message) -> None:
    """Alone, among others, after others, and under a session id, each of them is refused to every cloud."""
    for message in messages:
        fresh = user(f"what of this? {next(numbers)}")
        for new in ([message], [message, fresh], [fresh, message]):
            assert in_cloud(sdk, *new) == NO_CLOUD
        session = {"session_id": f"another {next(numbers)}"}
        assert in_cloud(sdk, message, metadata=session) == NO_CLOUD
    assert regions.touched() == set()


def test_each_message_and_each_answer_of_a_conversation(
    sdk: OpenAI, elsewhere: OpenAI, regions: Regions, script: ScriptedEngine, case: str
) -> None:
    told: list[Message] = [{"role": "system", "content": "be brief"}, user(f"a formula, {case}")]
    script.reasoning = "a thought"
    told.append(plain(sdk, told, extra_headers=SECRET))
    told.append(user([{"type": "text", "text": "look "}, {"type": "text", "text": f"it up, {case}"}]))
    script.tool_calls = [{**CALL, "function": {"name": "look_up", "arguments": f'{{"of":"{case}"}}'}}]
    told.append(streamed(sdk, told, tools=TOOLS))
    told.append({"role": "tool", "tool_call_id": "own-0", "content": f"the dose, {case}"})
    script.tool_calls, script.text = None, f"the advice on {case}"
    told.append(streamed(sdk, told, tools=TOOLS))
    assert [message["role"] for message in told[1:]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]

    require_secret(elsewhere, regions, *told[1:])

    require_secret(elsewhere, regions, user(f"look it up, {case}"), user(told[2]["content"]))
    assert in_cloud(elsewhere, told[0], user(f"something else, {case}")) == "answered"
    assert regions.received() != {}


@pytest.mark.parametrize("again", [plain, streamed])
@pytest.mark.parametrize("calls", [False, True])
def test_an_answer_that_came_from_the_cache(
    sdk: OpenAI,
    elsewhere: OpenAI,
    regions: Regions,
    script: ScriptedEngine,
    shared_redis: RedisServer,
    case: str,
    again: Any,
    calls: bool,
) -> None:
    if calls:
        script.tool_calls = [{**CALL, "function": {"name": "look_up", "arguments": f'{{"a": "{case}"}}'}}]
    question = [user(f"a question, {case}")]
    first = plain(sdk, question, tools=TOOLS, extra_headers=SECRET)
    # Whatever the store knew of that answer is gone; the answer itself is still in the cache.
    with redis.Redis(port=shared_redis.port) as there:
        for labels in there.keys("*:labels"):
            (fields,) = [there.hkeys(labels)]
            there.hdel(labels, *(field for field in fields if field not in (b"epoch", b"run", b"format")))

    second = again(sdk, question, tools=TOOLS, extra_headers=SECRET)

    assert len(script.received) == 1, "the second came from the cache"
    require_secret(elsewhere, regions, first, second)


def test_what_a_client_asked_that_hung_up_in_the_middle(
    sdk: OpenAI, elsewhere: OpenAI, regions: Regions, script: ScriptedEngine, case: str
) -> None:
    script.pause_s = 0.2
    asked = user(f"a long story, {case}")
    with ask(sdk, [asked], model=LOCAL, stream=True, extra_headers=SECRET) as stream:
        next(iter(stream))
    assert script.hung_up.wait(40)
    script.pause_s = 0.0

    require_secret(elsewhere, regions, asked)


def test_another_tenant_that_says_the_same_words(
    gateways: tuple[GatewayProcess, GatewayProcess],
    sdk: OpenAI,
    elsewhere: OpenAI,
    regions: Regions,
    case: str,
) -> None:
    asked = user(f"words in common, {case}")
    said = plain(sdk, [asked], extra_headers=SECRET)

    with client(gateways[1], HELPDESK) as helpdesk:
        assert in_cloud(helpdesk, asked, said, user("and now?")) == "answered"
    assert set(regions.received()) <= {"eu-central-1", "eu-north-1", "eu-south-1", "eu-west-1"}
    regions.mark()
    require_secret(elsewhere, regions, asked, said)


def test_other_words_and_edited_ones_go_where_their_own_labels_permit(
    sdk: OpenAI, elsewhere: OpenAI, regions: Regions, case: str
) -> None:
    plain(sdk, [user(f"a formula, {case}")], extra_headers=SECRET)

    assert in_cloud(elsewhere, user(f"the formula, {case}")) == "answered"  # no detector knows formulas
    assert sum(regions.received().values()) == 1


def test_once_redis_was_emptied_whatever_shows_a_past_is_taken_for_the_highest(
    sdk: OpenAI,
    elsewhere: OpenAI,
    regions: Regions,
    script: ScriptedEngine,
    shared_redis: RedisServer,
    case: str,
) -> None:
    asked = user(f"a formula, {case}")
    said = plain(sdk, [asked], extra_headers=SECRET)
    alone = user(f"a lonely question, {case}")
    plain(sdk, [alone], extra_headers=SECRET)
    with redis.Redis(port=shared_redis.port) as there:
        there.flushall()

    for lost in ([asked, said, user("go on")], [asked, user("go on")], [said], [user("before"), said]):
        assert in_cloud(elsewhere, *lost) == NO_CLOUD
    assert in_cloud(elsewhere, alone, metadata={"session_id": "a new one"}) == NO_CLOUD
    assert in_cloud(sdk, alone) == NO_CLOUD, "its own worker remembers it"
    assert regions.touched() == set()

    script.text = f"new words on {case}"
    fresh = [user(f"quite new, {case}")]
    fresh.append(plain(elsewhere, fresh))
    assert in_cloud(elsewhere, *fresh, user(f"and on, {case}")) == "answered"
