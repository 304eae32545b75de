"""Judgements on what AWS keeps of requests: its data-retention mode, and logs of invocations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gateway.doctor.access import unknown
from gateway.doctor.calls import Reply, Unanswered
from gateway.doctor.copies import NotPermitted
from gateway.doctor.finding import Finding, Status

# Whether content may be kept in a region by AWS: None when every request that is answered may be kept there.
# Raises LookupError for a region whose country the bundle does not know.
MayKeep = Callable[[str], NotPermitted | None]

ZERO: Final = "set it to `none`: AWS then keeps nothing, and refuses models that would have to"
NO_LOG: Final = "delete the logging configuration of this region, or permit `log` there by a rule"


def retention(region: str, reply: Reply, may_keep: MayKeep) -> Finding:
    """The account's data-retention mode, which AWS holds by region."""
    check = "data retention"
    if isinstance(reply, Unanswered):
        return unknown(check, region, reply)
    mode = reply.members.get("mode")
    if mode == "none":
        return Finding(check, region, Status.OK, "`none`: nothing is kept")
    if mode in ("default", "inherit"):
        seen = f"`{mode}`: what is kept is each model's own rule, which AWS may change"
        return Finding(check, region, Status.WARN, seen, ZERO)
    if mode == "aws_review":
        found = kept(region, may_keep)
        seen = f"`{mode}`: AWS keeps content in {region} to review it{found}"
        status = Status.FAIL if found else Status.WARN
        return Finding(check, region, status, seen, ZERO)
    if mode == "provider_data_share":
        seen = f"`{mode}`: content may be given to the model's maker"
    else:
        seen = f"`{mode}`, a mode that this version does not know"
    return Finding(check, region, Status.FAIL, seen, ZERO)


def kept(region: str, may_keep: MayKeep) -> str:
    """The rest of a sentence that says why content must not be kept there; empty when it may be."""
    try:
        found = may_keep(region)
    except LookupError:
        return f", and the bundle does not know in which country `{region}` is"
    if found is None:
        return ""
    return f", and `{found.rule}` does not let a request of {found.request} be logged there"


def buckets_of(reply: Reply) -> tuple[str, ...]:
    """The S3 buckets that invocation logs go to."""
    if isinstance(reply, Unanswered):
        return ()
    config = reply.members.get("loggingConfig") or {}
    found = (config.get("s3Config"), (config.get("cloudWatchConfig") or {}).get("largeDataDeliveryS3Config"))
    return tuple(dict.fromkeys(bucket["bucketName"] for bucket in found if bucket))


def invocation_logging(
    region: str, reply: Reply, buckets: Mapping[str, Reply], may_keep: MayKeep
) -> Iterator[Finding]:
    """Whether AWS writes prompts and answers into a log of the account, and where that lies."""
    check = "invocation logging"
    if isinstance(reply, Unanswered):
        yield unknown(check, region, reply)
        return
    config: Mapping[str, Any] = reply.members.get("loggingConfig") or {}
    watch = config.get("cloudWatchConfig")
    if not watch and not buckets:
        yield Finding(check, region, Status.OK, "off")
        return
    if config.get("textDataDeliveryEnabled", True) is False:
        seen = "on without text: who called which model when is logged, prompts and answers are not"
        yield Finding(check, region, Status.WARN, seen, "turn it off, if nobody needs it")
        return
    if watch:
        # AWS accepts log groups of the same account and region only.
        yield logged(region, f"log group `{watch['logGroupName']}`", region, may_keep)
    for name, located in buckets.items():
        lies_in = bucket_region(located)
        if lies_in is None:
            assert isinstance(located, Unanswered)
            seen = f"prompts go to bucket `{name}`, and where that lies is not known: {located.seen}"
            yield Finding(check, region, Status.UNKNOWN, seen, f"{located.fix}; or {NO_LOG}")
        else:
            yield logged(region, f"bucket `{name}`", lies_in, may_keep)


def logged(region: str, target: str, lies_in: str, may_keep: MayKeep) -> Finding:
    found = kept(lies_in, may_keep)
    seen = f"prompts and answers go to {target} in {lies_in}{found}"
    if found:
        return Finding("invocation logging", region, Status.FAIL, seen, NO_LOG)
    fix = "the rules permit it; see who can read it"
    return Finding("invocation logging", region, Status.WARN, seen, fix)


def bucket_region(reply: Reply) -> str | None:
    """The region of a bucket, from GetBucketLocation or from S3's refusal to answer elsewhere."""
    if isinstance(reply, Unanswered):
        moved = reply.code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301")
        return reply.bucket_region if moved else None
    constraint = reply.members.get("LocationConstraint")
    return {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(constraint, constraint)
