"""The OpenAI chat wire: what a request may hold, field by field.

Every field that OpenAI's API knows is honoured, forwarded to the backend, or refused by name
(`REFUSED`); a field that it does not know is refused as unknown. Nothing is accepted and ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import InvalidRequest, MalformedBody, UnknownParameter, UnsupportedParameter

JSON_DEPTH_MAX = 64

# Fields of OpenAI's API that no backend of gpt-oss can honour, with what to do instead.
REFUSED: Mapping[str, str] = {
    "audio": "gpt-oss answers in text only; remove it",
    "function_call": "it is deprecated; use `tool_choice`",
    "functions": "it is deprecated; use `tools`",
    "modalities": "gpt-oss answers in text only; remove it",
    "prediction": "predicted outputs do not exist for gpt-oss; remove it",
    "prompt_cache_key": "the prefix cache is partitioned by tenant, not by a key of the caller; remove it",
    "prompt_cache_retention": "the prefix cache is held in memory only; remove it",
    "verbosity": "gpt-oss has no verbosity setting; ask for it in the prompt",
    "web_search_options": "the gateway makes no request of its own to the web; remove it",
}

# Fields that concern the gateway and are not sent to a backend.
GATEWAY_ONLY = frozenset(
    {"metadata", "model", "safety_identifier", "service_tier", "store", "stream", "stream_options", "user"}
)

# Free text among them: detectors do not read it, so that what is kept of a request's content is without it.
UNREAD = frozenset({"metadata", "safety_identifier", "user"})


ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


class Wire(BaseModel):
    """Base of every wire type: strict, closed, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class TextPart(Wire):
    type: Literal["text"]
    text: str


class RefusalPart(Wire):
    type: Literal["refusal"]
    refusal: str


class FunctionCall(Wire):
    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
    arguments: str


class ToolCall(Wire):
    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"]
    function: FunctionCall


class SystemMessage(Wire):
    role: Literal["system", "developer"]
    content: str | list[TextPart]
    name: str | None = None


class UserMessage(Wire):
    role: Literal["user"]
    content: str | list[TextPart]
    name: str | None = None


class AssistantMessage(Wire):
    """A past answer. `reasoning`, also spelled `reasoning_content`, is what this API returned with it."""

    role: Literal["assistant"]
    content: str | list[TextPart | RefusalPart] | None = None
    refusal: str | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    annotations: list[Any] | None = Field(default=None, max_length=0)
    audio: None = None
    function_call: None = None


class ToolMessage(Wire):
    role: Literal["tool"]
    content: str | list[TextPart]
    tool_call_id: str = Field(min_length=1, max_length=256)


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FunctionDefinition(Wire):
    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Wire):
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Wire):
    name: str


class NamedToolChoice(Wire):
    type: Literal["function"]
    function: NamedFunction


class StreamOptions(Wire):
    include_usage: bool | None = None


class JsonSchema(Wire):
    name: str = Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormat(Wire):
    type: Literal["text", "json_object"]


class JsonSchemaFormat(Wire):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatRequest(Wire):
    """A request of `POST /v1/chat/completions`."""

    model: str = Field(min_length=1, max_length=256)
    messages: list[Message] = Field(min_length=1, max_length=4096)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = Field(default=None, max_length=4)
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["low", "medium", "high"] | None = None
    response_format: Annotated[TextFormat | JsonSchemaFormat, Field(discriminator="type")] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    n: Literal[1] | None = None
    user: str | None = Field(default=None, max_length=512)
    safety_identifier: str | None = Field(default=None, max_length=512)
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def wants_stream(self) -> bool:
        return bool(self.stream)

    @property
    def wants_usage_chunk(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def max_output_tokens(self) -> int | None:
        """The caller's bound on the answer, reasoning included; `max_completion_tokens` wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def end_user(self) -> str | None:
        return self.safety_identifier or self.user

    @property
    def session_id(self) -> str | None:
        """The caller's own name of the conversation: `metadata.session_id`."""
        return self.metadata.get("session_id") if self.metadata else None

    def wire(self) -> dict[str, Any]:
        """The request as it came, to be read and never changed."""
        sent: dict[str, Any] = vars(self)[SENT]
        return sent

    def forwarded(self) -> dict[str, Any]:
        """The part of the request that concerns a backend; nulls, which mean the default, are left out."""
        return {
            key: value for key, value in self.wire().items() if value is not None and key not in GATEWAY_ONLY
        }


# Where a request keeps what it was read from: beside its fields, where pydantic neither looks nor validates.
# One of pydantic's private attributes would cost more than the validation of a whole request.
SENT = "_sent"


def parse_chat(body: bytes) -> ChatRequest:
    """Parses and validates a request body.

    Raises `MalformedBody`, `UnknownParameter`, `UnsupportedParameter` or `InvalidRequest`; their texts
    name the field and what it may be, and never repeat a value.
    """
    try:
        wire = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(
            f"the body is not valid JSON (line {error.lineno}, column {error.colno}); "
            "send one JSON object in UTF-8"
        ) from None
    if not isinstance(wire, dict):
        raise MalformedBody("the body must be a JSON object with `model` and `messages`")
    for field in REFUSED.keys() & wire.keys():
        if wire[field] is not None and not (field == "modalities" and wire[field] == ["text"]):
            raise UnsupportedParameter(f"`{field}` is not supported: {REFUSED[field]}", param=field)
    if wire.get("store") is True:
        raise UnsupportedParameter(
            "`store` may not be true: no answer is kept to be fetched later; leave it out or send false",
            param="store",
        )
    if not REFUSED.keys().isdisjoint(wire):
        wire = {field: value for field, value in wire.items() if field not in REFUSED}
    try:
        chat = ChatRequest.model_validate(wire)
    except ValidationError as error:
        raise explain_invalid(error) from None
    require_shallow(wire, "tools", "response_format")
    vars(chat)[SENT] = wire
    return chat


def explain_invalid(error: ValidationError) -> InvalidRequest:
    """Turns pydantic's report into one error: the first problem, by field, without the field's value."""
    problems = error.errors(include_url=False, include_input=False, include_context=True)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = field_path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        name = unknown_name(problem["loc"][-1])
        near = difflib.get_close_matches(name.strip("`"), KNOWN_FIELDS, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "remove it"
        return UnknownParameter(
            f"`{path}` holds {name}, which the chat API does not have; {hint}", param=path
        )
    if problem["type"] == "missing":
        return InvalidRequest(f"`{path}` is missing; add it", param=path)
    if problem["type"] == "union_tag_invalid":
        expected = problem.get("ctx", {}).get("expected_tags", "")
        return InvalidRequest(f"`{path}` has a kind that is not supported; it may be {expected}", param=path)
    if problem["type"] == "literal_error":
        expected = problem.get("ctx", {}).get("expected", "")
        return UnsupportedParameter(
            f"`{path}` has a value that is not supported; it may be {expected}", param=path
        )
    return InvalidRequest(
        f"`{path}` is invalid: {problem['msg'][:1].lower()}{problem['msg'][1:]}", param=path
    )


def field_path(location: tuple[int | str, ...]) -> str:
    """`('messages', 0, 'user', 'content')` → `messages[0].content`; repeats only names of our own."""
    return "".join(path_parts(location)).lstrip(".") or "body"


def path_parts(location: tuple[int | str, ...]) -> Iterator[str]:
    for before, part in zip((None, *location), location, strict=False):
        if isinstance(part, int):
            yield f"[{part}]"
        elif isinstance(before, int) and part in ROLES:
            continue  # the tag of the message's kind, not a field
        elif part in KNOWN_FIELDS:
            yield f".{part}"


def unknown_name(name: int | str) -> str:
    """The name of an unknown field, in backticks when it looks like a name; anything else is content."""
    return f"`{name}`" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", str(name)) else "a field"


def require_shallow(wire: Mapping[str, Any], *fields: str) -> None:
    """Raises `MalformedBody` when a free-form field nests deeper than `JSON_DEPTH_MAX` levels."""
    for field in fields:
        if deeper_than(wire.get(field), JSON_DEPTH_MAX):
            raise MalformedBody(
                f"`{field}` nests deeper than {JSON_DEPTH_MAX} levels; flatten it", param=field
            )


def deeper_than(value: Any, levels: int) -> bool:
    """Whether a JSON value nests deeper than so many levels."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for one in level
            if isinstance(one, (dict, list))
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def model_fields(*models: type[Wire]) -> frozenset[str]:
    return frozenset(field.alias or name for model in models for name, field in model.model_fields.items())


KNOWN_FIELDS = model_fields(
    ChatRequest, TextPart, RefusalPart, FunctionCall, ToolCall, SystemMessage, UserMessage, AssistantMessage,
    ToolMessage, FunctionDefinition, Tool, NamedFunction, NamedToolChoice, StreamOptions, JsonSchema,
    TextFormat, JsonSchemaFormat,
)  # fmt: skip
