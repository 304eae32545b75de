"""Bedrock's quota of tokens per minute: a call reserves input and `maxTokens`, and gives back the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway.testing.bedrock.errors import AwsError

MINUTE_S = 60.0


class TokenQuota:
    """A sliding minute of tokens; `limit_tokens` None never refuses."""

    def __init__(self, limit_tokens: int | None, now_s: Callable[[], float]) -> None:
        self._limit_tokens = limit_tokens
        self._now_s = now_s
        self._spent: deque[list[float]] = deque()  # [time, tokens], oldest first

    def reserve(self, tokens: int) -> list[float]:
        """Books the tokens or raises AwsError (ThrottlingException); the booking goes to `settle`."""
        now = self._now_s()
        while self._spent and self._spent[0][0] <= now - MINUTE_S:
            self._spent.popleft()
        if (
            self._limit_tokens is not None
            and sum(booking[1] for booking in self._spent) + tokens > self._limit_tokens
        ):
            raise AwsError("ThrottlingException", 429, "Too many tokens, please wait before trying again.")
        booking = [now, float(tokens)]
        self._spent.append(booking)
        return booking

    def settle(self, booking: list[float], tokens: int) -> None:
        """Replaces the reservation by what the call really used."""
        booking[1] = float(tokens)
