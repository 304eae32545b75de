"""The life of one chat completion in the engine: prepared, queued, assembled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from local_engine.answer import Assembler, FinishReason, Piece, coalesced
from local_engine.completion import (
    Choice,
    Envelope,
    Usage,
    closing_chunk,
    completion,
    opening_chunk,
    piece_chunk,
    usage_chunk,
)
from local_engine.feed import Arrival, Feed
from local_engine.harmony.render import render_prompt
from local_engine.prompt import conversation_of, offered_tools
from local_engine.replay import Seen, SeenCall
from local_engine.reply import assembled, respond
from local_engine.sampling import SamplingParams
from local_engine.service import CACHE_SALT_HEADER, Service, check_salt, sampling_of
from local_engine.steps import Grammar
from local_engine.structure.request import ResponseFormat as ResponseForm
from local_engine.structure.request import Structures, ToolSpec
from local_engine.wire import (
    ChatRequest,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    NamedToolChoice,
    parse_chat_request,
)


@dataclass(frozen=True, slots=True)
class ChatJob:
    """A request made ready: the prompt's tokens, how to sample, and what the answer repeats."""

    request: ChatRequest
    prompt: list[int]
    params: SamplingParams
    envelope: Envelope
    cache_salt: str | None
    grammar: Callable[[], Grammar] | None


async def chat_completion(request: Request, service: Service) -> Response:
    """`POST /v1/chat/completions`. Raises `RequestError` for what fails before the first byte."""
    salt = request.headers.get(CACHE_SALT_HEADER)
    return await respond(
        request,
        service,
        lambda body: prepare(body, salt, service),
        lambda job, feed: ChatReply(job, feed, service),
    )


def prepare(body: bytes, cache_salt: str | None, service: Service) -> ChatJob:
    """Parses, checks and renders a request; pure but for the clock. Raises `Refused`."""
    check_salt(cache_salt)
    request = parse_chat_request(body)
    service.check_model(request.model)
    recall = partial(service.replay.recall, cache_salt)
    prompt = render_prompt(conversation_of(request, service.today(), recall), service.vocabulary)
    asked = request.max_completion_tokens or request.max_tokens
    max_tokens = asked or max(1, service.engine.max_context_tokens - len(prompt))
    service.engine.check_length(len(prompt), max_tokens, "messages")
    envelope = Envelope(
        id=f"chatcmpl-{service.new_id()}",
        created=int(service.now_s()),
        model=request.model,
        fingerprint=service.fingerprint,
        logprobs=bool(request.logprobs),
    )
    grammar = grammar_of(request, max_tokens, service.structures)
    params = sampling_of(request, max_tokens, (request.top_logprobs or 0) if request.logprobs else None)
    return ChatJob(request, prompt, params, envelope, cache_salt, grammar)


def grammar_of(request: ChatRequest, max_tokens: int, structures: Structures) -> Callable[[], Grammar] | None:
    """What makes the grammar of each choice; None for a request that holds the model to nothing.

    A json schema is enforced whatever its `strict` says. Raises `Refused` for one that cannot be.
    """
    functions = [tool.function for tool in request.tools or []]
    choice = request.tool_choice or "auto"
    match request.response_format:
        case JsonSchemaFormat(json_schema=JsonSchema(schema_=dict() as schema)):
            form: ResponseForm = schema
        case JsonObjectFormat() | JsonSchemaFormat():
            form = "json_object"
        case _:
            form = None
    return structures.for_request(
        [ToolSpec(one.name, one.parameters, bool(one.strict)) for one in functions],
        choice.function.name if isinstance(choice, NamedToolChoice) else choice,
        form,
        parallel=request.parallel_tool_calls is not False,
        max_tokens=max_tokens,
    )


class ChatReply:
    """The choices of one request on their way to the client."""

    def __init__(self, job: ChatJob, feed: Feed, service: Service) -> None:
        self._job = job
        self._feed = feed
        self._replay = service.replay
        offers_tools = bool(offered_tools(job.request))
        self._choices = [
            Assembler(
                service.vocabulary,
                job.request.stop_strings,
                offers_tools,
                lambda: f"call_{service.new_id()}",
                parallel=job.request.parallel_tool_calls is not False,
            )
            for _ in range(job.request.choices)
        ]
        self._pieces: list[list[Piece]] = [[] for _ in self._choices]
        self._reasons: dict[int, FinishReason] = {}
        feed.open(
            service.engine,
            job.prompt,
            job.params,
            n=len(self._choices),
            cache_salt=job.cache_salt,
            grammar=job.grammar,
        )

    @property
    def streamed(self) -> bool:
        """Which form the client asked for."""
        return bool(self._job.request.stream)

    async def whole(self) -> dict[str, Any]:
        """The complete answer as one object."""
        async for batch in self._feed.batches():
            self._assembled(batch)
        choices = self._finished()
        await asyncio.to_thread(self._remember, choices)
        return completion(self._job.envelope, choices, self._usage())

    async def chunks(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The answer as stream chunks: what is ready of a choice together is one chunk for each kind."""
        envelope = self._job.envelope
        yield [opening_chunk(envelope, choice) for choice in range(len(self._choices))]
        async for batch in self._feed.batches():
            chunks = []
            for choice, more, reason in self._assembled(batch):
                chunks += [piece_chunk(envelope, choice, piece) for piece in coalesced(more)]
                if reason is not None:
                    chunks.append(closing_chunk(envelope, choice, reason))
            if chunks:
                yield chunks
        await asyncio.to_thread(self._remember, self._finished())
        if self._job.request.wants_usage:
            yield [usage_chunk(envelope, self._usage())]

    def _assembled(self, batch: list[Arrival]) -> list[tuple[int, list[Piece], FinishReason | None]]:
        added = assembled(self._feed, self._choices, batch)
        for choice, more, reason in added:
            self._pieces[choice] += more
            if reason is not None:
                self._reasons[choice] = reason
        return added

    def _finished(self) -> list[Choice]:
        return [Choice(coalesced(own), self._reasons[n]) for n, own in enumerate(self._pieces)]

    def _remember(self, choices: list[Choice]) -> None:
        """So that the conversation goes on from what was sampled; what was cut off is rendered anew."""
        for assembler, choice in zip(self._choices, choices, strict=True):
            calls = (SeenCall(start.id, start.name, arguments) for start, arguments in choice.calls)
            seen = Seen(choice.content, tuple(calls), choice.reasoning)
            self._replay.remember(self._job.cache_salt, seen, assembler.tokens)

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self._job.prompt),
            cached_tokens=self._feed.cached_tokens,
            completion_tokens=sum(choice.completion_tokens for choice in self._choices),
            reasoning_tokens=sum(choice.reasoning_tokens for choice in self._choices),
        )
