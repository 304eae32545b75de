"""The whole examination: this machine, then each region of the bundle."""

from __future__ import annotations

from typing import Any

from gateway.doctor.account import examine_account
from gateway.doctor.calls import open_session
from gateway.doctor.endpoints import AwsEndpoints, EmulatorEndpoints, Endpoints
from gateway.doctor.finding import Report, Status
from gateway.doctor.machine import examine_machine, here
from gateway.doctor.routes import Resolve
from gateway.policy.bundle import Bundle
from gateway.policy.geography import aws_regions
from gateway.settings import Settings


def examine(
    settings: Settings,
    bundle: Bundle,
    *,
    session: Any = None,
    endpoints: Endpoints | None = None,
    resolve: Resolve | None = None,
) -> Report:
    """Everything that can be looked at under these settings and this bundle.

    `session`, `endpoints` and `resolve` are for tests: nothing in a setting or the environment reaches them.
    Raises `SettingsInvalid` for an AWS profile that does not exist.
    """
    findings = [*examine_machine(settings, bundle)]
    if settings.bedrock == "off":
        findings.append(
            here("bedrock", Status.OK, "`bedrock` is off: no request goes to AWS, nor did a question")
        )
        return Report(tuple(findings))
    aws = aws_regions()
    findings += examine_account(
        bundle,
        settings.gateway_place,
        session or open_session(settings),
        endpoints or endpoints_of(settings, AwsEndpoints(aws)),
        aws,
        resolve,
    )
    return Report(tuple(findings))


def endpoints_of(settings: Settings, aws: AwsEndpoints) -> Endpoints:
    return EmulatorEndpoints(settings.emulator_urls) if settings.bedrock == "emulator" else aws
