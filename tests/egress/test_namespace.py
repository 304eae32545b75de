"""The whole product where all that is not on its list is a trap: nothing leaves, and the trap would see.

Each scenario runs once, in namespaces of its own (`inside.py`), and the tests read what it reports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.egress.planted import ADDRESS, ATTEMPTS, NAME
from tests.egress.world import ELSEWHERE, HOUSE, HOUSE_PORT, NAMES, NAMESERVER, PROVIDER, STS
from tests.needs import AS_ROOT_OR_USER, works

ROOT = Path(__file__).parents[2]
# A scenario starts a dozen servers and several processes: on a machine that is busy that takes its time.
pytestmark = [
    pytest.mark.proof,
    pytest.mark.needs("network-namespace", "ip", "redis-server"),
    pytest.mark.timeout(400),
]


def reported(folder: Path, scenario: str, *further: Path) -> dict[str, Any]:
    """Runs one scenario to its end."""
    root, user = (trial.split(" sh ")[0].split() for trial in AS_ROOT_OR_USER)
    unshare = root if works(AS_ROOT_OR_USER[0]) else user
    command = [
        *unshare,
        sys.executable,
        "-m",
        "tests.egress.inside",
        scenario,
        str(folder),
        *map(str, further),
    ]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, Any]:
    return reported(tmp_path_factory.mktemp("whole"), "whole", checkpoint)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return reported(tmp_path_factory.mktemp("planted"), "planted")


# Everything that the product does.


def test_every_backend_answers_and_every_refusal_is_given(whole: dict[str, Any]) -> None:
    said = whole["said"]
    cloud = {name: said.pop(name).split(maxsplit=2) for name in list(said) if name.startswith("bedrock")}

    assert said == {
        "engine": "200 local-engine miss",
        "engine, streamed": "200 local-engine miss streamed",
        "litellm": "200 mistral miss",
        "litellm, streamed": "200 mistral miss streamed",
        "litellm, redirected": "502 upstream_misconfigured",
        "litellm, redirected to a permitted host": "502 upstream_misconfigured",
        "house": "200 house miss",
        "house, redirected": "502 upstream_misconfigured",
        "dns outside the private range": "503 permitted_backend_unavailable",
        "refused by a rule": "403 residency_denied",
        "no such key": "401 invalid_api_key",
        "after the reload": "200 house miss",
        "another tenant": "200 local-engine miss",
    }
    assert {name: (status, how) for name, (status, _, how) in cloud.items()} == {
        "bedrock": ("200", "miss"),
        "bedrock, from the cache": ("200", "hit"),
        "bedrock, streamed": ("200", "miss streamed"),
        "bedrock, after two regions failed": ("200", "miss"),
    }
    assert (whole["exit"], whole["check"]) == (0, 0)


def test_nothing_reaches_the_trap(whole: dict[str, Any]) -> None:
    assert whole["seen"] == []


def test_within_the_namespace_only_listed_ports_are_connected_to(whole: dict[str, Any]) -> None:
    listed = {
        (NAMES.get(row["host"], row["host"]), row["port"])
        for row in whole["listed"]
        if row["host"] != NAMESERVER
    }
    callers = {("127.0.0.1", whole["port"])}  # the test's own

    assert {tuple(one) for one in whole["connected"]} - callers <= listed
    assert {(NAMES[STS], 443), (NAMES[PROVIDER], 443), (NAMES[HOUSE], HOUSE_PORT)} <= listed


def test_a_redirect_takes_nothing_to_a_host_that_another_place_may_use(whole: dict[str, Any]) -> None:
    asked_of_the_house = 3  # by name: once, once to be redirected, once after the reload

    assert whole["received"][HOUSE] == asked_of_the_house


def test_what_was_refused_is_counted_and_logged_by_destination_alone(whole: dict[str, Any]) -> None:
    assert whole["events"] == [["rebound.internal (203.0.113.66)", "answer"]]
    assert whole["refused"] == {
        f'douane_egress_refused_total{{refused="{kind}"}}': float(kind == "answer")
        for kind in ("name", "answer", "address", "datagram")
    }
    assert ELSEWHERE not in whole["printed"]


# Something in the process tries to leave.

LOOKED_UP = {
    "by_dns": NAME,
    "by_dns_of_old": f"old.{NAME}",
    "by_reverse_dns": "9.113.0.203.in-addr.arpa",
    "by_urllib": f"urllib.{NAME}",
    "by_httpx": f"httpx.{NAME}",
    "by_boto3": "s3.us-west-2.amazonaws.com",
    "by_import": f"prices.{NAME}",
    "by_loop_and_name": f"loop.{NAME}",
    "by_loop_look_up": f"look-up.{NAME}",
    "by_aiohttp_and_name": f"aiohttp.{NAME}",
    "by_async_httpx": f"async-httpx.{NAME}",
}
CAUGHT = {
    **{name: f"udp {NAMESERVER}:53 {asked}" for name, asked in LOOKED_UP.items()},
    "by_socket": f"tcp {ADDRESS}:443",
    "by_socket_6": "tcp 2001:db8:9::9:443",
    "by_mapped_address": f"tcp {ADDRESS}:8446",
    "by_datagram": f"udp {ADDRESS}:9999",
    "by_message": f"udp {ADDRESS}:9998",
    "by_requests": f"tcp {ADDRESS}:4433",
    "by_instance_metadata": "tcp 169.254.169.254:80",
    "by_loop": f"tcp {ADDRESS}:8443",
    "by_loop_and_socket": f"tcp {ADDRESS}:8444",
    "by_loop_datagram": f"udp {ADDRESS}:9997",
    "by_loop_datagram_without_a_peer": f"udp {ADDRESS}:9996",
    "by_aiohttp": f"tcp {ADDRESS}:8445",
}


def test_with_the_guard_down_the_trap_sees_every_attempt(planted: dict[str, Any]) -> None:
    assert CAUGHT.keys() == ATTEMPTS.keys()
    assert sorted(planted["unguarded"]["seen"]) == sorted(CAUGHT.values())
    assert planted["unguarded"]["events"] == []


def test_with_the_guard_up_every_attempt_is_refused_and_nothing_reaches_the_trap(
    planted: dict[str, Any],
) -> None:
    guarded = planted["guarded"]

    assert guarded["seen_before"] == []
    assert guarded["seen"] == []
    assert {name for name, met in guarded["met"].items() if "EgressRefused" not in met["met"]} == set()


def test_each_refusal_is_logged_with_its_destination_and_counted(planted: dict[str, Any]) -> None:
    guarded = planted["guarded"]
    looked_up = {f"{name}:443" for name in LOOKED_UP.values()}

    assert sum(guarded["refused"].values()) >= len(ATTEMPTS)
    assert len(guarded["events"]) == len(set(guarded["events"])) == len(ATTEMPTS)
    assert looked_up - {f"old.{NAME}:443", "9.113.0.203.in-addr.arpa:443"} <= set(guarded["events"])


@pytest.mark.parametrize("guard", ["guarded", "unguarded"])
def test_the_gateway_answers_all_the_same(planted: dict[str, Any], guard: str) -> None:
    assert planted[guard]["answered"].startswith("200 bedrock-")
