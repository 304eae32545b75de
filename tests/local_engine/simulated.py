"""A device without arithmetic: what it writes at a position is a digest of all tokens up to there.

So a block that was given away too early, shared with the wrong prefix or not copied shows as a wrong digest,
and a token that was computed from anything but its own history is another token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from local_engine.kv import BLOCK_TOKENS
from local_engine.sampling import SamplingParams
from local_engine.scheduler import Plan, Sequence, Work

VOCABULARY = 24
STOP = 0
ROOT = b"root"

Place = tuple[str, int, int]


def digest(before: bytes, token: int) -> bytes:
    """What stands at a position whose token is `token`, behind a position that holds `before`."""
    return hashlib.blake2b(before + token.to_bytes(4, "little"), digest_size=8).digest()


def next_token(last: bytes, choice: int) -> int:
    """The token that follows a history: any of the vocabulary, for each choice its own."""
    return hashlib.blake2b(last, key=bytes([choice]), digest_size=1).digest()[0] % VOCABULARY


def expected(prompt: list[int], params: SamplingParams, choice: int) -> list[int]:
    """What a request must answer, stop token included."""
    last = ROOT
    for token in prompt:
        last = digest(last, token)
    answer: list[int] = []
    while len(answer) < params.max_tokens:
        answer.append(next_token(last, choice))
        last = digest(last, answer[-1])
        if answer[-1] in params.stop_tokens:
            break
    return answer


@dataclass
class SimulatedDevice:
    """Executes plans over the memory of both groups; every read and write is checked."""

    window: int
    memory: dict[Place, bytes] = field(default_factory=dict)
    previous: list[int] = field(default_factory=list)
    computed: int = 0

    def run(self, plan: Plan) -> list[int]:
        """Copies, writes all rows, then reads as attention would; returns the sampled tokens."""
        for copy in plan.copies:
            for offset in range(BLOCK_TOKENS):
                if (source := (copy.group, copy.source, offset)) in self.memory:
                    self.memory[copy.group, copy.target, offset] = self.memory[source]
        written: set[Place] = set()
        for work in plan.work:
            self._write(work, written)
        tokens = [self._read(work) for work in plan.work]
        self.previous = [token for token in tokens if token is not None]
        return self.previous

    def _write(self, work: Work, written: set[Place]) -> None:
        sequence = work.sequence
        for position in range(work.start, work.start + work.count):
            token = sequence.tokens[position] if work.source < 0 else self.previous[work.source]
            before = self._at(sequence, "full", position - 1) if position else ROOT
            for group in ("full", "window"):
                place = self._place(sequence, group, position)
                assert place not in written, f"two rows of one step write to {place}"
                written.add(place)
                self.memory[place] = digest(before, token)
            self.computed += 1

    def _read(self, work: Work) -> int | None:
        sequence = work.sequence
        for position in range(work.start, work.start + work.count):
            for seen in range(max(0, position - self.window + 1), position + 1):
                assert self._at(sequence, "window", seen) == self._at(sequence, "full", seen)
        last = self._at(sequence, "full", work.start + work.count - 1)
        return next_token(last, sequence.choice) if work.samples else None

    def _at(self, sequence: Sequence, group: str, position: int) -> bytes:
        return self.memory[self._place(sequence, group, position)]

    def _place(self, sequence: Sequence, group: str, position: int) -> Place:
        assert sequence.tables is not None
        blocks = sequence.tables.full if group == "full" else sequence.tables.window
        block = blocks[position // BLOCK_TOKENS]
        assert block > 0, f"position {position} of the {group} group has no block"
        return group, block, position % BLOCK_TOKENS
