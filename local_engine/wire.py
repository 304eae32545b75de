"""OpenAI's chat completion request, read strictly.

Every parameter that OpenAI documents is either honoured, accepted at the one value that changes nothing, or
refused by name. Nothing is accepted and then ignored. No error here quotes a value that the client sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from local_engine.errors import Refused
from local_engine.harmony.conversation import Effort

MAX_STOP_STRINGS = 4
MAX_TOP_LOGPROBS = 20

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "audio": (),
    "function_call": (),
    "functions": (),
    "moderation": (),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "safety_identifier": (),
    "user": (),
    "web_search_options": (),
}
"""Known parameters that this engine does not implement, with the values at which they have no effect.

`null` is such a value for all of them.
"""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextPart(_Wire):
    """A piece of message content."""

    type: Literal["text"]
    text: str


class FunctionCall(_Wire):
    """What an assistant called; `arguments` is JSON text, handed on as it is."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    arguments: str


class ToolCall(_Wire):
    """One call in an assistant message of the history."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


Content = str | list[TextPart]


class InstructionMessage(_Wire):
    """A `system` or `developer` message: instructions."""

    role: Literal["system", "developer"]
    content: Content


class UserMessage(_Wire):
    """A `user` message."""

    role: Literal["user"]
    content: Content
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None


class AssistantMessage(_Wire):
    """An `assistant` message of the history, with the reasoning this engine gave beside it.

    Clients send back what the SDK gave them, so `annotations` may be there, but empty.
    """

    role: Literal["assistant"]
    content: Content | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class ToolMessage(_Wire):
    """A tool's answer to the call `tool_call_id`."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


WireMessage = Annotated[
    InstructionMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class FunctionDefinition(_Wire):
    """A function offered to the model; `strict` is refused at true, for nothing enforces it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = None


class ToolDefinition(_Wire):
    """A tool offered to the model."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(_Wire):
    """The function that must be called."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class NamedToolChoice(_Wire):
    """`tool_choice` as one function."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(_Wire):
    """Plain text."""

    type: Literal["text"]


class JsonObjectFormat(_Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(_Wire):
    """A schema and what it is called."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(_Wire):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StreamOptions(_Wire):
    """`include_usage` asks for a last chunk with the token counts."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class ChatRequest(_Wire):
    """A chat completion request as far as this engine honours it."""

    model: str
    messages: Annotated[list[WireMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    reasoning_effort: Effort | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    response_format: ResponseFormat | None = None
    # The model ends its turn at one call, so both values are kept.
    parallel_tool_calls: bool | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, empty ones left out."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)


def parse_chat_request(body: bytes) -> ChatRequest:
    """Reads a request body. Raises `Refused` with OpenAI's `param` and a `code`:

    `invalid_json`, `unknown_parameter`, `unsupported_parameter`, `unsupported_value` or `invalid_value`.
    """
    try:
        raw = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refused("the body is not valid json: send one json object", code="invalid_json") from None
    if not isinstance(raw, dict):
        raise Refused("the body must be one json object", code="invalid_json")
    given = {key: value for key, value in raw.items() if value is not None}
    for key, value in given.items():
        _check_known(key, value)
    honoured = {key: value for key, value in given.items() if key not in NEUTRAL}
    if isinstance(messages := given.get("messages"), list):
        honoured["messages"] = [_without_nulls(message) for message in messages]
    try:
        request = ChatRequest.model_validate(honoured)
    except ValidationError as error:
        raise _refusal(error) from None
    _check_together(request)
    return request


def _without_nulls(message: Any) -> Any:
    """A message as if its null fields were absent: SDKs dump `refusal`, `audio` and the like as null."""
    if not isinstance(message, dict):
        return message
    return {key: value for key, value in message.items() if value is not None}


def _refuse_constant(_: str) -> None:
    raise ValueError


def _check_known(key: str, value: Any) -> None:
    if key in NEUTRAL:
        if not any(value == neutral and type(value) is type(neutral) for neutral in _neutral(key)):
            raise Refused(
                f"`{key}` is not supported by this engine: leave it out",
                param=key,
                code="unsupported_parameter",
            )
    elif key not in ChatRequest.model_fields:
        if not (key.isascii() and key.isidentifier() and len(key) <= 64):
            raise Refused("the body has an unknown parameter: leave it out", code="unknown_parameter")
        raise Refused(f"unknown parameter `{key}`: leave it out", param=key, code="unknown_parameter")


def _neutral(key: str) -> Iterator[Any]:
    for value in NEUTRAL[key]:
        yield value
        if isinstance(value, int) and not isinstance(value, bool):
            yield float(value)


def _refusal(error: ValidationError) -> Refused:
    """One thing wrong, by its place. Keys and values of the client's are left out of the text.

    Of the alternatives of a union, the one that fits furthest tells most, hence the deepest place.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    first = max(found, key=lambda detail: len(_known(detail["loc"])))
    place = _place(first["loc"])
    top = str(first["loc"][0]) if first["loc"] else None
    if top == "tool_choice":
        return Refused(
            "`tool_choice` is supported as `none` or `auto` only", param=top, code="unsupported_value"
        )
    if top == "reasoning_effort":
        return Refused(
            "`reasoning_effort` must be `low`, `medium` or `high`", param=top, code="unsupported_value"
        )
    if first["type"] == "extra_forbidden":
        return Refused(f"`{place}` has a key that this engine does not know: remove it", param=place)
    if first["type"] == "missing":
        return Refused(f"`{place}` is missing", param=place, code="missing_parameter")
    if place.endswith(".strict"):
        return Refused(
            f"`{place}` is not supported: this engine does not enforce schemas; leave it out",
            param=place,
            code="unsupported_parameter",
        )
    if first["type"] == "literal_error" and place.endswith(".type"):
        return Refused(f"`{place}` must be `{_only_type(place)}`", param=place, code="unsupported_value")
    return Refused(f"`{place}` is wrong: {_reason(first)}", param=place, code="invalid_value")


def _only_type(place: str) -> str:
    return "text" if ".content" in place else "function"


def _reason(detail: Any) -> str:
    """Pydantic's own words for kinds of error whose words hold no input; a plain phrase for the others."""
    safe = {"greater_than_equal", "less_than_equal", "less_than", "too_short", "string_pattern_mismatch"}
    if detail["type"] in safe or detail["type"].endswith("_type"):
        words = str(detail["msg"])
        return words[0].lower() + words[1:]
    return "not one of the values allowed here"


def _place(loc: tuple[int | str, ...]) -> str:
    """`messages[0].content`: indexes and names of ours only, never a key of the client's."""
    steps = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in _known(loc))
    return "".join(steps).removeprefix(".")


def _known(loc: tuple[int | str, ...]) -> list[int | str]:
    return [part for part in loc if isinstance(part, int) or part in FIELD_NAMES]


def _field_names(*models: type[BaseModel]) -> frozenset[str]:
    return frozenset(name for model in models for name in model.model_fields)


FIELD_NAMES = _field_names(
    ChatRequest,
    InstructionMessage,
    UserMessage,
    AssistantMessage,
    ToolMessage,
    TextPart,
    ToolCall,
    FunctionCall,
    ToolDefinition,
    FunctionDefinition,
    StreamOptions,
)


def _check_together(request: ChatRequest) -> None:
    """What no single field can say."""
    both = (request.max_tokens, request.max_completion_tokens)
    if None not in both and both[0] != both[1]:
        raise Refused(
            "`max_tokens` and `max_completion_tokens` differ: give only `max_completion_tokens`",
            param="max_tokens",
            code="invalid_value",
        )
    if request.top_logprobs is not None and not request.logprobs:
        raise Refused(
            "`top_logprobs` needs `logprobs` to be true", param="top_logprobs", code="invalid_value"
        )
    if request.stream_options is not None and not request.stream:
        raise Refused(
            "`stream_options` needs `stream` to be true", param="stream_options", code="invalid_value"
        )
    if isinstance(request.stop, list) and len(request.stop) > MAX_STOP_STRINGS:
        raise Refused(f"`stop` takes at most {MAX_STOP_STRINGS} strings", param="stop", code="invalid_value")
    if request.tool_choice is not None and not request.tools:
        raise Refused("`tool_choice` needs `tools`", param="tool_choice", code="invalid_value")
    if request.parallel_tool_calls is not None and not request.tools:
        raise Refused(
            "`parallel_tool_calls` needs `tools`", param="parallel_tool_calls", code="invalid_value"
        )
