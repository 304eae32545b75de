"""Past turns of the assistant as the model sampled them.

A client sends a conversation back as text. Rendered anew, a past turn may be other tokens than those that
were sampled: another cut of the same text, another header. The model then reads what it never wrote, and the
prefix cache misses from there on. So the engine remembers, for a while, which tokens stood behind what a
client saw.

This is an optimisation that a miss makes void, never a store of conversations: it is bounded, in this process
only, and holds nothing under a key that could be read back.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from local_engine.harmony.conversation import Message
from local_engine.harmony.tokens import END, RETURN, Tokenizer
from local_engine.harmony.turn import read_turn

MAX_TOKENS = 2_000_000
"""8 MB at four bytes a token. Two million tokens are fifteen conversations at the full context of 131,072 or
four thousand turns of five hundred: more than a KV cache keeps prefixes of, and forgetting a turn whose
prefix is gone costs only the other rendering."""

MIN_TURN_TOKENS = 64
"""What a turn counts for at least: its key and bookkeeping take about as much memory as 64 tokens."""


@dataclass(frozen=True, slots=True)
class SeenCall:
    """A tool call as the client saw it; `arguments` is the exact text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Seen:
    """An assistant message as the client saw it, or as it sends it back.

    Content that is null or missing is the empty text; so is reasoning, which most clients do not send back.
    """

    content: str
    calls: tuple[SeenCall, ...] = ()
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class _Turn:
    reasoning: bytes
    tokens: array[int]

    @property
    def size(self) -> int:
        return max(len(self.tokens), MIN_TURN_TOKENS)


class Replay:
    """Remembers the least recently used turns up to `max_tokens`. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int = MAX_TOKENS) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._turns: OrderedDict[bytes, _Turn] = OrderedDict()
        self._tokens = 0
        self._lock = threading.Lock()

    @property
    def tokens(self) -> int:
        """How much of `max_tokens` is taken."""
        with self._lock:
            return self._tokens

    def remember(self, salt: str | None, seen: Seen, tokens: Sequence[int]) -> bool:
        """Keeps what was sampled behind `<|start|>assistant` for the tenant of `salt`; says whether it did.

        It does not if the turn is not well-formed and complete, or if the client saw something else than it
        says: a turn cut by `length` or by a stop string is rendered from its text, which is what the client
        knows of it. Two turns that look alike to the client, reasoning aside, are one here: the later wins.
        """
        messages = read_turn(tokens, self._tokenizer)
        if messages is None or not _shows(messages, seen):
            return False
        turn = _Turn(_digest(seen.reasoning), array("I", tokens))
        if turn.size > self._max_tokens:
            return False
        key = _key(salt, seen)
        with self._lock:
            self._forget(key)
            self._turns[key] = turn
            self._tokens += turn.size
            while self._tokens > self._max_tokens:
                self._forget(next(iter(self._turns)))
        return True

    def recall(self, salt: str | None, seen: Seen) -> tuple[Message, ...] | None:
        """The messages, with tokens, of the turn that this tenant's client saw as `seen`; None if unknown.

        They are as sampled but for `<|return|>`, which is `<|end|>` in a history. Reasoning is among them,
        and the caller drops it once the turn is finished. A message with other reasoning than was sampled,
        unlike one without any, is another message.
        """
        key = _key(salt, seen)
        with self._lock:
            turn = self._turns.get(key)
            if turn is None or (seen.reasoning and _digest(seen.reasoning) != turn.reasoning):
                return None
            self._turns.move_to_end(key)
        messages = read_turn(turn.tokens, self._tokenizer) or ()
        *earlier, last = messages
        sampled = last.tokens or ()
        if sampled[-1] == RETURN:
            last = replace(last, tokens=(*sampled[:-1], END))
        return (*earlier, last)

    def _forget(self, key: bytes) -> None:
        turn = self._turns.pop(key, None)
        self._tokens -= turn.size if turn is not None else 0


def _shows(messages: Sequence[Message], seen: Seen) -> bool:
    """Whether a client that saw `seen` saw these messages: all of them, and as they are."""
    spoken = [m.text for m in messages if m.channel != "analysis" and m.recipient is None and m.text]
    calls = [
        ((m.recipient or "").removeprefix("functions."), m.text) for m in messages if m.recipient is not None
    ]
    return "\n\n".join(spoken) == seen.content and calls == [
        (call.name, call.arguments) for call in seen.calls
    ]


def _key(salt: str | None, seen: Seen) -> bytes:
    calls = [text for call in seen.calls for text in (call.id, call.name, call.arguments)]
    return _digest("" if salt is None else f"salt {salt}", seen.content, *calls)


def _digest(*texts: str) -> bytes:
    """blake2b of texts, each behind its length, so that no two lists of texts are hashed alike."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
