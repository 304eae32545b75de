"""From a request's tools, tool choice and response format to the turns of its choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from local_engine.errors import Refused
from local_engine.harmony.tokens import CALL, END, RETURN, START, Tokenizer
from local_engine.structure.grammars import JsonGrammar, JsonGrammars
from local_engine.structure.headers import call_header, channel_header, json_header, trie
from local_engine.structure.masks import ordinary_tokens
from local_engine.structure.schema import SchemaError, arguments_schema, enforceable
from local_engine.structure.turn import Body, Plan, Stage, Turn

FRAME_TOKENS = 32
"""Set aside for headers and ends of messages before the rest is shared out."""

ANY_OBJECT: dict[str, Any] = {"type": "object"}

ResponseFormat = Literal["json_object"] | Mapping[str, Any] | None
Header = tuple[list[int], Body]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function on offer. `strict` asks for its arguments to follow `parameters` whenever it is called."""

    name: str
    parameters: Mapping[str, Any] | None = None
    strict: bool = False


def reasoning_budget(max_tokens: int) -> int:
    """How many tokens of analysis and preamble a held turn may have: half of what `max_tokens` leaves.

    The other half is for what was asked for, so that thinking long does not cut the answer off.
    """
    return max(0, max_tokens - FRAME_TOKENS) // 2


class Structures:
    """Makes the structure of requests. Made once at start-up, in half a second; threads may share it."""

    def __init__(self, vocabulary: Tokenizer) -> None:
        self._vocabulary = vocabulary
        self._grammars = JsonGrammars(vocabulary)
        self._ordinary = ordinary_tokens()
        self._resume = (START, *vocabulary.encode("assistant"))

    def for_request(
        self,
        tools: Sequence[ToolSpec] = (),
        tool_choice: str = "auto",
        response_format: ResponseFormat = None,
        *,
        parallel: bool = True,
        max_tokens: int,
        hold_arguments: bool = False,
    ) -> Callable[[], Turn] | None:
        """What makes a fresh turn for each choice, or None when the request holds the model to nothing.

        `tool_choice` is `none`, `auto`, `required` or the name of the one function to call. Under `required`
        and a name, the turn ends in a call and `response_format` has nothing to say. Under `auto` a call is
        possible beside the final message; its arguments follow the schema of a `strict` function, or of all
        with `hold_arguments`, and are any JSON object otherwise. With `parallel` more calls may follow one.
        A response format is a JSON schema, or `json_object`.

        Compiles, so not for the event loop. Raises `Refused` with code `invalid_schema` for a schema that
        cannot be enforced, `invalid_value` for a choice that does not fit the tools.
        """
        forced = tool_choice not in ("none", "auto")
        offered = _offered(tools, tool_choice)
        held = forced or hold_arguments or any(tool.strict for _, tool in offered)
        if response_format is None and not (offered and held):
            return None
        calls = [
            (
                call_header(tool.name, self._vocabulary),
                self._call(n, tool, parallel, forced or hold_arguments),
            )
            for n, tool in offered
        ]
        finals = [] if forced else list(self._finals(response_format))
        # To the client a preamble is content, and content under a response format is nothing but JSON.
        preambles = list(self._preamble()) if offered and (forced or response_format is None) else []
        actions = [*calls, *finals]
        plan = Plan(
            stages={
                Stage.OPENING: trie([*self._analysis(), *preambles, *actions]),
                Stage.REASONED: trie([*preambles, *actions]),
                Stage.ACTING: trie(actions),
                Stage.CALLED: trie(calls),
            },
            budget=reasoning_budget(max_tokens),
            resume=self._resume,
            ordinary=self._ordinary,
        )
        return lambda: Turn(plan)

    def _analysis(self) -> Iterator[Header]:
        body = Body(ends=(END,), then=Stage.REASONED, budgeted=True)
        yield channel_header("analysis", self._vocabulary), body

    def _preamble(self) -> Iterator[Header]:
        body = Body(ends=(END,), then=Stage.ACTING, budgeted=True)
        yield channel_header("commentary", self._vocabulary), body

    def _finals(self, response_format: ResponseFormat) -> Iterator[Header]:
        header = channel_header("final", self._vocabulary)
        if response_format is None:
            yield header, Body(ends=(RETURN,), then=Stage.ACTING)
            return
        schema = ANY_OBJECT if response_format == "json_object" else response_format
        grammar = self._compile(schema, enforceable, "response_format")
        body = Body(ends=(RETURN,), then=Stage.ACTING, grammar=grammar)
        yield header, body
        yield json_header(header, self._vocabulary), body

    def _call(self, n: int, tool: ToolSpec, parallel: bool, held: bool) -> Body:
        param = f"tools[{n}].function.parameters"
        if held or tool.strict:
            grammar = self._compile(tool.parameters, arguments_schema, param)
        else:
            grammar = self._compile(ANY_OBJECT, enforceable, param)
        return Body(ends=(CALL, END) if parallel else (CALL,), then=Stage.CALLED, grammar=grammar)

    def _compile(self, schema: Any, read: Callable[[Any], dict[str, Any]], param: str) -> JsonGrammar:
        try:
            return self._grammars.compile(read(schema))
        except SchemaError as error:
            raise Refused(f"the schema at `{param}` {error}", param=param, code="invalid_schema") from None


def _offered(tools: Sequence[ToolSpec], tool_choice: str) -> list[tuple[int, ToolSpec]]:
    """The functions that may be called, with their places in the request. Raises `Refused`."""
    if len({tool.name for tool in tools}) < len(tools):
        raise Refused("two of the `tools` have the same name", param="tools", code="invalid_value")
    match tool_choice:
        case "none":
            return []
        case "auto":
            return list(enumerate(tools))
        case "required" if tools:
            return list(enumerate(tools))
        case "required":
            raise Refused(
                "`tool_choice` requires a call, but there are no `tools`",
                param="tool_choice",
                code="invalid_value",
            )
    chosen = [(n, tool) for n, tool in enumerate(tools) if tool.name == tool_choice]
    if not chosen:
        raise Refused(
            "`tool_choice` names a function that `tools` does not hold",
            param="tool_choice",
            code="invalid_value",
        )
    return chosen
