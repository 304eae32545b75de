"""Text on its way to a client: cut before a stop string, with the log-probabilities of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from local_engine.harmony.tokens import Tokenizer
from local_engine.sampling import Logprobs


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with its bytes and natural log-probability, the likeliest alternatives, and the place in the
    text, in characters, where it begins."""

    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]
    at: int


@dataclass(frozen=True, slots=True)
class Shown:
    """Text that may be shown, and the log-probabilities of the tokens that begin in it."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


NOTHING = Shown("")


def joined(parts: Sequence[Shown]) -> Shown:
    """Parts of one text as one."""
    return Shown("".join(part.text for part in parts), tuple(one for part in parts for one in part.logprobs))


class StopFinder:
    """Cuts text at the first of several strings, holding back what may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Takes more text; returns what is safe to show, nothing once a stop string was found."""
        if self.found:
            return ""
        self._held += text
        hits = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if hits:
            self.found = True
            shown, self._held = self._held[: min(hits)], ""
            return shown
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """The text has ended: what was held back is no stop string after all."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


class Outlet:
    """What a client may see of a text that is sampled: up to the first stop string, and never half of one.

    Tokens are announced with `count` before their text comes with `push`, since several tokens may make one
    character.
    """

    def __init__(self, stops: Sequence[str], tokenizer: Tokenizer) -> None:
        self._finder = StopFinder(stops)
        self._tokenizer = tokenizer
        self._pending: list[TokenLogprob] = []
        self._arrived = 0
        self._shown = 0

    @property
    def stopped(self) -> bool:
        """True once a stop string was found: nothing more is shown."""
        return self._finder.found

    def count(self, token: int, logprobs: Logprobs | None) -> None:
        """Takes note of a token whose text begins where the text has come to."""
        if logprobs is not None:
            top = tuple((self._tokenizer.token_bytes(other), value) for other, value in logprobs.top)
            data = self._tokenizer.token_bytes(token)
            self._pending.append(TokenLogprob(data, logprobs.chosen, top, self._arrived))

    def push(self, text: str) -> Shown:
        """Takes more text; returns what may be shown now."""
        self._arrived += len(text)
        return self._release(self._finder.push(text))

    def end(self) -> Shown:
        """This text is over, and what comes next does not continue it: a stop string never spans both."""
        if self.stopped:
            return NOTHING
        shown = self._release(self._finder.flush())
        self._pending = []
        return shown

    def _release(self, text: str) -> Shown:
        self._shown += len(text)
        ready = tuple(one for one in self._pending if one.at < self._shown)
        self._pending = self._pending[len(ready) :]
        return Shown(text, ready) if text else NOTHING
