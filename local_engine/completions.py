"""The life of one completion on raw text: no conversation, no channels, no tools.

A text prompt is text only, whatever it spells; prompts of token ids may hold special tokens. Special tokens
that the model samples are not shown, and those that end a turn end the completion.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from local_engine.completion import Envelope, Usage
from local_engine.errors import Refused
from local_engine.feed import Feed
from local_engine.harmony.tokens import FIRST_SPECIAL, Tokenizer
from local_engine.raw import (
    DEFAULT_MAX_TOKENS,
    CompletionRequest,
    RawReason,
    parse_completion_request,
    text_chunk,
    text_completion,
    text_usage_chunk,
)
from local_engine.reply import assembled, respond
from local_engine.sampling import SamplingParams
from local_engine.scheduler import Reason
from local_engine.service import CACHE_SALT_HEADER, Service, check_salt, sampling_of
from local_engine.steps import Token
from local_engine.text import Outlet, Shown, joined

MOST_BYTES = 4
"""Of a character in UTF-8."""


@dataclass(frozen=True, slots=True)
class RawJob:
    """A request made ready. `echoes` is what each prompt's choices begin with: its text, or nothing."""

    request: CompletionRequest
    prompts: list[list[int]]
    echoes: list[str]
    params: SamplingParams
    envelope: Envelope
    cache_salt: str | None


async def text_completions(request: Request, service: Service) -> Response:
    """`POST /v1/completions`. Raises `RequestError` for what fails before the first byte."""
    salt = request.headers.get(CACHE_SALT_HEADER)
    return await respond(
        request,
        service,
        lambda body: prepare(body, salt, service),
        lambda job, feed: RawReply(job, feed, service),
    )


def prepare(body: bytes, cache_salt: str | None, service: Service) -> RawJob:
    """Parses, checks and encodes a request; pure but for the clock. Raises `Refused`."""
    check_salt(cache_salt)
    request = parse_completion_request(body)
    service.check_model(request.model)
    load = service.engine.load()
    capacity = load.max_running + load.max_waiting
    if len(request.prompts) * request.choices > capacity:
        raise Refused(
            f"these are more choices than {capacity}, the most this engine holds at once: send fewer prompts",
            param="prompt",
        )
    vocabulary = service.vocabulary
    prompts = [vocabulary.encode(one) if isinstance(one, str) else one for one in request.prompts]
    max_tokens = request.max_tokens or DEFAULT_MAX_TOKENS
    service.engine.check_length(max(map(len, prompts)), max_tokens, "prompt")
    envelope = Envelope(
        id=f"cmpl-{service.new_id()}",
        created=int(service.now_s()),
        model=request.model,
        fingerprint=service.fingerprint,
        logprobs=request.logprobs is not None,
    )
    echoes = [text_of(one, vocabulary) if request.echo else "" for one in prompts]
    params = sampling_of(request, max_tokens, request.logprobs)
    return RawJob(request, prompts, echoes, params, envelope, cache_salt)


def text_of(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of tokens, special ones and half a character at the end left out."""
    return _decoder().decode(_bytes_of(tokens, tokenizer))


def _bytes_of(tokens: Sequence[int], tokenizer: Tokenizer) -> bytes:
    return b"".join(tokenizer.token_bytes(token) for token in tokens if token < FIRST_SPECIAL)


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")(errors="replace")


class RawChoice:
    """Makes the tokens of one choice into text. A character that `prompt` begins is its first one."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._outlet = Outlet(stops, tokenizer)
        self._decoder = _decoder()
        ordinary = (token for token in reversed(prompt) if token < FIRST_SPECIAL)
        begun = [*islice(ordinary, MOST_BYTES)][::-1]
        self._decoder.decode(_bytes_of(begun, tokenizer)[-MOST_BYTES:])
        self.completion_tokens = 0

    @property
    def done(self) -> bool:
        """True once a stop string was found."""
        return self._outlet.stopped

    def push(self, token: Token) -> list[Shown]:
        """Takes one sampled token; returns what it completes. What comes after `done` is ignored."""
        if self.done:
            return []
        self.completion_tokens += 1
        if token.id >= FIRST_SPECIAL:
            return []
        self._outlet.count(token.id, token.logprobs)
        return [self._outlet.push(self._decoder.decode(self._tokenizer.token_bytes(token.id)))]

    def finish(self, reason: Reason) -> tuple[list[Shown], RawReason]:
        """The tokens have ended; returns the rest and why. Half a character at the end is left out."""
        if self.done:
            return [], "stop"
        return [self._outlet.end()], "length" if reason == "length" else "stop"


class RawReply:
    """The choices of one request on their way to the client: those of the first prompt, then of the next."""

    def __init__(self, job: RawJob, feed: Feed, service: Service) -> None:
        self._job = job
        self._feed = feed
        n = job.request.choices
        self._echoes = [echo for echo in job.echoes for _ in range(n)]
        self._choices = [
            RawChoice(service.vocabulary, job.request.stop_strings, prompt)
            for prompt in job.prompts
            for _ in range(n)
        ]
        for prompt in job.prompts:
            feed.open(service.engine, prompt, job.params, n=n, cache_salt=job.cache_salt)

    @property
    def streamed(self) -> bool:
        """Which form the client asked for."""
        return bool(self._job.request.stream)

    async def whole(self) -> dict[str, Any]:
        """The complete answer as one object."""
        texts = [[Shown(echo)] for echo in self._echoes]
        reasons: dict[int, RawReason] = {}
        async for batch in self._feed.batches():
            for choice, more, reason in assembled(self._feed, self._choices, batch):
                texts[choice] += more
                if reason is not None:
                    reasons[choice] = reason
        choices = [(joined(own), reasons[choice]) for choice, own in enumerate(texts)]
        return text_completion(self._job.envelope, choices, self._usage())

    async def chunks(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The answer as stream chunks: what is ready of a choice together is one chunk."""
        envelope = self._job.envelope
        if self._job.request.echo:
            yield [text_chunk(envelope, n, Shown(echo)) for n, echo in enumerate(self._echoes)]
        async for batch in self._feed.batches():
            chunks = []
            for choice, more, reason in assembled(self._feed, self._choices, batch):
                shown = joined(more)
                if shown.text or reason is not None:
                    chunks.append(text_chunk(envelope, choice, shown, reason))
            if chunks:
                yield chunks
        if self._job.request.wants_usage:
            yield [text_usage_chunk(envelope, self._usage())]

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=sum(map(len, self._job.prompts)),
            cached_tokens=self._feed.cached_tokens,
            completion_tokens=sum(choice.completion_tokens for choice in self._choices),
            reasoning_tokens=0,
        )
