"""The emulator's answers about an account: boto3 accepts them, and they fit botocore's service model."""

from __future__ import annotations

import asyncio
from typing import Any

import boto3
import botocore.exceptions
import botocore.validate
import httpx
import pytest

from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.control_plane import OPERATIONS, Account, ControlPlane, Question
from gateway.testing.bedrock.quirks import served_models
from gateway.testing.bedrock.server import Running, running_emulator
from gateway.testing.bedrock.signature import Keys

REGION = "eu-central-1"
MODEL = "openai.gpt-oss-20b-1:0"
PROFILE = {
    "inferenceProfileName": "made",
    "inferenceProfileId": "made",
    "inferenceProfileArn": f"arn:aws:bedrock:{REGION}:111122223333:application-inference-profile/made",
    "models": [{"modelArn": f"arn:aws:bedrock:{REGION}::foundation-model/{MODEL}"}],
    "status": "ACTIVE",
    "type": "APPLICATION",
}
LOGGING = {"s3Config": {"bucketName": "prompts", "keyPrefix": "x"}, "textDataDeliveryEnabled": True}
ACCOUNT = Account(data_retention="none", logging=LOGGING, profiles=(PROFILE,))


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    keys = Keys()
    return boto3.Session(aws_access_key_id=keys.access_key, aws_secret_access_key=keys.secret_key)


@pytest.fixture(scope="module")
def plane() -> ControlPlane:
    return ControlPlane(ACCOUNT)


async def ask(session: boto3.Session, running: Running, method: str, **members: Any) -> dict[str, Any]:
    client = session.client("bedrock", region_name=REGION, endpoint_url=running.url)
    answer: dict[str, Any] = await asyncio.to_thread(getattr(client, method), **members)
    answer.pop("ResponseMetadata")
    return answer


async def test_boto3_reads_what_the_account_is_like(session: boto3.Session, plane: ControlPlane) -> None:
    emulator = Emulator(REGION, control_plane=plane)
    async with running_emulator(REGION, emulator=emulator) as running:
        model = await ask(session, running, "get_foundation_model", modelIdentifier=MODEL)
        listed = await ask(session, running, "list_foundation_models")
        access = await ask(session, running, "get_foundation_model_availability", modelId=MODEL)
        retention = await ask(session, running, "get_account_data_retention")
        logging = await ask(session, running, "get_model_invocation_logging_configuration")
        profiles = await ask(session, running, "list_inference_profiles", typeEquals="APPLICATION")
        others = await ask(session, running, "list_inference_profiles", typeEquals="SYSTEM_DEFINED")

    details = model["modelDetails"]
    assert (details["modelId"], details["inferenceTypesSupported"]) == (MODEL, ["ON_DEMAND"])
    assert {one["modelId"] for one in listed["modelSummaries"]} == served_models(REGION)
    assert access["authorizationStatus"] == "AUTHORIZED"
    assert retention["mode"] == "none"
    assert logging == {"loggingConfig": LOGGING}
    assert [one["inferenceProfileId"] for one in profiles["inferenceProfileSummaries"]] == ["made"]
    assert others == {"inferenceProfileSummaries": []}
    asked = [(one.operation, one.model_id, one.status) for one in emulator.ledger.requests]
    assert asked[:2] == [("GetFoundationModel", MODEL, 200), ("ListFoundationModels", None, 200)]
    assert len(asked) == 7


async def test_it_refuses_as_aws_does(session: boto3.Session, plane: ControlPlane) -> None:
    denied = ControlPlane(Account(denied=frozenset({"ListInferenceProfiles"})))
    emulator = Emulator(REGION, control_plane=denied)
    async with running_emulator(REGION, emulator=emulator) as running:
        with pytest.raises(botocore.exceptions.ClientError) as unknown:
            await ask(session, running, "get_foundation_model", modelIdentifier="another.model-1:0")
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            await ask(session, running, "list_inference_profiles")

    assert unknown.value.response["Error"]["Code"] == "ResourceNotFoundException"
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"
    assert "bedrock:ListInferenceProfiles" in refused.value.response["Error"]["Message"]
    assert [one.error for one in emulator.ledger.requests] == [
        "ResourceNotFoundException",
        "AccessDeniedException",
    ]


async def test_a_question_must_be_signed(plane: ControlPlane) -> None:
    emulator = Emulator(REGION, control_plane=plane)
    async with running_emulator(REGION, emulator=emulator) as running, httpx.AsyncClient() as http:
        answer = await http.get(f"{running.url}/data-retention")

    assert (answer.status_code, answer.headers["x-douane-emulated"]) == (403, "1")
    assert [one.error for one in emulator.ledger.requests] == ["MissingAuthenticationTokenException"]


async def test_a_signature_for_another_region_is_refused(session: boto3.Session, plane: ControlPlane) -> None:
    async with running_emulator(REGION, emulator=Emulator(REGION, control_plane=plane)) as running:
        client = session.client("bedrock", region_name="us-east-1", endpoint_url=running.url)
        with pytest.raises(botocore.exceptions.ClientError, match="valid region"):
            await asyncio.to_thread(client.get_account_data_retention)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_answer_has_the_members_of_its_shape_and_no_others(operation: str, plane: ControlPlane) -> None:
    members = {"modelIdentifier": MODEL, "modelId": MODEL} if "FoundationModel" in operation else {}
    shape = plane.service.operation_model(operation).output_shape
    known = plane.service.operation_model(operation).input_shape
    asked = {name: value for name, value in members.items() if known and name in known.members}

    told = plane.answer(Question(operation, asked), REGION, served_models(REGION))

    report = botocore.validate.ParamValidator().validate(told, shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize(
    ("method", "target"),
    [("PUT", "/data-retention"), ("GET", "/guardrails"), ("GET", "/foundation-models/a/b"), ("GET", "/")],
)
def test_what_is_not_emulated_is_no_question(method: str, target: str, plane: ControlPlane) -> None:
    assert plane.match(method, target) is None
