"""What the guard decides about names, answers of DNS and addresses."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gateway.egress.destinations import Destinations
from gateway.egress.guard import ANSWER_KEPT_S, Egress, EgressRefused

PRIVATE = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
PUBLIC, INSIDE = "198.51.100.7", "10.1.2.3"


@dataclass
class Hands:
    """A clock that a test moves."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def egress(clock: Hands) -> Egress:
    guard = Egress(clock)
    guard.put_in_force(
        Destinations.of(())
        .allow("api.example", 443, "a provider", "provider")
        .allow("vpce.example", 443, "a private endpoint", "private", PRIVATE)
        .allow("127.0.0.1", 8081, "the engine", "engine")
        .allow("169.254.169.254", 80, "instance role")
    )
    return guard


def test_before_there_is_a_list_nothing_is_permitted() -> None:
    with pytest.raises(EgressRefused):
        Egress().require_name("api.example", 443)
    with pytest.raises(EgressRefused):
        Egress().require_address("127.0.0.1", 8081)


@pytest.mark.parametrize("name", ["api.example", "API.Example.", b"api.example"])
@pytest.mark.parametrize("port", [443, "443", b"443", None, 0, "https"])
def test_a_name_on_the_list_is_looked_up(
    egress: Egress, name: str | bytes, port: int | str | bytes | None
) -> None:
    egress.require_name(name, port)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "port"),
    [("evil.example", 443), ("api.example", 80), ("sub.api.example", 443), ("api.example.evil", None),
     ("2130706433", 8081), ("localhost", 8081)],
)  # fmt: skip
def test_another_name_or_port_is_not_looked_up(egress: Egress, name: str, port: int | None) -> None:
    with pytest.raises(EgressRefused, match=rf"`{name}.*` is not a destination of this gateway"):
        egress.require_name(name, port)
    assert egress.refused["name"] == 1


@pytest.mark.parametrize("name", [None, "", "203.0.113.9", "::1", "fe80::1%eth0"])
def test_an_address_needs_no_looking_up(egress: Egress, name: str | None) -> None:
    egress.require_name(name, 443)


def test_an_address_that_dns_gave_for_a_name_on_the_list_may_be_connected_to(egress: Egress) -> None:
    with pytest.raises(EgressRefused, match=f"`{PUBLIC}:443` is not a destination"):
        egress.require_address(PUBLIC, 443)

    egress.learn("api.example", [PUBLIC])

    egress.require_address(PUBLIC, 443)
    egress.require_address(f"::ffff:{PUBLIC}", 443)
    with pytest.raises(EgressRefused):
        egress.require_address(PUBLIC, 80)


def test_an_answer_of_dns_holds_for_minutes(egress: Egress, clock: Hands) -> None:
    egress.learn("api.example", [PUBLIC])
    clock.now_s = ANSWER_KEPT_S
    egress.require_address(PUBLIC, 443)
    clock.now_s = ANSWER_KEPT_S + 1
    with pytest.raises(EgressRefused):
        egress.require_address(PUBLIC, 443)


def test_what_is_no_longer_on_the_list_is_no_longer_connected_to(egress: Egress) -> None:
    egress.learn("api.example", [PUBLIC])
    egress.put_in_force(Destinations.of(()))
    with pytest.raises(EgressRefused):
        egress.require_address(PUBLIC, 443)


@pytest.mark.parametrize("inside", [INSIDE, f"::ffff:{INSIDE}", "fd00::1"])
def test_an_answer_inside_the_private_range_is_taken(egress: Egress, inside: str) -> None:
    egress.learn("vpce.example", [inside])
    egress.require_address(inside, 443)


@pytest.mark.parametrize(
    "outside",
    [PUBLIC, f"::ffff:{PUBLIC}", "2001:db8::1", "127.0.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0",
     "fe80::1%eth0", "64:ff9b::c633:6407"],
)  # fmt: skip
def test_an_answer_with_one_address_outside_the_private_range_is_refused_whole(
    egress: Egress, outside: str
) -> None:
    with pytest.raises(EgressRefused, match=r"`vpce\.example \(.*\)` is an answer of DNS outside"):
        egress.learn("vpce.example", [INSIDE, outside])
    with pytest.raises(EgressRefused):
        egress.require_address(INSIDE, 443)
    with pytest.raises(EgressRefused):
        egress.require_address(outside, 443)


def test_a_range_that_came_with_a_later_bundle_holds_for_earlier_answers(egress: Egress) -> None:
    egress.learn("api.example", [PUBLIC])
    egress.put_in_force(Destinations.of(()).allow("api.example", 443, "a provider", "provider", PRIVATE))
    with pytest.raises(EgressRefused):
        egress.require_address(PUBLIC, 443)


@pytest.mark.parametrize(
    "trick", ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255"]
)
def test_an_answer_that_is_no_single_hosts_address_is_refused_everywhere(egress: Egress, trick: str) -> None:
    with pytest.raises(EgressRefused):
        egress.learn("api.example", [trick])


def test_an_address_that_is_written_down_is_permitted_with_its_port_alone(egress: Egress) -> None:
    egress.require_address("127.0.0.1", 8081)
    egress.require_address("::ffff:127.0.0.1", 8081)
    egress.require_address("169.254.169.254", 80)
    for host, port in (("127.0.0.1", 8082), ("127.0.0.2", 8081), ("::1", 8081), ("169.254.169.254", 443)):
        with pytest.raises(EgressRefused):
            egress.require_address(host, port)


def test_a_name_is_never_connected_to(egress: Egress) -> None:
    with pytest.raises(EgressRefused, match="is a name where an address must be"):
        egress.require_address("api.example", 443)


def test_a_name_of_two_places_must_satisfy_both(egress: Egress) -> None:
    both = egress.known.allow("api.example", 443, "the same, privately", "other", PRIVATE)
    egress.put_in_force(both)
    with pytest.raises(EgressRefused):
        egress.learn("api.example", [PUBLIC])
    egress.learn("api.example", [INSIDE])
    egress.require_address(INSIDE, 443)


def test_refusals_are_counted_logged_once_a_minute_and_never_longer_than_a_name(
    egress: Egress, clock: Hands, caplog: pytest.LogCaptureFixture
) -> None:
    long = "x" * 200 + ".evil.example"
    for _ in range(3):
        with pytest.raises(EgressRefused, match=r"`….*evil\.example:443` is not"):
            egress.require_name(long, 443)
    clock.now_s = 61
    with pytest.raises(EgressRefused):
        egress.require_name(long, 443)

    registry = CollectorRegistry()
    egress.register(registry)
    assert b'douane_egress_refused_total{refused="name"} 4.0' in generate_latest(registry)
    assert b"douane_egress_destinations 4.0" in generate_latest(registry)
    logged = [record.__dict__["fields"] for record in caplog.records if record.message == "egress_refused"]
    assert [one["refused"] for one in logged] == ["name", "name"]
    assert all(len(one["destination"]) <= 81 for one in logged)
