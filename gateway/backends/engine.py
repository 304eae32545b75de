"""The local engine as a `Backend`: OpenAI's wire, a secret, and the tenant's salt for the prefix cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import aiohttp

from gateway.backends.base import Saturated
from gateway.backends.http import IDLE_TIMEOUT_S
from gateway.backends.openai import OpenAIBackend
from gateway.openai import AssistantMessage, ChatRequest, JsonSchemaFormat, NamedToolChoice, SystemMessage
from gateway.places import Place

SALT_HEADER = "x-douane-cache-salt"


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
        probe_path="/health",
        idle_timeout_s=idle_timeout_s,
    )


def engine_unsupported(chat: ChatRequest) -> tuple[str, ...]:
    """The parameters that this version of the engine refuses."""
    return tuple(engine_refusals(chat))


def engine_refusals(chat: ChatRequest) -> Iterator[str]:
    if chat.frequency_penalty:
        yield "frequency_penalty"
    if chat.presence_penalty:
        yield "presence_penalty"
    if chat.logit_bias:
        yield "logit_bias"
    if isinstance(chat.response_format, JsonSchemaFormat) or (
        chat.response_format is not None and chat.response_format.type != "text"
    ):
        yield "response_format"
    if chat.tool_choice == "required" or isinstance(chat.tool_choice, NamedToolChoice):
        yield "tool_choice"
    for index, tool in enumerate(chat.tools or ()):
        if tool.function.strict:
            yield f"tools[{index}].function.strict"
    for position, message in enumerate(chat.messages):
        if isinstance(message, SystemMessage | AssistantMessage) and message.name is not None:
            yield f"messages[{position}].name"
