"""OpenAI's requests, read strictly.

Every parameter that OpenAI documents is either honoured, accepted at the one value that changes nothing, or
refused by name. Nothing is accepted and then ignored. `top_k`, `min_p` and `repetition_penalty` are known
from vLLM and SGLang. No error here quotes a value that the client sent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from local_engine.errors import Refused
from local_engine.harmony.conversation import Effort
from local_engine.harmony.tokens import VOCABULARY_SIZE
from local_engine.reading import parse_object, validated

MAX_CHOICES = 16
MAX_STOP_STRINGS = 4
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 300
MAX_TOOLS = 128
NEUTRAL: dict[str, tuple[Any, ...]] = {
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
"""Known parameters of a chat completion that this engine does not implement, with the values at which they
have no effect. `null` is such a value for all of them.
"""


class Wire(BaseModel):
    """Base of every wire type: strict, closed, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextPart(Wire):
    """A piece of message content."""

    type: Literal["text"]
    text: str


class FunctionCall(Wire):
    """What an assistant called; `arguments` is JSON text, handed on as it is.

    `name` is whatever the model may have addressed, offered or not: what this engine gave can come back. The
    SDK's `parse` and `stream` add `parsed_arguments`, the same once more.
    """

    name: Annotated[str, Field(pattern=r"^[^\s<]*$")]
    arguments: str
    parsed_arguments: Any = None


class ToolCall(Wire):
    """One call in an assistant message of the history.

    `index` is the call's place in a stream, which the SDK leaves in the message that it puts together.
    """

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: Annotated[int, Field(ge=0)] | None = None


Content = str | list[TextPart]


class InstructionMessage(Wire):
    """A `system` or `developer` message: instructions."""

    role: Literal["system", "developer"]
    content: Content


class UserMessage(Wire):
    """A `user` message."""

    role: Literal["user"]
    content: Content
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None


class AssistantMessage(Wire):
    """An `assistant` message of the history, with the reasoning this engine gave beside it.

    Clients send back what the SDK gave them, so `annotations` may be there, but empty, and `parsed`, which
    its `parse` and `stream` read from `content`: the model is shown the text, not how it was read.
    """

    role: Literal["assistant"]
    content: Content | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    parsed: Any = None


class ToolMessage(Wire):
    """A tool's answer to the call `tool_call_id`."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


WireMessage = Annotated[
    InstructionMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class FunctionDefinition(Wire):
    """A function offered to the model; with `strict` its arguments are held to `parameters`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Wire):
    """A tool offered to the model."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Wire):
    """The function that must be called."""

    name: str


class NamedToolChoice(Wire):
    """`tool_choice` as one function by name."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(Wire):
    """Any text: the default."""

    type: Literal["text"]


class JsonObjectFormat(Wire):
    """Some json object."""

    type: Literal["json_object"]


class JsonSchema(Wire):
    """The schema of an answer. It is enforced whatever `strict` says: false would only allow less help."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(Wire):
    """Json that a schema holds."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


Mode = Literal["none", "auto", "required"]
ToolChoice = Mode | NamedToolChoice
ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class StreamOptions(Wire):
    """`include_usage` asks for a last chunk with the token counts."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class SamplingFields(Wire):
    """What both kinds of completion say about sampling and delivery."""

    model: str
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=VOCABULARY_SIZE)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,6}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=MAX_LOGIT_BIAS),
        ]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def choices(self) -> int:
        """How many answers are asked for."""
        return self.n or 1

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings, empty ones left out."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """`logit_bias` by token id."""
        return tuple((int(token), value) for token, value in (self.logit_bias or {}).items())

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(SamplingFields):
    """A chat completion request as far as this engine honours it."""

    messages: Annotated[list[WireMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    reasoning_effort: Effort | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None


def parse_chat_request(body: bytes) -> ChatRequest:
    """Reads a request body. Raises `Refused` with OpenAI's `param` and a `code`:

    `invalid_json`, `unknown_parameter`, `unsupported_parameter`, `unsupported_value` or `invalid_value`.
    """
    given = parse_object(body)
    if isinstance(messages := given.get("messages"), list):
        given["messages"] = [_without_nulls(message) for message in messages]
    request = validated(ChatRequest, given, NEUTRAL)
    check_sampling(request)
    _check_together(request)
    return request


def _without_nulls(message: Any) -> Any:
    """A message as if its null fields were absent: SDKs dump `refusal`, `audio` and the like as null."""
    if not isinstance(message, dict):
        return message
    return {key: value for key, value in message.items() if value is not None}


def check_sampling(request: SamplingFields) -> None:
    """What no single field can say of any request. Raises `Refused`."""
    if request.stream_options is not None and not request.stream:
        raise Refused(
            "`stream_options` needs `stream` to be true", param="stream_options", code="invalid_value"
        )
    if isinstance(request.stop, list) and len(request.stop) > MAX_STOP_STRINGS:
        raise Refused(f"`stop` takes at most {MAX_STOP_STRINGS} strings", param="stop", code="invalid_value")
    if any(token >= VOCABULARY_SIZE for token, _ in request.biases):
        raise Refused(
            f"`logit_bias` takes token ids below {VOCABULARY_SIZE}", param="logit_bias", code="invalid_value"
        )
    if len({token for token, _ in request.biases}) < len(request.biases):
        raise Refused("`logit_bias` names a token twice", param="logit_bias", code="invalid_value")


def _check_together(request: ChatRequest) -> None:
    """What no single field of a chat request can say."""
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
    names = {tool.function.name for tool in request.tools or []}
    if len(names) < len(request.tools or []):
        raise Refused("`tools` has two functions of one name", param="tools", code="invalid_value")
    if request.tool_choice is not None and not names:
        raise Refused("`tool_choice` needs `tools`", param="tool_choice", code="invalid_value")
    if any(name in get_args(Mode) for name in names):
        raise Refused(
            "`tools` has a function whose name is a value of `tool_choice`: rename it",
            param="tools",
            code="invalid_value",
        )
    if isinstance(request.tool_choice, NamedToolChoice) and request.tool_choice.function.name not in names:
        raise Refused(
            "`tool_choice` names a function that is not in `tools`", param="tool_choice", code="invalid_value"
        )
    if request.parallel_tool_calls is not None and not names:
        raise Refused(
            "`parallel_tool_calls` needs `tools`", param="parallel_tool_calls", code="invalid_value"
        )
