"""What is kept of each try, and what a try comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.backends.base import Answer, AnswerStream, BackendFault, Refused, Upstream, Usage
from gateway.places import Place
from gateway.routing.attempt import Attempt
from gateway.routing.kind import Kind

# Ends of a call that gave the client nothing, and that its operator may bill all the same.
UNDELIVERED: Final = frozenset({"outrun", "withheld", "cancelled"})


@dataclass(frozen=True, slots=True)
class Tried:
    """One try: `kind` says why it was made, `outcome` how it ended, in the order of starting.

    An outcome is `answered`, `outrun` (cancelled: another place settled the matter first), `cancelled` (the
    client left), `withdrawn` (the policy in force by then permits it no longer; nothing was sent) or the kind
    of a fault. `usage` are tokens of an answer that was not delivered, where they are known.
    """

    place: Place
    outcome: str
    upstream: Upstream | None
    kind: Kind
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Reached:
    """The attempt that answered; of a stream, the first chunk is there and the rest is to be read."""

    attempt: Attempt
    answer: Answer | AnswerStream
    kind: Kind


@dataclass(frozen=True, slots=True)
class Failed:
    """The last fault at a place."""

    attempt: Attempt
    fault: BackendFault


class Withheld(Refused):
    """A place answered, but its content filter kept the answer back; `usage` is what it took to make it."""

    kind = "withheld"

    def __init__(self, place_id: str, upstream: Upstream, usage: Usage | None) -> None:
        super().__init__(f"`{place_id}` withheld its answer", code="content_filter", upstream=upstream)
        self.usage = usage
