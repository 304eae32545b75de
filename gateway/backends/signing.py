"""Authorizes requests to Bedrock: Signature Version 4 by botocore, or a Bedrock API key when configured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from gateway.backends.credentials import AwsCredentials

SERVICE: Final = "bedrock"


class Signer(Protocol):
    """Makes the headers that authorize one request."""

    async def headers(self, url: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        """`headers` and those that authorize a POST of `body` to `url`, whose path is percent-encoded.

        Raises Misconfigured when there is nothing to sign with.
        """
        ...


@dataclass(frozen=True, slots=True)
class SigV4Signer:
    """Signs for one region, which is the place's own and never comes from the environment or a profile."""

    credentials: AwsCredentials
    region: str

    async def headers(self, url: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        keys = await self.credentials.current()
        # Given the host, botocore need not derive it from the URL, which it does twice a signature.
        signed = {**headers, "Host": urlsplit(url).netloc}
        request = AWSRequest(method="POST", url=url, data=body, headers=signed)
        SigV4Auth(keys, SERVICE, self.region).add_auth(request)
        return dict(request.headers.items())


@dataclass(frozen=True, slots=True)
class BearerSigner:
    """Sends a Bedrock API key. Such a key is valid in the region that made it only."""

    token: str

    def __repr__(self) -> str:
        return "BearerSigner(token=…)"

    async def headers(self, url: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        return {**headers, "Authorization": f"Bearer {self.token}"}
