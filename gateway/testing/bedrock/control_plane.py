"""The part of Bedrock that is about the account and not about answers: botocore's service `bedrock`.

Only what reads is emulated. What there is to read is an `Account`, which a test makes as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import botocore.loaders
import botocore.model
import botocore.validate

from gateway.testing.bedrock.errors import AwsError, validation

OPERATIONS: Final = (
    "GetFoundationModel",
    "GetFoundationModelAvailability",
    "ListFoundationModels",
    "GetAccountDataRetention",
    "GetModelInvocationLoggingConfiguration",
    "ListInferenceProfiles",
)
NUMBER: Final = "111122223333"  # the account that AWS's own documentation uses


@dataclass(frozen=True, slots=True)
class Account:
    """What the account is like in one region; the defaults are those of an account that nobody configured.

    `availability` replaces what GetFoundationModelAvailability says of a model id, `models` what the service
    says of it beside the defaults. `denied` are operations that the caller's policy does not allow.
    """

    data_retention: str = "inherit"
    logging: Mapping[str, Any] | None = None
    profiles: tuple[Mapping[str, Any], ...] = ()
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    availability: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    denied: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Question:
    """A request matched to an operation, with the members of its input shape."""

    operation: str
    members: Mapping[str, Any]

    @property
    def model_id(self) -> str | None:
        found = self.members.get("modelIdentifier", self.members.get("modelId"))
        return found if isinstance(found, str) else None


class ControlPlane:
    """Answers questions about an account; `account` may be replaced at any time."""

    def __init__(self, account: Account | None = None) -> None:
        self.account = account or Account()

    @cached_property
    def service(self) -> Any:
        description = botocore.loaders.Loader().load_service_model("bedrock", "service-2")
        return botocore.model.ServiceModel(description, "bedrock")

    @cached_property
    def _routes(self) -> tuple[tuple[str, str, re.Pattern[str]], ...]:
        """(operation, method, pattern over the undecoded path) of those that the installed botocore has."""
        routes = []
        for name in OPERATIONS:
            if name in self.service.operation_names:
                http = self.service.operation_model(name).http
                pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(http["requestUri"]))
                routes.append((name, http["method"], re.compile(pattern)))
        return tuple(routes)

    def match(self, method: str, target: str) -> Question | None:
        """The question in an undecoded path with its query; None when it is none that is emulated."""
        path, _, query = target.partition("?")
        for operation, wanted, pattern in self._routes:
            found = pattern.fullmatch(path)
            if found and method == wanted:
                given = {name: unquote(value) for name, value in found.groupdict().items()}
                return Question(operation, {**given, **self._queried(operation, query)})
        return None

    def _queried(self, operation: str, query: str) -> dict[str, Any]:
        shape = self.service.operation_model(operation).input_shape
        names = {
            member.serialization["name"]: (name, member.type_name)
            for name, member in (shape.members.items() if shape else ())
            if member.serialization.get("location") == "querystring"
        }
        found = {names[name][0]: (value, names[name][1]) for name, value in parse_qsl(query) if name in names}
        return {
            name: int(value) if kind == "integer" and value.isdecimal() else value
            for name, (value, kind) in found.items()
        }

    def answer(self, question: Question, region: str, served: frozenset[str]) -> dict[str, Any]:
        """The answer's members. `served` are the model ids of the region. Raises AwsError."""
        operation = question.operation
        if operation in self.account.denied:
            raise AwsError(
                "AccessDeniedException",
                403,
                f"User: arn:aws:iam::{NUMBER}:user/emulated is not authorized to perform: "
                f"bedrock:{operation}",
            )
        shape = self.service.operation_model(operation).input_shape
        if shape is not None:
            report = botocore.validate.ParamValidator().validate(dict(question.members), shape)
            if report.has_errors():
                raise validation(str(report.generate_report()))
        match operation:
            case "GetFoundationModel":
                return {"modelDetails": self._details(require_served(question, served), region)}
            case "ListFoundationModels":
                return {"modelSummaries": [self._details(model_id, region) for model_id in sorted(served)]}
            case "GetFoundationModelAvailability":
                return self._availability(require_served(question, served))
            case "GetAccountDataRetention":
                return {"mode": self.account.data_retention, "updatedAt": "2026-11-01T00:00:00Z"}
            case "ListInferenceProfiles":
                kind = question.members.get("typeEquals")
                found = [each for each in self.account.profiles if kind in (None, each["type"])]
                return {"inferenceProfileSummaries": found}
            case _:
                return {} if self.account.logging is None else {"loggingConfig": dict(self.account.logging)}

    def _details(self, model_id: str, region: str) -> dict[str, Any]:
        return {
            "modelArn": f"arn:aws:bedrock:{region}::foundation-model/{model_id}",
            "modelId": model_id,
            "modelName": model_id.partition(".")[2].partition("-1:")[0],
            "providerName": "OpenAI",
            "inputModalities": ["TEXT"],
            "outputModalities": ["TEXT"],
            "responseStreamingSupported": True,
            "customizationsSupported": [],
            "inferenceTypesSupported": ["ON_DEMAND"],
            "modelLifecycle": {"status": "ACTIVE"},
            **self.account.models.get(model_id, {}),
        }

    def _availability(self, model_id: str) -> dict[str, Any]:
        return {
            "modelId": model_id,
            "agreementAvailability": {"status": "AVAILABLE"},
            "authorizationStatus": "AUTHORIZED",
            "entitlementAvailability": "AVAILABLE",
            "regionAvailability": "AVAILABLE",
            **self.account.availability.get(model_id, {}),
        }


def require_served(question: Question, served: frozenset[str]) -> str:
    """The model id that is asked about. Raises AwsError when the region does not have it."""
    model_id = question.model_id
    if model_id is None or model_id not in served:
        raise AwsError(
            "ResourceNotFoundException",
            404,
            "Could not resolve the foundation model from the provided model identifier.",
        )
    return model_id
