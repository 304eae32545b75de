"""TLS of the gateway's own, and proxies in front of it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.integration.conftest import StartGateway
from tests.integration.scripted_engine import ScriptedEngine


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def certified(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """Settings of a gateway with a certificate for 127.0.0.1."""
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o600)
    return {"tls_cert": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}


def test_a_gateway_with_a_certificate_serves_tls_and_nothing_else(
    scripted_settings: dict[str, Any],
    script: ScriptedEngine,
    start: StartGateway,
    certified: dict[str, str],
    authority: trustme.CA,
) -> None:
    gateway = start({**scripted_settings, **certified}, verify=trusting(authority))

    plain, streamed = gateway.caller().ask("plain"), gateway.caller().ask("streamed", stream=True)

    assert gateway.url.startswith("https://")
    assert (plain.receipt().outcome, streamed.receipt().outcome) == ("answered", "answered")
    with pytest.raises(httpx.TransportError), httpx.Client(trust_env=False) as http:
        http.get(gateway.url.replace("https", "http") + "/healthz")
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(f"{gateway.url}/healthz", trust_env=False, verify=ssl.create_default_context())


def test_beyond_loopback_it_serves_with_tls_or_behind_a_proxy(
    scripted_settings: dict[str, Any],
    script: ScriptedEngine,
    start: StartGateway,
    certified: dict[str, str],
    authority: trustme.CA,
) -> None:
    with_tls = start({**scripted_settings, **certified, "host": "0.0.0.0"}, verify=trusting(authority))
    behind = start({**scripted_settings, "host": "0.0.0.0", "behind_proxy": True})

    assert with_tls.http.get("/healthz").json() == {"status": "ok"}
    assert behind.http.get("/healthz").json() == {"status": "ok"}


def test_a_certificate_that_cannot_be_read_stops_the_start(
    scripted_settings: dict[str, Any], start: StartGateway, tmp_path: Path
) -> None:
    settings = {
        **scripted_settings,
        "tls_cert": str(tmp_path / "none.pem"),
        "tls_key": str(tmp_path / "none.pem"),
    }
    with pytest.raises(RuntimeError, match=r"douane: the certificate `.*none\.pem` .*no such file"):
        start(settings)
