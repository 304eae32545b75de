"""A sink's contract: it is told of each request at its end, and the request does not wait for it.

A sink writes at its own time, and asks the bundles when it writes: the one that the request came in under,
and the one then in force (`detail.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from gateway.backends.base import Backend
from gateway.receipts.assemble import Ending
from gateway.trail import Trail

if TYPE_CHECKING:
    from gateway.context import GatewayContext


class Sink(Protocol):
    """The content log, or traces. None of these calls raises or waits."""

    def watched(
        self, backends: Mapping[str, Backend], trail: Trail, context: GatewayContext
    ) -> Mapping[str, Backend]:
        """The backends as the request is to use them: a sink that tells of calls times them."""
        ...

    def wants_answer(self, trail: Trail) -> bool:
        """Whether what a stream sends should be kept until its end."""
        ...

    def ended(self, ending: Ending, trail: Trail, context: GatewayContext) -> None:
        """The request has ended like this; called once for each whose caller is known."""
        ...

    async def aclose(self) -> None:
        """Writes what is still to be written, within a bound; safe to call twice."""
        ...


class Off:
    """A sink that is not configured."""

    def watched(
        self, backends: Mapping[str, Backend], trail: Trail, context: GatewayContext
    ) -> Mapping[str, Backend]:
        return backends

    def wants_answer(self, trail: Trail) -> bool:
        return False

    def ended(self, ending: Ending, trail: Trail, context: GatewayContext) -> None:
        """Told to nobody."""

    async def aclose(self) -> None:
        """Nothing is open."""
