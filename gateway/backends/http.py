"""One pooled HTTP client for every backend, and what its failures mean.

The client takes nothing from the environment (no proxies, no netrc), follows no redirect, keeps no cookies,
asks for uncompressed answers, and always verifies certificates.
"""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from gateway.backends.base import BackendFault, Broken, Misconfigured, TimedOut, Unreachable, Upstream
from gateway.egress.client import PinnedConnector
from gateway.egress.guard import Egress, EgressRefused

CONNECT_TIMEOUT_S: Final = 5.0
IDLE_TIMEOUT_S: Final = 60.0
KEEPALIVE_S: Final = 55.0
READ_BUFFER_BYTES: Final = 256 * 1024
ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024
NO_COMPRESSION: Final[Mapping[str, str]] = MappingProxyType({"Accept-Encoding": "identity"})
REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@asynccontextmanager
async def open_http(
    *, tls: ssl.SSLContext | None = None, egress: Egress | None = None, connections_max: int = 1024
) -> AsyncIterator[aiohttp.ClientSession]:
    """The client that backends share; `tls` adds authorities (default: the system's), never drops checks.

    With `egress` it resolves and connects to destinations of the guard only, on whatever event loop it runs;
    without, as in a test of one backend, it goes where it is sent.
    Raises ValueError when `tls` would not verify the server's certificate and name.
    """
    context = tls or ssl.create_default_context()
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise ValueError("`tls` must verify certificates and host names; use `ssl.create_default_context`")
    given: dict[str, Any] = {
        "ssl": context,
        "limit": connections_max,
        "limit_per_host": 0,
        "keepalive_timeout": KEEPALIVE_S,
        "ttl_dns_cache": 60,
    }
    connector = PinnedConnector(egress, **given) if egress is not None else aiohttp.TCPConnector(**given)
    async with aiohttp.ClientSession(
        connector=connector,
        trust_env=False,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=NO_COMPRESSION,
        skip_auto_headers=("User-Agent",),
        read_bufsize=READ_BUFFER_BYTES,
        raise_for_status=False,
    ) as session:
        yield session


def require_safe(url: str, what: str) -> None:
    """Raises ValueError unless `url` is https, or http on loopback."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in LOOPBACK:
        return
    raise ValueError(f"`{what}` must be an https URL (plain http is for loopback only)")


@functools.cache  # as many as routes state
def call_bounds(total_s: float) -> aiohttp.ClientTimeout:
    """Bounds of a call: on the whole of it and on connecting."""
    return bounds_of(total_s)


def bounds_of(total_s: float) -> aiohttp.ClientTimeout:
    """See `call_bounds`; for a time that no route states."""
    return aiohttp.ClientTimeout(total=total_s, sock_connect=min(CONNECT_TIMEOUT_S, total_s))


def transport_fault(error: Exception, place_id: str, upstream: Upstream) -> BackendFault:
    """What a failure below HTTP means, before or in the middle of an answer. The text holds no content."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return Unreachable(
                f"`{place_id}` shows a certificate that is not valid for `{upstream.host}`", upstream=upstream
            )
        case aiohttp.ClientConnectorError(os_error=EgressRefused() as refused):
            return Unreachable(f"`{place_id}`: {refused}", upstream=upstream)
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return Unreachable(f"`{place_id}` cannot be reached at `{upstream.host}`", upstream=upstream)
        case TimeoutError():
            return TimedOut(f"`{place_id}` did not answer in time", upstream=upstream)
        case aiohttp.ServerDisconnectedError():
            # Often a kept-alive connection that the server had just closed: worth one more try here.
            return Broken(f"`{place_id}` closed the connection without an answer", upstream=upstream)
        case aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError() | ConnectionError():
            return Broken(f"the answer of `{place_id}` was cut", upstream=upstream)
        case _:
            return Broken(f"`{place_id}` does not speak HTTP as expected", upstream=upstream)


def upstream_request_id(header: str | None) -> str | None:
    """The id that a server gave its answer, to be recorded and signed; None for what cannot be one."""
    return header if header is not None and REQUEST_ID.fullmatch(header) else None


def redirect_fault(status: int, place_id: str, upstream: Upstream) -> Misconfigured:
    """A redirect would move the request to a place that no policy judged."""
    return Misconfigured(
        f"`{place_id}` answered with redirect {status}, which is never followed; configure the final address",
        upstream=upstream,
    )


async def read_bounded(response: aiohttp.ClientResponse, place_id: str, upstream: Upstream) -> bytes:
    """The whole body; raises Broken beyond `ANSWER_BYTES_MAX` without reading the rest."""
    if response.content_length is not None:
        if response.content_length > ANSWER_BYTES_MAX:
            response.close()
            raise too_large(place_id, upstream)
        return await response.read()  # never more than was announced
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > ANSWER_BYTES_MAX:
            response.close()
            raise too_large(place_id, upstream)
    return bytes(body)


def too_large(place_id: str, upstream: Upstream) -> Broken:
    return Broken(f"the answer of `{place_id}` is over {ANSWER_BYTES_MAX} bytes", upstream=upstream)
