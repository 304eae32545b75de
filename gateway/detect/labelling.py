"""Step 3's detectors, for one request: what was found, as labels, and noted on its trail."""

from __future__ import annotations

from gateway.context import GatewayContext
from gateway.detect.kinds import KINDS, PATTERN
from gateway.labels import Labels
from gateway.trail import Trail


async def detect_labels(trail: Trail, context: GatewayContext) -> Labels | None:
    """The labels that the text of this request brings; None where detectors find nothing or are not set."""
    rules = trail.bundle.detectors
    if rules is None:
        return None
    assert trail.chat is not None and trail.caller is not None
    kinds = await context.detectors.kinds(trail.chat, trail.caller, rules)
    if not kinds:
        return None
    trail.detected = tuple(sorted(kinds))
    for counted in {kind if kind in KINDS else PATTERN for kind in kinds}:
        context.metrics.detected.labels(counted).inc()
    return rules.labels_of(kinds, trail.bundle.vocabulary)
