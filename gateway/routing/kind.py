"""Why a try was made; recorded with it, signed with it, counted by it."""

from __future__ import annotations

from typing import Final, Literal, get_args

# first            the place that the route tries first
# retry            the same place again, after a fault that may pass
# fallback         the next place, after a fault
# spill            another place, because one that the route prefers has too much to do
# hedge            another place beside one that lets the client wait
# context_window   another place, because one has too small a context for this request
# content_filter   another place, because one withheld its answer
Kind = Literal["first", "retry", "fallback", "spill", "hedge", "context_window", "content_filter"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
