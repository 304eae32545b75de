"""boto3 as a foreign client: what it accepts and how it reads errors shows that the emulator is accurate."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import boto3
import botocore.exceptions
import pytest
import urllib3.exceptions
from botocore.config import Config

from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.faults import Fault
from gateway.testing.bedrock.model import ServiceModel
from gateway.testing.bedrock.server import Running, running_emulator
from gateway.testing.bedrock.signature import Keys

MODEL_ID = "openai.gpt-oss-20b-1:0"
HELLO = [{"role": "user", "content": [{"text": "hello there"}]}]
TEXT = "[emulated Bedrock, eu-central-1, no model] You said: hello there"
REASONING = "The user wrote 11 characters. No model is at work here."


def client(url: str, *, region: str = "eu-central-1", keys: Keys | None = None, verify: Any = None) -> Any:
    keys = keys or Keys()
    session = boto3.session.Session(
        aws_access_key_id=keys.access_key, aws_secret_access_key=keys.secret_key, aws_session_token=keys.token
    )
    config = Config(retries={"total_max_attempts": 1, "mode": "standard"}, read_timeout=20)
    return session.client(
        "bedrock-runtime", region_name=region, endpoint_url=url, config=config, verify=verify
    )


def converse_once(bedrock: Any, **arguments: Any) -> Any:
    with contextlib.closing(bedrock):
        return bedrock.converse(**{"modelId": MODEL_ID, "messages": HELLO, **arguments})


async def converse(running: Running, **arguments: Any) -> Any:
    return await asyncio.to_thread(converse_once, client(running.url), **arguments)


async def events(running: Running, **arguments: Any) -> list[dict[str, Any]]:
    def read() -> list[dict[str, Any]]:
        with contextlib.closing(client(running.url)) as bedrock:
            answer = bedrock.converse_stream(modelId=MODEL_ID, **{"messages": HELLO, **arguments})
            with contextlib.closing(answer["stream"]) as stream:
                return list(stream)

    return await asyncio.to_thread(read)


async def test_converse_answers_reasoning_first_and_says_that_it_is_emulated(frankfurt: Running) -> None:
    answer = await converse(frankfurt)
    metadata = answer.pop("ResponseMetadata")
    assert answer == {
        "metrics": {"latencyMs": 30},
        "output": {
            "message": {
                "role": "assistant",
                "content": [{"reasoningContent": {"reasoningText": {"text": REASONING}}}, {"text": TEXT}],
            }
        },
        "stopReason": "end_turn",
        "usage": {"inputTokens": 7, "outputTokens": 20, "totalTokens": 27},
    }
    assert metadata["HTTPHeaders"]["x-douane-emulated"] == "1"
    assert metadata["RequestId"] == metadata["HTTPHeaders"]["x-amzn-requestid"]


async def test_converse_stream_sends_the_events_of_the_service_model_in_order(frankfurt: Running) -> None:
    seen = await events(frankfurt)
    names = [next(iter(event)) for event in seen]
    assert names[0] == "messageStart"
    assert names[-3:] == ["contentBlockStop", "messageStop", "metadata"]
    assert "contentBlockStart" not in names  # text blocks start with their first delta
    deltas = [event["contentBlockDelta"] for event in seen if "contentBlockDelta" in event]
    assert "".join(d["delta"]["reasoningContent"]["text"] for d in deltas if d["contentBlockIndex"] == 0) == (
        REASONING
    )
    assert "".join(d["delta"]["text"] for d in deltas if d["contentBlockIndex"] == 1) == TEXT
    assert seen[-1] == {
        "metadata": {
            "usage": {"inputTokens": 7, "outputTokens": 20, "totalTokens": 27},
            "metrics": {"latencyMs": 30},
        }
    }


async def test_equal_requests_have_equal_answers(frankfurt: Running) -> None:
    first, second = await events(frankfurt), await events(frankfurt)
    assert first == second


@pytest.mark.parametrize("choice", [{"any": {}}, {"tool": {"name": "look_up"}}])
async def test_a_demanded_tool_is_used_with_an_example_of_its_schema(frankfurt: Running, choice: Any) -> None:
    schema = {
        "type": "object",
        "required": ["unit", "count"],
        "properties": {
            "unit": {"enum": ["C", "F"]},
            "count": {"type": "integer"},
            "more": {"type": "string"},
        },
    }
    tools = {
        "tools": [{"toolSpec": {"name": "look_up", "inputSchema": {"json": schema}}}],
        "toolChoice": choice,
    }
    answer = await converse(frankfurt, toolConfig=tools)
    use = answer["output"]["message"]["content"][-1]["toolUse"]
    assert (use["name"], use["input"]) == ("look_up", {"unit": "C", "count": 1})
    assert answer["stopReason"] == "tool_use"

    seen = await events(frankfurt, toolConfig=tools)
    start = next(event["contentBlockStart"] for event in seen if "contentBlockStart" in event)
    assert start["start"]["toolUse"] == {"toolUseId": use["toolUseId"], "name": "look_up"}
    parts = [
        event["contentBlockDelta"]["delta"]["toolUse"]["input"]
        for event in seen
        if "toolUse" in event.get("contentBlockDelta", {}).get("delta", {})
    ]
    assert "".join(parts) == '{"unit":"C","count":1}'


async def test_every_error_of_the_service_model_arrives_as_boto3s_own_exception(
    frankfurt: Running, service_model: ServiceModel
) -> None:
    for code, status in service_model.error_shapes().items():
        frankfurt.emulator.faults.add(Fault(kind="error", code=code, message=f"about {code}"))
        bedrock = client(frankfurt.url)
        with pytest.raises(getattr(bedrock.exceptions, code)) as caught:
            await asyncio.to_thread(converse_once, bedrock)
        response = caught.value.response
        assert response["Error"] == {"Message": f"about {code}", "Code": code}
        assert response["ResponseMetadata"]["HTTPStatusCode"] == status
        if "originalStatusCode" in service_model.error_members(code):
            assert response["originalStatusCode"] == 500


async def test_every_exception_of_a_stream_arrives_inside_it(
    frankfurt: Running, service_model: ServiceModel
) -> None:
    for code, member in service_model.stream_exceptions().items():
        frankfurt.emulator.faults.add(
            Fault(kind="stream_error", code=code, message="no more", after_events=3)
        )
        with pytest.raises(botocore.exceptions.EventStreamError) as caught:
            await events(frankfurt)
        assert caught.value.response["Error"] == {"Code": member, "Message": "no more"}


async def test_a_corrupt_frame_fails_botocores_checksum(frankfurt: Running) -> None:
    frankfurt.emulator.faults.add(Fault(kind="bad_crc", after_events=2))
    with pytest.raises(Exception, match="Checksum mismatch"):
        await events(frankfurt)


async def test_a_truncated_frame_leaves_the_stream_without_its_last_event(frankfurt: Running) -> None:
    frankfurt.emulator.faults.add(Fault(kind="truncated_frame", after_events=2))
    assert [next(iter(event)) for event in await events(frankfurt)] == ["messageStart", "contentBlockDelta"]


@pytest.mark.parametrize("kind", ["cut", "reset"])
async def test_a_connection_that_breaks_in_the_middle_is_an_error_of_the_connection(
    frankfurt: Running, kind: Any
) -> None:
    frankfurt.emulator.faults.add(Fault(kind=kind, after_events=2))
    with pytest.raises(urllib3.exceptions.ProtocolError):
        await events(frankfurt)


async def test_a_reset_before_the_answer_is_an_error_of_the_connection(frankfurt: Running) -> None:
    frankfurt.emulator.faults.add(Fault(kind="reset"))
    with pytest.raises(botocore.exceptions.ConnectionClosedError):
        await converse(frankfurt)


async def refusal(running: Running, **arguments: Any) -> tuple[str, int]:
    region, keys = arguments.pop("region", "eu-central-1"), arguments.pop("keys", None)
    bedrock = client(running.url, region=region, keys=keys)
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        await asyncio.to_thread(converse_once, bedrock, **arguments)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


async def test_a_wrong_secret_is_a_wrong_signature(frankfurt: Running) -> None:
    assert await refusal(frankfurt, keys=Keys(secret_key="wrong")) == ("InvalidSignatureException", 403)


async def test_an_unknown_access_key_is_an_unknown_client(frankfurt: Running) -> None:
    stranger = Keys(access_key="AKIASTRANGER00000000")
    assert await refusal(frankfurt, keys=stranger) == ("UnrecognizedClientException", 403)


async def test_a_signature_for_another_region_is_refused(frankfurt: Running) -> None:
    assert await refusal(frankfurt, region="us-east-1") == ("InvalidSignatureException", 403)


async def test_temporary_keys_need_their_session_token(service_model: ServiceModel) -> None:
    keys = Keys(token="session-token")
    emulator = Emulator("eu-central-1", keys=keys, model=service_model)
    async with running_emulator("eu-central-1", emulator=emulator) as running:
        answer = await asyncio.to_thread(converse_once, client(running.url, keys=keys))
        assert answer["stopReason"] == "end_turn"
        assert await refusal(running, keys=Keys()) == ("UnrecognizedClientException", 403)


async def test_the_ledger_holds_every_request_and_no_content(frankfurt: Running) -> None:
    await converse(frankfurt)
    await refusal(frankfurt, keys=Keys(secret_key="wrong"))
    served, refused = frankfurt.emulator.ledger.requests
    assert (served.operation, served.model_id, served.status, served.error) == (
        "Converse",
        MODEL_ID,
        200,
        None,
    )
    assert served.path == "/model/openai.gpt-oss-20b-1%3A0/converse"
    assert (served.access_key, served.signed_region) == (Keys().access_key, "eu-central-1")
    assert (refused.status, refused.error) == (403, "InvalidSignatureException")
    assert "hello" not in str(frankfurt.emulator.ledger.wire())
