"""What a caller reads when no planned place answered. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway import errors
from gateway.backends.base import BackendFault, Misconfigured, Refused, Saturated
from gateway.routing.plan import Decision
from gateway.routing.tried import Failed, Withheld

RETRY_AFTER_S: Final = 2.0


def refusal(failed: Failed) -> errors.DouaneError:
    """Where trying elsewhere would not help, or the route does not want it."""
    fault, place = failed.fault, failed.attempt.place.id
    if isinstance(fault, Refused) and fault.code == "context_length_exceeded":
        return errors.ContextLengthExceeded(
            "the prompt and the requested answer do not fit the model's context; shorten `messages` or lower "
            "`max_completion_tokens`",
            param="messages",
        )
    if isinstance(fault, Withheld):
        return errors.UpstreamRefused(
            f"the backend `{place}` withheld its answer by its content filter (`{fault.code}`); change "
            "`messages`"
        )
    if isinstance(fault, Misconfigured):
        return errors.UpstreamMisconfigured(
            f"the backend `{place}` refused the gateway's credentials, model id or region; "
            "its operator must fix this (`douane` logs name the cause)"
        )
    return errors.UpstreamRefused(
        f"the backend `{place}` refused the request as invalid "
        f"(`{getattr(fault, 'code', fault.kind)}`); change its parameters"
    )


def exhausted(decision: Decision, faults: Sequence[BackendFault]) -> errors.DouaneError:
    """A backend is permitted, but none answered: never a reason to look further than `Permitted`."""
    retry_after_s = min(
        (fault.retry_after_s for fault in faults if fault.retry_after_s), default=RETRY_AFTER_S
    )
    if faults and all(isinstance(fault, Saturated) for fault in faults):
        return errors.PermittedBackendSaturated(
            "every permitted backend is full and this request may not spill elsewhere; try again after "
            f"{retry_after_s:.0f} s",
            retry_after_s=retry_after_s,
        )
    unsupported = list(dict.fromkeys(name for one in decision.skipped for name in one.parameters))
    if (
        not decision.attempts
        and unsupported
        and not any(one.reason == "unavailable" for one in decision.skipped)
    ):
        return errors.UnsupportedParameter(
            f"no backend that is permitted for this request honours `{'`, `'.join(unsupported)}`; remove it",
            param=unsupported[0],
        )
    return errors.PermittedBackendUnavailable(
        "a backend is permitted for this request, but none of them can answer now; try again after "
        f"{retry_after_s:.0f} s",
        retry_after_s=retry_after_s,
    )
