"""Checks a request's SigV4 signature the way AWS does: rebuild it from what arrived and compare.

The canonical path quotes the path that came over the wire once more, so `openai.gpt-oss-20b-1%3A0` is
signed as `openai.gpt-oss-20b-1%253A0`; a client that signs the single-quoted path is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from gateway.testing.bedrock.errors import AwsError

SERVICE = "bedrock"
CLOCK_SKEW = timedelta(minutes=5)
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/,\s]+)/(?P<date>\d{8})/(?P<region>[^/,]*)/(?P<service>[^/,]*)"
    r"/aws4_request,\s*SignedHeaders=(?P<signed>[^,\s]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Keys:
    """Who may call: one access key, as AWS would know it."""

    access_key: str = "AKIADOUANEEMULATOR00"
    secret_key: str = "emulated-secret-key-that-opens-nothing-at-aws"  # noqa: S105 (it opens nothing)
    token: str | None = None
    bearer: str | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """What the authorization header claims, before anything is checked."""

    access_key: str | None
    region: str | None
    service: str | None


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as it came: `target` is the undecoded path with its query string."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


def claimed(headers: Mapping[str, str]) -> Signed:
    """The claims of a request, for the ledger; nothing is verified here."""
    match = AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    return Signed(match["key"], match["region"], match["service"]) if match else Signed(None, None, None)


def verify(request: WireRequest, keys: Keys, region: str, now: datetime) -> None:
    """Raises AwsError unless the request is signed for this region and service by a known key."""
    authorization = request.headers.get("authorization")
    if not authorization:
        raise AwsError("MissingAuthenticationTokenException", 403, "Missing Authentication Token")
    if authorization.startswith("Bearer "):
        if keys.bearer is None or not hmac.compare_digest(authorization[7:].encode(), keys.bearer.encode()):
            raise AwsError(
                "AccessDeniedException", 403, "Authentication failed: Please make sure your API Key is valid."
            )
        return
    match = AUTHORIZATION.fullmatch(authorization)
    if match is None:
        raise AwsError(
            "IncompleteSignatureException",
            403,
            "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature'.",
        )
    if not hmac.compare_digest(match["key"].encode(), keys.access_key.encode()):
        raise AwsError(
            "UnrecognizedClientException", 403, "The security token included in the request is invalid."
        )
    if match["region"] != region:
        raise AwsError("InvalidSignatureException", 403, "Credential should be scoped to a valid region. ")
    if match["service"] != SERVICE:
        raise AwsError(
            "InvalidSignatureException", 403, f"Credential should be scoped to correct service: '{SERVICE}'. "
        )
    if keys.token is not None and not hmac.compare_digest(
        request.headers.get("x-amz-security-token", "").encode(), keys.token.encode()
    ):
        raise AwsError(
            "UnrecognizedClientException", 403, "The security token included in the request is invalid."
        )
    require_fresh(request.headers.get("x-amz-date", ""), match["date"], now)
    require_whole(request, match["signed"])
    if not hmac.compare_digest(
        expected_signature(request, match["signed"], keys, region), match["signature"]
    ):
        raise AwsError(
            "InvalidSignatureException",
            403,
            "The request signature we calculated does not match the signature you provided. Check "
            "your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details.",
        )


def require_fresh(stamp: str, scope_date: str, now: datetime) -> None:
    """Raises AwsError when the signing time is missing, outside the scope's day or over five minutes off."""
    try:
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise AwsError(
            "IncompleteSignatureException", 403, "Date must be in ISO-8601 'basic format'."
        ) from None
    if stamp[:8] != scope_date:
        raise AwsError(
            "InvalidSignatureException",
            403,
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.",
        )
    if signed_at < now - CLOCK_SKEW:
        raise AwsError(
            "InvalidSignatureException",
            403,
            f"Signature expired: {stamp} is now earlier than {now - CLOCK_SKEW:%Y%m%dT%H%M%SZ} "
            f"({now:%Y%m%dT%H%M%SZ} - 5 min.)",
        )
    if signed_at > now + CLOCK_SKEW:
        raise AwsError(
            "InvalidSignatureException",
            403,
            f"Signature not yet current: {stamp} is still later than {now + CLOCK_SKEW:%Y%m%dT%H%M%SZ} "
            f"({now:%Y%m%dT%H%M%SZ} + 5 min.)",
        )


def require_whole(request: WireRequest, signed_headers: str) -> None:
    """Raises AwsError when headers that must be signed are not, or the declared body digest is wrong."""
    signed = set(signed_headers.split(";"))
    present = {name for name in request.headers if name == "host" or name.startswith("x-amz-")}
    missing = sorted(present - signed)
    if missing:
        raise AwsError(
            "InvalidSignatureException",
            403,
            f"'{missing[0]}' must be a 'SignedHeader' in the AWS Authorization.",
        )
    declared = request.headers.get("x-amz-content-sha256")
    if declared is not None and declared != hashlib.sha256(request.body).hexdigest():
        raise AwsError(
            "InvalidSignatureException",
            403,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )


def expected_signature(request: WireRequest, signed_headers: str, keys: Keys, region: str) -> str:
    """The signature that the holder of the secret key would have made for exactly these bytes.

    Written out after AWS's description of Signature Version 4 and not through botocore, so that a botocore
    client whose signatures are accepted here agrees with something other than itself.
    """
    stamp = request.headers["x-amz-date"]
    scope = f"{stamp[:8]}/{region}/{SERVICE}/aws4_request"
    digest = hashlib.sha256(canonical_request(request, signed_headers).encode()).hexdigest()
    key = f"AWS4{keys.secret_key}".encode()
    for part in (*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def canonical_request(request: WireRequest, signed_headers: str) -> str:
    """Method, twice-quoted path, sorted query, signed headers and body digest, one per line."""
    path, _, query = request.target.partition("?")
    names = signed_headers.split(";")
    return "\n".join(
        (
            request.method,
            quote(path, safe="/-_.~"),
            "&".join(sorted(query.split("&"))) if query else "",
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names),
            "",
            signed_headers,
            hashlib.sha256(request.body).hexdigest(),
        )
    )
