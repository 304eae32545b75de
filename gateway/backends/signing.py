"""Authorizes requests to Bedrock: Signature Version 4 by botocore, or a Bedrock API key when configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest

from gateway.backends.credentials import AwsCredentials
from gateway.backends.skew import Skew
from gateway.hidden import Hidden

SERVICE: Final = "bedrock"
SECRET_HEADERS: Final = frozenset({"Authorization", "X-Amz-Security-Token"})


def utc_now() -> datetime:
    return datetime.now(UTC)


class Signer(Protocol):
    """Makes the headers that authorize one request."""

    async def headers(self, url: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        """`headers` and those that authorize a POST of `body` to `url`, whose path is percent-encoded.

        Raises Misconfigured when there is nothing to sign with.
        """
        ...


@dataclass(frozen=True, slots=True)
class SigV4Signer:
    """Signs for one region, which is the place's own and never comes from the environment or a profile.

    The time of a signature is this machine's, moved by what the host's answers have told of its clock.
    """

    credentials: AwsCredentials = field(repr=False)
    region: str
    skew: Skew | None = None
    now: Callable[[], datetime] = utc_now

    async def headers(self, url: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        keys = await self.credentials.current()
        # Given the host, botocore need not derive it from the URL, which it does twice a signature.
        signed = {**headers, "Host": urlsplit(url).netloc}
        request = AWSRequest(method="POST", url=url, data=body, headers=signed)
        now = self.now()
        at = self.skew.corrected(now) if self.skew is not None else now
        SigV4AuthAt(keys, self.region, at).add_auth(request)
        made = dict(request.headers.items())
        for name in SECRET_HEADERS & made.keys():
            made[name] = Hidden(made[name])
        return made


class SigV4AuthAt(SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """botocore's signature for a time that it is given; botocore itself would ask the machine's clock."""

    def __init__(self, credentials: Any, region: str, at: datetime) -> None:
        super().__init__(credentials, SERVICE, region)
        self._at = at

    def add_auth(self, request: AWSRequest) -> None:
        """`SigV4Auth.add_auth` step by step, but for the clock and for logging what is signed."""
        request.context["timestamp"] = self._at.strftime(SIGV4_TIMESTAMP)
        self._modify_request_before_signing(request)
        text = self.string_to_sign(request, self.canonical_request(request))
        self._inject_signature_to_request(request, self.signature(text, request))


@dataclass(frozen=True, slots=True)
class BearerSigner:
    """Sends a Bedrock API key. Such a key is valid in the region that made it only."""

    token: str = field(repr=False)

    async def headers(self, url: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        return {**headers, "Authorization": Hidden(f"Bearer {self.token}")}
