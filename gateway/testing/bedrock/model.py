"""Which operation a request is for, and whether its members fit it, from botocore's own service model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final
from urllib.parse import unquote

import botocore.loaders
import botocore.model
import botocore.validate
import orjson

from gateway.testing.bedrock.errors import AwsError, validation

OPERATIONS: Final = ("Converse", "ConverseStream")
PADDING: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@dataclass(frozen=True, slots=True)
class Call:
    """A request matched to an operation: `members` are the shape's members, the model id among them."""

    operation: str
    model_id: str
    members: Mapping[str, Any]


class ServiceModel:
    """botocore's description of `bedrock-runtime`, read from its data files."""

    @cached_property
    def _service(self) -> Any:
        description = botocore.loaders.Loader().load_service_model("bedrock-runtime", "service-2")
        return botocore.model.ServiceModel(description, "bedrock-runtime")

    @cached_property
    def _routes(self) -> tuple[tuple[str, str, re.Pattern[str]], ...]:
        """(operation, method, pattern over the undecoded path) of every operation that is emulated."""
        routes = []
        for name in OPERATIONS:
            http = self._service.operation_model(name).http
            pattern = re.escape(http["requestUri"]).replace(r"\{modelId\}", "(?P<modelId>[^/]+)")
            routes.append((name, http["method"], re.compile(pattern)))
        return tuple(routes)

    def error_shapes(self) -> dict[str, int]:
        """Every exception of the service with its HTTP status, by the service model."""
        shapes = (self._service.shape_for(name) for name in self._service.shape_names)
        return {s.name: s.metadata["error"]["httpStatusCode"] for s in shapes if s.metadata.get("exception")}

    def error_members(self, code: str) -> frozenset[str]:
        """The members of an exception's shape."""
        return frozenset(self._service.shape_for(code).members)

    def stream_exceptions(self) -> dict[str, str]:
        """The exceptions that a ConverseStream may carry: shape name → member name on the wire."""
        members = self._service.operation_model("ConverseStream").output_shape.members["stream"].members
        return {shape.name: member for member, shape in members.items() if shape.metadata.get("exception")}

    def match(self, method: str, path: str) -> tuple[str, str] | None:
        """(operation, decoded model id) for an undecoded path; None when it is no emulated operation."""
        for operation, wanted, pattern in self._routes:
            found = pattern.fullmatch(path)
            if found and method == wanted:
                return operation, unquote(found["modelId"])
        return None

    def parse(self, operation: str, model_id: str, body: bytes) -> Call:
        """The call, validated against the operation's input shape. Raises AwsError (ValidationException)."""
        try:
            members = orjson.loads(body or b"{}")
        except orjson.JSONDecodeError:
            raise AwsError(
                "SerializationException", 400, "Unable to parse the request body as JSON."
            ) from None
        if not isinstance(members, dict):
            raise AwsError(
                "SerializationException", 400, "Start of structure or map found where not expected."
            )
        shape = self._service.operation_model(operation).input_shape
        report = botocore.validate.ParamValidator().validate({**members, "modelId": model_id}, shape)
        if report.has_errors():
            raise validation(str(report.generate_report()))
        return Call(operation, model_id, members)


def padding(text: str) -> str:
    """The member `p` of stream events, which hides how long an event is; it depends on the text only."""
    return PADDING[: (len(text) * 7) % len(PADDING) + 1]
