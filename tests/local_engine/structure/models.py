"""Models without a mind: they draw among the tokens that a turn allows, and what they said is read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from local_engine.harmony.parse import HarmonyParser, Header, MessageEnd, MessageStart, TextDelta
from local_engine.harmony.tokens import VOCABULARY_SIZE, Tokenizer
from local_engine.structure.masks import WORDS, Mask
from local_engine.structure.turn import Turn

Draw = Callable[[Mask], int]


def uniform(seed: int) -> Draw:
    """Every allowed token is as likely as any other."""
    return _drawing(seed, np.ones(VOCABULARY_SIZE, np.float32))


def opinionated(seed: int) -> Draw:
    """Softmax over random logits that stay the same from token to token: some tokens come again and again."""
    random = np.random.default_rng(seed)
    return _drawing(seed, np.exp(4 * random.standard_normal(VOCABULARY_SIZE, dtype=np.float32)))


def _drawing(seed: int, weights: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Draw:
    random = np.random.default_rng(seed)
    everything = np.cumsum(weights, dtype=np.float64)

    def draw(mask: Mask) -> int:
        # Drawn from all until one is allowed; only narrow masks are worth listing.
        for place in random.random(20) * everything[-1]:
            token = int(np.searchsorted(everything, place, side="right"))
            if mask.view(np.uint32)[token // 32] >> np.uint32(token % 32) & 1:
                return token
        tokens = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        total = np.cumsum(weights[tokens], dtype=np.float64)
        return int(tokens[np.searchsorted(total, random.random() * total[-1], side="right")])

    return draw


def say(turn: Turn, draw: Draw, max_tokens: int) -> list[int]:
    """The tokens of a turn, cut at `max_tokens`."""
    mask = np.zeros(WORDS, np.int32)
    said: list[int] = []
    while not turn.ended and len(said) < max_tokens:
        turn.fill(mask)
        said.append(draw(mask))
        turn.accept(said[-1])
    return said


@dataclass
class Message:
    """One message as a client's parser reads it."""

    header: Header
    text: str = ""
    called: bool = False


@dataclass
class Reader:
    """Reads tokens with the engine's own parser."""

    tokenizer: Tokenizer
    messages: list[Message] = field(default_factory=list)

    def read(self, tokens: list[int]) -> list[Message]:
        """The messages of a turn."""
        parser = HarmonyParser(self.tokenizer)
        events = [event for token in tokens for event in parser.push(token)] + parser.finish()
        for event in events:
            match event:
                case MessageStart(header=header):
                    self.messages.append(Message(header))
                case TextDelta(text=text):
                    self.messages[-1].text += text
                case MessageEnd(called=called):
                    self.messages[-1].called = called
        return self.messages
