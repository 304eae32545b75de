"""The local engine as a `Backend`: OpenAI's wire, a secret, and the tenant's salt for the prefix cache."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import aiohttp
import orjson

from gateway.backends.base import NotReady, Reported, Saturated
from gateway.backends.http import IDLE_TIMEOUT_S
from gateway.backends.openai import OpenAIBackend
from gateway.openai import AssistantMessage, ChatRequest, SystemMessage
from gateway.places import Place

SALT_HEADER = "x-douane-cache-salt"
LOGIT_BIAS_MAX: Final = 300
VOCABULARY_SIZE: Final = 201_088
TOKEN_ID: Final = re.compile(r"[0-9]{1,6}")
TOOL_CHOICES: Final = frozenset({"none", "auto", "required"})


def engine_backend(
    place: Place,
    http: aiohttp.ClientSession,
    base_url: str,
    secret: str,
    salt: Callable[[str], str],
    *,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
) -> OpenAIBackend:
    """The engine at `base_url`. `salt` maps a tenant to the salt of its prefix-cache blocks.

    The salt counts only together with the secret, so a secret is required. A full engine is `Saturated`,
    which spills, where another server's 429 would be `Throttled`, which waits. Raises ValueError.
    """
    if not secret:
        raise ValueError(f"place `{place.id}` needs the engine's secret; set `DOUANE_ENGINE_SECRET`")
    return OpenAIBackend(
        place,
        http,
        base_url,
        secret,
        full=Saturated,
        refuses=engine_unsupported,
        extra_headers=lambda attempt: {SALT_HEADER: salt(attempt.permitted.facts.tenant)},
        probe_path="/load",
        reports=engine_load,
        idle_timeout_s=idle_timeout_s,
    )


def engine_load(body: bytes) -> Reported:
    """What `/load` says. Raises `NotReady` for an engine that is going down, or that says something else."""
    try:
        load = orjson.loads(body)
        slots, waiting, leaving = load["max_running"], load["waiting"], load["stopping"] or load["lost"]
    except (ValueError, TypeError, KeyError):
        raise NotReady("the engine's load cannot be read; is it of another version?") from None
    if leaving or not (isinstance(slots, int) and isinstance(waiting, int)):
        raise NotReady("the engine is going down")
    return Reported(max(0, slots), max(0, waiting))


def engine_unsupported(chat: ChatRequest) -> tuple[str, ...]:
    """The parameters that this version of the engine refuses."""
    return tuple(engine_refusals(chat))


def engine_refusals(chat: ChatRequest) -> Iterator[str]:
    names = [tool.function.name for tool in chat.tools or ()]
    if len(set(names)) < len(names) or not TOOL_CHOICES.isdisjoint(names):
        yield "tools"
    if chat.logit_bias and not biasable(chat.logit_bias):
        yield "logit_bias"
    for position, message in enumerate(chat.messages):
        if isinstance(message, SystemMessage | AssistantMessage) and message.name is not None:
            yield f"messages[{position}].name"


def biasable(logit_bias: Mapping[str, float]) -> bool:
    """Whether each entry names another token of gpt-oss, with a bias within OpenAI's bounds."""
    tokens = {int(token) for token in logit_bias if TOKEN_ID.fullmatch(token)}
    return (
        len(tokens) == len(logit_bias) <= LOGIT_BIAS_MAX
        and max(tokens) < VOCABULARY_SIZE
        and all(-100 <= bias <= 100 for bias in logit_bias.values())
    )
