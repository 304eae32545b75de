"""What the tests of backends share: places, attempts, requests, and a signer for the emulator."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson
from botocore.session import Session

from gateway.backends.credentials import AwsCredentials
from gateway.backends.signing import SigV4Signer
from gateway.facts import Facts
from gateway.labels import Labels
from gateway.openai import ChatRequest, parse_chat
from gateway.places import Action, Place
from gateway.policy.permit import Permitted
from gateway.routing.attempt import Attempt
from gateway.testing.bedrock.model import ServiceModel
from gateway.testing.bedrock.signature import Keys

SERVICE_MODEL = ServiceModel()  # read once: it only ever caches botocore's own files
MODEL = "gpt-oss-20b"
RUNTIME_ID = "openai.gpt-oss-20b-1:0"


def place(
    kind: str,
    place_id: str = "under-test",
    *,
    region: str | None = None,
    models: Mapping[str, str] | None = None,
    host: str | None = None,
    operator: str = "self",
) -> Place:
    return Place(
        id=place_id,
        kind=kind,
        models=MappingProxyType(dict(models or {MODEL: MODEL})),
        region=region,
        partition="aws" if region else None,
        country="DE",
        zones=frozenset({"DE", "EU", "EEA"}),
        operator=operator,
        regimes=frozenset(),
        attestations=frozenset(),
        source="derived" if kind == "bedrock" else "declared",
        host=host,
    )


def bedrock_place(region: str = "eu-central-1") -> Place:
    return place(
        "bedrock",
        f"bedrock-{region}",
        region=region,
        models={MODEL: RUNTIME_ID, "gpt-oss-120b": "openai.gpt-oss-120b-1:0"},
        host=f"bedrock-runtime.{region}.amazonaws.com",
        operator="aws",
    )


def attempt(
    at: Place,
    *,
    model: str = MODEL,
    tenant: str = "acme",
    first_byte_timeout_s: float = 20.0,
    total_timeout_s: float = 30.0,
) -> Attempt:
    """An attempt at a place where inference is permitted."""
    facts = Facts(tenant, "DE", "assistant", model, Labels("public", frozenset()))
    places = {action: frozenset[str]() for action in Action} | {Action.INFER: frozenset({at.id})}
    permitted = Permitted(
        facts=facts,
        revision="sha256:test",
        places=places,
        entrances=frozenset(),
        digest="test",
        _applying=None,
        _bundle=None,  # type: ignore[arg-type]
    )
    return Attempt(at, permitted, first_byte_timeout_s, total_timeout_s)


def chat(content: str = "hello there", **fields: Any) -> ChatRequest:
    """A request as the gateway would have parsed it."""
    messages = [{"role": "user", "content": content}]
    return parse_chat(orjson.dumps({"model": MODEL, "messages": messages, **fields}))


def emulator_signer(region: str = "eu-central-1", keys: Keys | None = None) -> SigV4Signer:
    keys = keys or Keys()
    session = Session()
    session.set_credentials(keys.access_key, keys.secret_key, keys.token)
    return SigV4Signer(AwsCredentials(session), region)


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": sorted(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": f"does {name}", "parameters": parameters},
    }
