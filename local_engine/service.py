"""What every request needs, made once at start-up, and what both kinds of completion ask of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from local_engine.engine import Engine
from local_engine.errors import Refused
from local_engine.metrics import Metrics
from local_engine.replay import Replay
from local_engine.sampling import SamplingParams
from local_engine.structure.request import Structures
from local_engine.vocabulary import Vocabulary
from local_engine.wire import SamplingFields

CACHE_SALT_HEADER = "x-douane-cache-salt"
MAX_CACHE_SALT_CHARS = 256


@dataclass(frozen=True, slots=True)
class Service:
    """Everything a request needs.

    `models` are the served names, `fingerprint` says which weights answer. `structures` holds answers to
    their form, `replay` remembers what was sampled, so that a conversation goes on from the very tokens.
    `today`, `now_s`, `clock` and `new_id` are the outside world, for tests to hold still.
    """

    engine: Engine
    vocabulary: Vocabulary
    structures: Structures
    replay: Replay
    metrics: Metrics
    models: tuple[str, ...]
    fingerprint: str
    max_body_bytes: int = 8 << 20
    today: Callable[[], date] = date.today
    now_s: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    new_id: Callable[[], str] = lambda: secrets.token_hex(12)

    def check_model(self, name: str) -> None:
        """Raises `Refused` for a model that is not served here."""
        if name not in self.models:
            raise Refused(
                f"this engine serves {', '.join(f'`{served}`' for served in self.models)} only: "
                "set `model` to it",
                param="model",
                code="model_not_found",
                status=404,
            )


def check_salt(salt: str | None) -> None:
    """Raises `Refused` for a salt that is too long. Only who has the secret can send one."""
    if salt is not None and len(salt) > MAX_CACHE_SALT_CHARS:
        raise Refused(f"`{CACHE_SALT_HEADER}` takes at most {MAX_CACHE_SALT_CHARS} characters")


def sampling_of(request: SamplingFields, max_tokens: int, top_logprobs: int | None) -> SamplingParams:
    """How a request samples; without a seed it gets one of its own."""
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=max(0, request.top_k or 0),
        min_p=request.min_p or 0.0,
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
        logit_bias=request.biases,
        top_logprobs=top_logprobs,
    )
