"""Signatures that no ordinary client would send, and AWS's answer to each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from gateway.testing.bedrock.errors import AwsError
from gateway.testing.bedrock.signature import Keys, WireRequest, canonical_request, verify

TARGET = "/model/openai.gpt-oss-20b-1%3A0/converse"
BODY = b'{"messages":[]}'
MISMATCH = (
    "InvalidSignatureException 403: The request signature we calculated does not match the signature you "
    "provided"
)


def signed(
    target: str = TARGET, *, service: str = "bedrock", region: str = "eu-central-1", **headers: str
) -> WireRequest:
    """A request as botocore signs it."""
    keys = Keys()
    credentials = ReadOnlyCredentials(keys.access_key, keys.secret_key, None)
    request = AWSRequest("POST", f"http://127.0.0.1:1{target}", {"host": "127.0.0.1:1", **headers}, BODY)
    SigV4Auth(credentials, service, region).add_auth(request)
    return WireRequest("POST", target, {name.lower(): value for name, value in request.headers.items()}, BODY)


def code(request: WireRequest, now: datetime | None = None) -> str | None:
    try:
        verify(request, Keys(), "eu-central-1", now or datetime.now(UTC))
    except AwsError as error:
        return f"{error.code} {error.status}: {error.message.split('.')[0].split(':')[0]}"
    return None


def with_header(request: WireRequest, name: str, value: str) -> WireRequest:
    return replace(request, headers={**request.headers, name: value})


def test_a_request_that_botocore_signed_is_accepted() -> None:
    assert code(signed()) is None
    assert code(signed(TARGET + "?b=2&a=1")) is None


def test_the_canonical_path_quotes_the_wire_path_once_more() -> None:
    request = signed()
    lines = canonical_request(request, "host;x-amz-date").split("\n")
    assert lines[1] == "/model/openai.gpt-oss-20b-1%253A0/converse"


def test_a_client_that_signs_the_path_quoted_once_is_refused() -> None:
    # The classic mistake: `:` is signed as `%3A`, which is right for S3 only.
    assert code(replace(signed("/model/openai.gpt-oss-20b-1:0/converse"), target=TARGET)) == MISMATCH


TAMPERED: list[tuple[str, Callable[[WireRequest], WireRequest], str]] = [
    ("body", lambda r: replace(r, body=b'{"messages":[1]}'), MISMATCH),
    ("path", lambda r: replace(r, target=TARGET.replace("20b", "120b")), MISMATCH),
    ("method", lambda r: replace(r, method="PUT"), MISMATCH),
    ("query", lambda r: replace(r, target=TARGET + "?x=1"), MISMATCH),
    ("signed header", lambda r: with_header(r, "host", "elsewhere"), MISMATCH),
    (
        "unsigned amz header",
        lambda r: with_header(r, "x-amz-target", "Converse"),
        "InvalidSignatureException 403: 'x-amz-target' must be a 'SignedHeader' in the AWS Authorization",
    ),
    (
        "body digest",
        lambda r: with_header(r, "x-amz-content-sha256", hashlib.sha256(b"other").hexdigest()),
        "InvalidSignatureException 403: 'x-amz-content-sha256' must be a 'SignedHeader' in the AWS "
        "Authorization",
    ),
    (
        "no authorization",
        lambda r: with_header(r, "authorization", ""),
        "MissingAuthenticationTokenException 403: Missing Authentication Token",
    ),
    (
        "half an authorization",
        lambda r: with_header(r, "authorization", r.headers["authorization"].partition(", Signature")[0]),
        "IncompleteSignatureException 403: Authorization header requires 'Credential', 'SignedHeaders' and "
        "'Signature'",
    ),
    (
        "date that is none",
        lambda r: with_header(r, "x-amz-date", "yesterday"),
        "IncompleteSignatureException 403: Date must be in ISO-8601 'basic format'",
    ),
    (
        "bearer token where none is configured",
        lambda r: with_header(r, "authorization", "Bearer x"),
        "AccessDeniedException 403: Authentication failed",
    ),
]


@pytest.mark.parametrize(
    ("tamper", "expected"), [row[1:] for row in TAMPERED], ids=[row[0] for row in TAMPERED]
)
def test_whatever_is_tampered_with_is_refused(
    tamper: Callable[[WireRequest], WireRequest], expected: str
) -> None:
    assert code(tamper(signed())) == expected


def test_a_signature_for_another_service_or_region_is_refused() -> None:
    assert code(signed(service="s3")) == (
        "InvalidSignatureException 403: Credential should be scoped to correct service"
    )
    assert code(signed(region="us-east-1")) == (
        "InvalidSignatureException 403: Credential should be scoped to a valid region"
    )


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        (timedelta(minutes=4), None),
        (timedelta(minutes=6), "InvalidSignatureException 403: Signature expired"),
        (timedelta(minutes=-6), "InvalidSignatureException 403: Signature not yet current"),
    ],
)
def test_a_stale_or_early_signature_is_refused(late: timedelta, expected: str | None) -> None:
    assert code(signed(), now=datetime.now(UTC) + late) == expected


def test_a_declared_body_digest_must_be_true_even_when_signed() -> None:
    wrong = signed(**{"x-amz-content-sha256": hashlib.sha256(b"other").hexdigest()})
    assert code(wrong) == (
        "InvalidSignatureException 403: The provided 'x-amz-content-sha256' header does not match what was "
        "computed"
    )
    right = signed(**{"x-amz-content-sha256": hashlib.sha256(BODY).hexdigest()})
    assert code(right) is None
