"""Judgements on who asks and what the account may use: credentials, clock, models."""

from __future__ import annotations

from typing import Final

from gateway.doctor.calls import NO_CREDENTIALS, NOT_BELIEVED, Reply, Unanswered
from gateway.doctor.finding import Finding, Status

SKEW_TOLD_S: Final = 5.0  # a `Date` has whole seconds, and the way takes time
SKEW_WARN_S: Final = 30.0
SKEW_FAIL_S: Final = 240.0  # AWS refuses a signature that is 300 s off


def unknown(check: str, region: str, reply: Unanswered) -> Finding:
    """What becomes of every check whose call has no answer."""
    return Finding(check, region, Status.UNKNOWN, reply.seen, reply.fix)


def identity(region: str, reply: Reply) -> Finding:
    """Whose credentials these are (STS GetCallerIdentity, which everyone may call)."""
    if isinstance(reply, Unanswered):
        refused = reply.code in NOT_BELIEVED or reply.code == NO_CREDENTIALS
        status = Status.FAIL if refused else Status.UNKNOWN
        return Finding("credentials", region, status, reply.seen, reply.fix)
    arn, account = reply.members["Arn"], reply.members["Account"]
    if arn.endswith(":root"):
        fix = "use a role that may invoke the bundle's models and no more"
        return Finding("credentials", region, Status.WARN, f"the root user of account {account}", fix)
    return Finding("credentials", region, Status.OK, f"`{arn}`")


def clock(region: str, reply: Reply) -> Finding:
    """This clock against the `Date` of AWS's answer; an answer that refuses tells the time, too."""
    if reply.ahead_s is None:
        seen = "no answer told the time"
        return Finding("clock", region, Status.UNKNOWN, seen, "let the doctor reach AWS")
    off_s = round(abs(reply.ahead_s))
    seen = (
        f"{off_s} s {'ahead of' if reply.ahead_s > 0 else 'behind'} AWS"
        if off_s >= SKEW_TOLD_S
        else "as AWS's"
    )
    fix = "set this clock by NTP: AWS refuses signatures that are five minutes off"
    if off_s >= SKEW_FAIL_S:
        return Finding("clock", region, Status.FAIL, seen, fix)
    if off_s >= SKEW_WARN_S:
        return Finding("clock", region, Status.WARN, seen, fix)
    return Finding("clock", region, Status.OK, seen)


def model_offered(region: str, model_id: str, reply: Reply) -> Finding:
    """Whether this region has the model at all, to be called on demand by this id (GetFoundationModel)."""
    check = f"model {model_id}"
    if isinstance(reply, Unanswered):
        if reply.code in ("ResourceNotFoundException", "ValidationException"):
            seen = f"the region does not have it (`{reply.code}`)"
            fix = "correct the id in `places.yaml`, or leave the model out of this place"
            return Finding(check, region, Status.FAIL, seen, fix)
        return unknown(check, region, reply)
    details = reply.members.get("modelDetails", {})
    kinds = details.get("inferenceTypesSupported", [])
    if "ON_DEMAND" not in kinds:
        seen = f"it cannot be called on demand, only by {', '.join(kinds) or 'nothing'}"
        fix = "a profile may move requests to other regions: use a model that this region serves itself"
        return Finding(check, region, Status.FAIL, seen, fix)
    if details.get("responseStreamingSupported") is False:
        seen = "it cannot stream, and streamed requests need that"
        return Finding(check, region, Status.FAIL, seen, "leave the model out of this place")
    state = details.get("modelLifecycle", {}).get("status", "ACTIVE")
    if state != "ACTIVE":
        fix = "plan a successor: AWS announces an end of life for such models"
        return Finding(check, region, Status.WARN, f"on demand in this region, {state}", fix)
    return Finding(check, region, Status.OK, "on demand in this region")


def model_access(region: str, model_id: str, reply: Reply) -> Finding:
    """Whether the account may use the model here (GetFoundationModelAvailability).

    This is about the account. Whether the caller's own policies, the organisation's and the VPC endpoint's
    let a call through, only a call can show.
    """
    check = f"access {model_id}"
    if isinstance(reply, Unanswered):
        return unknown(check, region, reply)
    said = reply.members
    wanted = {
        "agreement": (said.get("agreementAvailability", {}).get("status"), "AVAILABLE"),
        "authorization": (said.get("authorizationStatus"), "AUTHORIZED"),
        "entitlement": (said.get("entitlementAvailability"), "AVAILABLE"),
        "region": (said.get("regionAvailability"), "AVAILABLE"),
    }
    missing = {name: found for name, (found, good) in wanted.items() if found != good}
    if missing:
        seen = ", ".join(f"{name} {found or 'not told'}" for name, found in missing.items())
        fix = "enable the model for this account in this region (console: Bedrock, model access)"
        return Finding(check, region, Status.FAIL, seen, fix)
    return Finding(check, region, Status.OK, "the account may use it")
