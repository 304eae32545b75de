"""What is known of one request so far: filled from top to bottom as it goes, told at its end.

The one mutable value of a request's life. Whoever must say how a request ended (answered, refused, cut off)
finds here everything that had been decided by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.audit.base import Sealed
from gateway.facts import Caller, Facts
from gateway.ingress import Incoming
from gateway.labels import Labels
from gateway.openai import ChatRequest
from gateway.policy.bundle import Bundle
from gateway.policy.permit import Permitted
from gateway.routing.attempts import Tried
from gateway.routing.plan import Decision
from gateway.sinks.timing import Timing
from gateway.store.base import Conversation, Reservation


@dataclass(slots=True)
class Trail:
    incoming: Incoming
    bundle: Bundle
    started_s: float
    caller: Caller | None = None
    chat: ChatRequest | None = None
    facts: Facts | None = None
    permitted: Permitted | None = None
    conversation: Conversation | None = None
    detected: tuple[str, ...] = ()  # kinds of things that detectors found in it: never the things themselves
    past: Labels | None = None  # what the conversation brought into `facts`
    entered: bool = False  # the store has said what the conversation carries: `facts` hold all of it
    taint: frozenset[str] = frozenset()  # label names that the store said the conversation has carried
    reservation: Reservation | None = None  # set while something is reserved
    cache_key: str | None = None
    cache: str = "off"  # `off`, `miss` or `hit`
    answer_mark: bytes | None = None  # of what was delivered, once it is
    decision: Decision | None = None
    begun: Sealed | None = None
    tried: list[Tried] = field(default_factory=list)
    rules: tuple[str, ...] = ()
    delivered: list[bytes] = field(
        default_factory=list
    )  # the body, or a stream's events if a sink wants them
    timings: list[Timing] = field(default_factory=list)
    concluded: bool = False  # its last record is on its way, and must not be written twice

    @property
    def processed(self) -> bool:
        """Whether it got past being turned away; also where its begin could not be recorded."""
        return self.begun is not None or bool(self.tried) or self.cache == "hit"

    @property
    def answer_id(self) -> str:
        """The id of an answer in OpenAI's shape: every backend names it after the request."""
        return f"chatcmpl-{self.incoming.request_id}"

    @property
    def receipt_id(self) -> str:
        """A receipt is named after its request."""
        return f"rcpt_{self.incoming.request_id.removeprefix('req_')}"
