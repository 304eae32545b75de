"""What each error of Bedrock means to the gateway, by the names of botocore's service model (pure).

Bedrock's own texts may repeat a caller's content, so they are looked at but never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import orjson

from gateway.backends.base import (
    BackendFault,
    Misconfigured,
    NotReady,
    Refused,
    ServerFault,
    Throttled,
    TimedOut,
    Upstream,
)

Maker = Callable[[str, Upstream], BackendFault]


def made(kind: type[BackendFault], text: str) -> Maker:
    return lambda place_id, upstream: kind(f"`{place_id}` {text}", upstream=upstream)


INVALID_MODEL: Final = made(
    Misconfigured,
    "does not serve this model in its region, or the account has no access to it; check `places.yaml`",
)
CONTEXT_LENGTH: Final = re.compile(
    r"maximum context length|input is too long|too many (input )?tokens|context window|exceeds? the maximum",
    re.IGNORECASE,
)
INVALID_MODEL_TEXTS: Final = (
    "the provided model identifier is invalid",
    "on-demand throughput isn",
    "model is unsupported for",
)

# Codes of a signature that was refused, for its time among other reasons.
OF_THE_CLOCK: Final = frozenset(
    {"InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed", "RequestTimeTooSkewedException"}
)
WRONG_TIME: Final = made(
    Misconfigured, "refused the request's signature for its time; set this machine's clock by NTP"
)

# Every exception shape of botocore's `bedrock-runtime` model, and the errors that any AWS service may give.
FAULTS: Final[Mapping[str, Maker]] = MappingProxyType(
    {
        "AccessDeniedException": made(
            Misconfigured, "denied access; allow `bedrock:InvokeModel*` on the model for the gateway's role"
        ),
        "ConflictException": made(ServerFault, "reported a conflict"),
        "InternalServerException": made(ServerFault, "failed"),
        "ModelErrorException": made(ServerFault, "failed while the model was running"),
        "ModelNotReadyException": made(NotReady, "is still loading the model"),
        "ModelStreamErrorException": made(ServerFault, "failed in the middle of its answer"),
        "ModelTimeoutException": made(TimedOut, "let the model run out of time"),
        "ResourceNotFoundException": made(
            Misconfigured, "does not know the model; check its id in `places.yaml`"
        ),
        "ServiceQuotaExceededException": made(
            Throttled, "has no quota left for this account; raise the quota at AWS"
        ),
        "ServiceUnavailableException": made(ServerFault, "is unavailable"),
        "ThrottlingException": made(Throttled, "throttles this account"),
        "ValidationException": lambda place_id, upstream: Refused(
            f"`{place_id}` refused the request as invalid", upstream=upstream
        ),
        "UnrecognizedClientException": made(Misconfigured, "does not know the gateway's AWS access key"),
        "InvalidSignatureException": made(
            Misconfigured,
            "refused the request's signature; check the AWS secret key and this machine's clock",
        ),
        "RequestExpired": WRONG_TIME,
        "RequestTimeTooSkewed": WRONG_TIME,
        "RequestTimeTooSkewedException": WRONG_TIME,
        "ExpiredTokenException": made(Misconfigured, "refused an expired AWS session token"),
        "MissingAuthenticationTokenException": made(Misconfigured, "got a request without a signature"),
        "IncompleteSignatureException": made(Misconfigured, "got an incomplete signature"),
        "UnknownOperationException": made(Misconfigured, "does not know the operation; check its endpoint"),
        "SerializationException": lambda place_id, upstream: Refused(
            f"`{place_id}` could not read the request", upstream=upstream
        ),
        "RequestEntityTooLargeException": lambda place_id, upstream: Refused(
            f"`{place_id}` refused the request as too large",
            code="context_length_exceeded",
            upstream=upstream,
        ),
    }
)


def error_code(header: str | None, body: bytes) -> str:
    """The error's name from `x-amzn-ErrorType` (`Name:http://…`) or the body's `__type` (`ns#Name`)."""
    code = header or ""
    if not code:
        code = str(error_object(body).get("__type") or error_object(body).get("code") or "")
    return code.partition(":")[0].rpartition("#")[2]


def error_object(body: bytes) -> Mapping[str, object]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def http_fault(status: int, code: str, body: bytes, place_id: str, upstream: Upstream) -> BackendFault:
    """The fault of an HTTP error answer."""
    if code == "ValidationException":
        return validation_fault(str(error_object(body).get("message", "")), place_id, upstream)
    if code in FAULTS:
        return FAULTS[code](place_id, upstream)
    match status:
        case 429:
            return FAULTS["ThrottlingException"](place_id, upstream)
        case 408:
            return FAULTS["ModelTimeoutException"](place_id, upstream)
        case 401 | 403:
            return FAULTS["AccessDeniedException"](place_id, upstream)
        case 404:
            return FAULTS["UnknownOperationException"](place_id, upstream)
        case 413:
            return FAULTS["RequestEntityTooLargeException"](place_id, upstream)
        case _ if 400 <= status < 500 and status != 424:
            return FAULTS["SerializationException"](place_id, upstream)
    return ServerFault(f"`{place_id}` failed with status {status}", upstream=upstream)


def validation_fault(text: str, place_id: str, upstream: Upstream) -> BackendFault:
    """A ValidationException is the caller's fault, unless it is about the model id, which is ours."""
    lowered = text.lower()
    if any(known in lowered for known in INVALID_MODEL_TEXTS):
        return INVALID_MODEL(place_id, upstream)
    if CONTEXT_LENGTH.search(text):
        return Refused(
            f"`{place_id}` refused the request: prompt and answer do not fit the context; shorten the prompt",
            code="context_length_exceeded",
            upstream=upstream,
        )
    return FAULTS["ValidationException"](place_id, upstream)


def stream_fault(code: str, place_id: str, upstream: Upstream) -> BackendFault:
    """The fault of an exception frame, whose code starts in lower case."""
    name = code[:1].upper() + code[1:]
    if name in FAULTS:
        return FAULTS[name](place_id, upstream)
    return ServerFault(f"`{place_id}` failed in the middle of its answer", upstream=upstream)
