"""A model that says what the user's last message tells it to, so that a test decides every token.

The message is harmony with its special tokens spelled out, e.g. `<|channel|>final<|message|>hi<|return|>`. It
may begin with `@0.05 `, the seconds each token takes. Run as a module it serves that model.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, field

import torch

from local_engine.chat import Service
from local_engine.engine import Engine
from local_engine.harmony.tokens import NAMES, RETURN, START, VOCABULARY_SIZE
from local_engine.serve import ServeOptions, serve
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


@dataclass
class ScriptCache:
    """What one sequence was fed, and, once its prompt is complete, what is left to say."""

    fed: list[int] = field(default_factory=list)
    script: list[int] | None = None
    pace_s: float = 0.0


@dataclass
class ScriptedModel:
    """Implements `engine.LanguageModel`. `caches` holds every sequence it was asked to run."""

    vocabulary: Vocabulary
    caches: list[ScriptCache] = field(default_factory=list)

    def new_cache(self) -> ScriptCache:
        """A fresh sequence."""
        self.caches.append(ScriptCache())
        return self.caches[-1]

    def forward(self, tokens: list[int], cache: ScriptCache, *, last_only: bool = False) -> torch.Tensor:
        """Logits [1, V] that leave one choice: the script's next token, `<|return|>` behind its end."""
        cache.fed += tokens
        if cache.script is None and cache.fed[-2:] == [START, *self.vocabulary.encode("assistant")]:
            self._read(cache)
        time.sleep(cache.pace_s)
        logits = torch.full((1, VOCABULARY_SIZE), -1e4)
        logits[0, cache.script.pop(0) if cache.script else RETURN] = 0.0
        return logits

    def _read(self, cache: ScriptCache) -> None:
        text = b"".join(self.vocabulary.token_bytes(token) for token in cache.fed).decode()
        last = text.rpartition("<|start|>user<|message|>")[2]
        said = last.partition("<|end|><|start|>assistant to=")[0].removesuffix("<|end|><|start|>assistant")
        pace, script = re.match(r"(?:@([\d.]+) )?(.*)", said, re.DOTALL).groups()  # type: ignore[union-attr]
        if script.startswith("!"):
            raise RuntimeError(f"broken on purpose: {script}")
        cache.pace_s = float(pace or 0)
        cache.script = encode(script, self.vocabulary)


def scripted_service(
    vocabulary: Vocabulary, *, max_waiting: int = 2, max_context_tokens: int = 4096
) -> Service:
    """A service over the scripted model, its engine not started."""
    model = ScriptedModel(vocabulary)
    engine = Engine(model, max_context_tokens=max_context_tokens, max_waiting=max_waiting)
    return Service(engine, vocabulary, ("gpt-oss-20b",), FINGERPRINT, max_body_bytes=200_000)


if __name__ == "__main__":
    options = ServeOptions(model=None, secret=SECRET, port=int(sys.argv[1]))  # type: ignore[arg-type]
    serve(scripted_service(load_vocabulary()), options)
