"""One permitted try of one request at one place: the only thing that a transport accepts."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.places import Action, Place
from gateway.policy.bundle import Bundle
from gateway.policy.permit import Permitted, permit


class NotPermitted(Exception):
    """A bug, never a user's fault: code tried to build an attempt at a place outside `Permitted`."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A try of one request at `place`, whose context holds `context_tokens` (None: not known).

    INVARIANT: an `Attempt` exists only for a place where `permitted` allows `infer`; the constructor
    enforces it, so no retry, fallback or spill can hold one for any other place.
    """

    place: Place
    permitted: Permitted
    first_byte_timeout_s: float
    total_timeout_s: float
    context_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.permitted.allows(Action.INFER, self.place.id):
            raise NotPermitted(
                f"`{self.place.id}` is not among the places where this request may be inferred"
            )

    @property
    def model(self) -> str:
        """Canonical model name, for example `gpt-oss-20b`."""
        return self.permitted.facts.model

    @property
    def upstream_model(self) -> str:
        """The id under which this place knows the model."""
        return self.place.models[self.model]

    def still_permitted(self, current: Bundle) -> bool:
        """Whether the bundle in force now permits this attempt too: after a swap both revisions must."""
        if current.revision == self.permitted.revision:
            return True
        return permit(self.permitted.facts, current).allows(Action.INFER, self.place.id)
