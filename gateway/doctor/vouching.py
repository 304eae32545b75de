"""Whether a gateway with these settings would take the bundle as vouched for."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.doctor.finding import Finding, Status
from gateway.doctor.machine import here
from gateway.opening import vouching_of
from gateway.policy.bundle import Bundle
from gateway.policy.problems import PolicyUntrusted
from gateway.policy.source.directory import Files
from gateway.settings import Settings


def examine_vouching(settings: Settings, files: Files, bundle: Bundle) -> Iterator[Finding]:
    """One row for the signatures and one for the serial, where keys are trusted. Raises `SettingsInvalid`."""
    trust, serials = vouching_of(settings)
    if not trust.keys:
        return
    try:
        signers = trust.require(files, bundle.serial)
        seen = f"signed as it is by {len(signers)} of {len(trust.keys)} trusted keys ({trust.needed} needed)"
        yield here("policy signatures", Status.OK, seen)
    except PolicyUntrusted as error:
        yield of_problem("policy signatures", error)
    try:
        serials.check(bundle.revision, bundle.serial)
        yield here("policy serial", Status.OK, f"{bundle.serial}: no newer bundle was in force here")
    except PolicyUntrusted as error:
        yield of_problem("policy serial", error)


def of_problem(check: str, error: PolicyUntrusted) -> Finding:
    first = error.problems[0]
    return here(check, Status.FAIL, first.message, first.hint)
