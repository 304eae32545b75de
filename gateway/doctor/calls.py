"""Asking AWS: a call goes to one derived address, signed with this machine's credentials, or not at all.

Nothing else decides where a call goes: endpoint settings, proxies, bearer tokens, service models and retries
of the environment and of profiles are all overruled, and a request to any other host is stopped before it is
sent, also one that botocore itself would make (S3 redirects to the region that a bucket lies in).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import botocore
import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    ProfileNotFound,
)
from botocore.loaders import Loader
from botocore.parsers import ResponseParserError

from gateway.building import INSTANCE_METADATA_PROVIDER
from gateway.doctor.endpoints import SERVICES, Endpoints
from gateway.doctor.permissions import ACTIONS
from gateway.settings import Settings, SettingsInvalid

CONNECT_TIMEOUT_S: Final = 5.0
READ_TIMEOUT_S: Final = 10.0
ATTEMPTS: Final = 2
DENIED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "Forbidden", "403"}
)
NOT_BELIEVED: Final = frozenset(
    {
        "AuthFailure", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature",
        "IncompleteSignatureException", "InvalidAccessKeyId", "InvalidClientTokenId",
        "InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)  # fmt: skip


NO_CREDENTIALS: Final = "NoCredentials"


class HostNotPinned(Exception):
    """A request to a host other than the derived one; it was not sent."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What AWS said. `ahead_s` is how far this clock is ahead of AWS's, where the answer told a time."""

    members: Mapping[str, Any]
    ahead_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Why there is no answer: `seen` and `fix` are for the table, `code` is AWS's error code.

    `bucket_region` is where S3 says that the bucket lies, when that is why it did not answer.
    """

    seen: str
    fix: str
    code: str | None = None
    ahead_s: float | None = None
    bucket_region: str | None = None


Reply = Answered | Unanswered


class RegionCalls:
    """The clients of one region. Made in one thread, because boto3's sessions are not to be shared."""

    def __init__(
        self,
        session: Any,
        endpoints: Endpoints,
        region: str,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.region = region
        self.emulated = endpoints.emulated
        self._now_s = now_s
        self._down: dict[str, Unanswered] = {}
        self._clients: dict[str, Any] = {}
        for service in SERVICES:
            url = endpoints.url(service, region)
            if url is not None:
                self._clients[service] = pinned_client(session, service, region, url)

    def ask(self, service: str, operation: str, **members: Any) -> Reply:
        """One call, all its pages. Raises KeyError for a call that `ACTIONS` does not list."""
        action = ACTIONS[service, operation]
        client = self._clients.get(service)
        if client is None:
            seen = f"no emulator of `{service}` is there to ask"
            return Unanswered(seen, "set DOUANE_BEDROCK=aws to ask AWS")
        if operation not in client.meta.service_model.operation_names:
            return Unanswered(
                f"the installed botocore {botocore.__version__} does not have `{operation}`",
                "install a newer boto3 (botocore 1.44.5 has the call), or look in the console",
            )
        if service in self._down:
            return self._down[service]
        asked_s = self._now_s()
        try:
            answer = call(client, operation, members)
        except ClientError as error:
            if error.operation_name != operation:  # of a credential provider, such as AssumeRole
                return Unanswered(
                    f"no credentials: `{error.operation_name}` was refused",
                    "check the role or the AWS profile in use",
                    NO_CREDENTIALS,
                )
            return self._refused(error, action, asked_s)
        except (ConnectionError, HTTPClientError, HostNotPinned) as error:
            host = urlsplit(client.meta.endpoint_url).netloc
            self._down[service] = found = Unanswered(
                f"`{host}` cannot be reached (`{type(error).__name__}`)",
                f"let this machine reach it, for example by a VPC endpoint for `{service}`",
            )
            return found
        except ResponseParserError:
            return Unanswered(f"what answers `{operation}` is not AWS", "look for a proxy in between")
        except (BotoCoreError, OSError, ValueError) as error:
            # Without its text: that of a credential provider may hold a path or an output.
            return Unanswered(
                f"`{operation}` failed (`{type(error).__name__}`)", "check the AWS profile in use"
            )
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self._note(headers)
        return Answered(answer, self._ahead_s(headers, asked_s))

    def _refused(self, error: ClientError, action: str, asked_s: float) -> Unanswered:
        code = str(error.response.get("Error", {}).get("Code", ""))
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self._note(headers)
        if code in DENIED:
            seen, fix = f"not allowed to look (`{code}`)", f"allow the IAM action `{action}`"
        elif code in NOT_BELIEVED:
            seen, fix = f"AWS does not accept the credentials (`{code}`)", "check the keys, and this clock"
        else:
            seen, fix = f"AWS refused `{action}` (`{code}`)", "try again; then look in the console"
        return Unanswered(
            seen,
            fix,
            code,
            self._ahead_s(headers, asked_s),
            headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region"),
        )

    def _note(self, headers: Mapping[str, str]) -> None:
        self.emulated = self.emulated or headers.get("x-douane-emulated") == "1"

    def _ahead_s(self, headers: Mapping[str, str], asked_s: float) -> float | None:
        """This clock, half-way between question and answer, against the answer's `Date` (whole seconds)."""
        try:
            theirs_s = parsedate_to_datetime(headers.get("date", "")).replace(tzinfo=UTC).timestamp()
        except (TypeError, ValueError):
            return None
        return (asked_s + self._now_s()) / 2 - (theirs_s + 0.5)


def call(client: Any, operation: str, members: Mapping[str, Any]) -> dict[str, Any]:
    method = xform_name(operation)
    answer: dict[str, Any]
    if client.can_paginate(method):
        answer = client.get_paginator(method).paginate(**members).build_full_result()
    else:
        answer = getattr(client, method)(**members)
    return answer


def pinned_client(session: Any, service: str, region: str, url: str) -> Any:
    """A client of `session` that speaks to the host of `url` only."""
    client = session.client(
        service,
        region_name=region,
        endpoint_url=url,
        verify=True,
        config=Config(
            signature_version="s3v4" if service == "s3" else "v4",  # never a bearer token of the environment
            ignore_configured_endpoint_urls=True,
            use_fips_endpoint=False,
            use_dualstack_endpoint=False,
            proxies={},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            s3={
                "addressing_style": "path",
                "use_arn_region": False,
            },
        ),
    )
    host = urlsplit(url).netloc

    def require_host(request: Any, **_: Any) -> None:
        if urlsplit(request.url).netloc != host:
            raise HostNotPinned(f"a request to `{urlsplit(request.url).netloc}` was not sent")

    def follow_no_bucket(params: dict[str, Any], **_: Any) -> None:
        params["context"].setdefault("s3_redirect", {})["redirected"] = True

    client.meta.events.register_last("before-send.*", require_host)
    client.meta.events.register("before-call.s3", follow_no_bucket)
    return client


def open_session(settings: Settings) -> Any:
    """The session whose credentials `serve` uses; the emulator gets a pair that is worth nothing.

    Raises `SettingsInvalid` for a profile that does not exist.
    """
    if settings.bedrock == "emulator":
        from gateway.testing.bedrock.signature import Keys  # the demo's part, not loaded otherwise

        return boto3.Session(
            aws_access_key_id=Keys().access_key,
            aws_secret_access_key=Keys().secret_key,
            botocore_session=bare_session(None),
        )
    try:
        session = bare_session(settings.aws_profile)
    except ProfileNotFound as error:
        raise SettingsInvalid(
            (f"{str(error).lower()}; name one of `~/.aws/config` in `aws_profile` or AWS_PROFILE",)
        ) from None
    if not settings.aws_instance_role:
        session.get_component("credential_provider").remove(INSTANCE_METADATA_PROVIDER)
    return boto3.Session(botocore_session=session)


def bare_session(profile: str | None) -> Any:
    """A botocore session that knows AWS's services from its own package: a file under `~/.aws/models` must
    not change what a call is."""
    session = botocore.session.Session(profile=profile)
    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    session.register_component("data_loader", loader)
    session.get_scoped_config()  # raises ProfileNotFound here rather than at the first client
    return session
