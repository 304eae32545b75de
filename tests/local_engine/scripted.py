"""A model that says what the user's last message tells it to, so that a test decides every token.

The message is harmony with its special tokens spelled out, e.g. `<|channel|>final<|message|>hi<|return|>`. It
may begin with `@0.05 `, the seconds each token takes. Where it is several texts with `|||` between them, each
choice says its own. A token that the grammar forbids gives way to the first one that it allows. A message
that begins with `!` breaks the step, with `?` gives unusable logits, with `!lost` loses the device.

Run as a module it serves that model: `python -m tests.local_engine.scripted PORT [GRACE_S]`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from prometheus_client import CollectorRegistry

from local_engine.engine import Engine
from local_engine.errors import DeviceLost
from local_engine.harmony.tokens import NAMES, RETURN, VOCABULARY_SIZE
from local_engine.kv import BlockTables
from local_engine.metrics import Metrics
from local_engine.replay import Replay
from local_engine.sampling import Logprobs
from local_engine.scheduler import Limits, Plan, Scheduler
from local_engine.scheduler import Sequence as Running
from local_engine.serve import GRACE_S, ServeOptions, serve
from local_engine.service import Service
from local_engine.steps import Grammar, Sampled
from local_engine.structure.request import Structures
from local_engine.vocabulary import Vocabulary, load_vocabulary

SPECIALS = {name: token for token, name in NAMES.items()}
SECRET = "a-secret-for-tests"
FINGERPRINT = "scripted"


def encode(text: str, vocabulary: Vocabulary) -> list[int]:
    """Tokens of text in which special tokens are spelled out."""
    parts = re.split(r"(<\|\w+\|>)", text)
    return [
        token
        for part in parts
        for token in ([SPECIALS[part]] if part in SPECIALS else vocabulary.encode(part))
    ]


@dataclass(frozen=True, slots=True)
class Script:
    """What one choice says, `<|return|>` for ever behind its end, and how long a token takes."""

    tokens: list[int]
    pace_s: float

    def token(self, n: int) -> int:
        """The n-th sampled token."""
        return self.tokens[n] if n < len(self.tokens) else RETURN


@dataclass(frozen=True, slots=True)
class ScriptedTicket:
    """A step whose results are there after `takes_s`."""

    sampled: list[Sampled]
    takes_s: float

    def results(self) -> list[Sampled]:
        """Waits for as long as a model would compute."""
        time.sleep(self.takes_s)
        return self.sampled


@dataclass
class ScriptedRunner:
    """Implements `engine.Runner`. `prompts` holds every prompt that it was asked to continue, and `made` is
    how many tokens it has sampled. `spellings` are messages that are answered in given tokens."""

    vocabulary: Vocabulary
    overlaps: bool = False
    prompts: list[list[int]] = field(default_factory=list)
    made: int = 0
    spellings: dict[str, list[int]] = field(default_factory=dict)
    _scripts: dict[Running, Script] = field(default_factory=dict)

    def launch(self, plan: Plan, grammars: Sequence[Grammar | None]) -> ScriptedTicket:
        """What each sampled row's script says at its place."""
        allowed = iter(grammars)
        sampled = []
        pace_s = 0.0
        for work in plan.work:
            if work.samples:
                script = self._script(work.sequence)
                n = work.start + work.count - work.sequence.prompt_tokens
                token = permitted(script.token(n), next(allowed))
                sampled.append(Sampled(token, logprobs(token, work.sequence.params.top_logprobs)))
                pace_s = max(pace_s, script.pace_s)
        self.made += len(sampled)
        return ScriptedTicket(sampled, pace_s)

    def _script(self, sequence: Running) -> Script:
        if sequence not in self._scripts:
            prompt = sequence.tokens[: sequence.prompt_tokens]
            self.prompts.append(prompt)
            text = b"".join(self.vocabulary.token_bytes(token) for token in prompt).decode(errors="replace")
            self._scripts[sequence] = self._read(text, sequence.choice)
        return self._scripts[sequence]

    def _read(self, prompt: str, choice: int) -> Script:
        said = prompt.rpartition("<|start|>user<|message|>")[2].removesuffix("<|end|><|start|>assistant")
        pace, text = re.match(r"(?:@([\d.]+) )?(.*)", said, re.DOTALL).groups()  # type: ignore[union-attr]
        if text.startswith("!lost"):
            raise DeviceLost(f"lost on purpose: {text}")
        if text.startswith("!"):
            raise RuntimeError(f"broken on purpose: {text}")
        if text.startswith("?"):
            return Script([-1], 0.0)
        if text in self.spellings:
            return Script(self.spellings[text], 0.0)
        texts = text.split("|||")
        return Script(encode(texts[choice % len(texts)], self.vocabulary), float(pace or 0))


def permitted(token: int, grammar: Grammar | None) -> int:
    """The token, unless the grammar forbids it: then the first one allowed."""
    if grammar is None:
        return token
    mask = np.zeros(-(-VOCABULARY_SIZE // 32), dtype=np.int32)
    grammar.fill(mask)
    if mask[token // 32] >> (token % 32) & 1:
        return token
    return int(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))[0])


def logprobs(token: int, top: int | None) -> Logprobs | None:
    """A model that is certain: the token has all the probability, the next ids have none."""
    if top is None:
        return None
    others = [(token + n, -float("inf")) for n in range(1, top)]
    return Logprobs(0.0, ((token, 0.0), *others)[:top])


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits for what must come true, and what nobody is told of."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


def scripted_engine(
    vocabulary: Vocabulary,
    *,
    max_running: int = 1,
    max_waiting: int = 2,
    max_context_tokens: int = 4096,
    overlaps: bool = False,
) -> Engine:
    """The real engine and scheduler over a scripted runner, not started."""
    blocks = BlockTables(full_blocks=2048, window_blocks=2048, window=128)
    return Engine(
        ScriptedRunner(vocabulary, overlaps),
        Scheduler(blocks, Limits(max_running, step_tokens=256)),
        max_context_tokens=max_context_tokens,
        max_waiting=max_waiting,
    )


def scripted_service(vocabulary: Vocabulary, structures: Structures, engine: Engine) -> Service:
    """A service over a scripted engine."""
    return Service(
        engine=engine,
        vocabulary=vocabulary,
        structures=structures,
        replay=Replay(vocabulary),
        metrics=Metrics(CollectorRegistry(), engine.load),
        models=("gpt-oss-20b",),
        fingerprint=FINGERPRINT,
        max_body_bytes=200_000,
    )


def main(port: int, grace_s: float) -> None:
    """Serves the scripted model until told to end."""
    vocabulary = load_vocabulary()
    engine = scripted_engine(vocabulary, max_running=8, max_waiting=24)
    options = ServeOptions(secret=SECRET, port=port, grace_s=grace_s)
    serve(scripted_service(vocabulary, Structures(vocabulary), engine), options)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else GRACE_S)
