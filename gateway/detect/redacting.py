"""Redaction: an obligation on attempts that are permitted already. It permits none, and takes no label away.

A place that is not to be shown certain kinds is sent placeholders in their stead; its answer comes back with
what they stand for. Where a request cannot be written without such a thing, that place is not sent it at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, KeysView, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import orjson
from pydantic import ValidationError

from gateway.backends.base import (
    Answer,
    AnswerStream,
    Backend,
    BackendFault,
    Chunk,
    Reported,
    Upstream,
    asked_by,
)
from gateway.context import GatewayContext
from gateway.detect.budget import TooDense
from gateway.detect.placeholders import Placeholders, Redactor, Restoring
from gateway.detect.rules import DetectorRules
from gateway.detect.texts import texts_of
from gateway.openai import SENT, ChatRequest
from gateway.places import Place
from gateway.routing.attempt import Attempt
from gateway.trail import Trail


class Withdrawn(BackendFault):
    """While the request was being written anew, a bundle came into force that wants something else. Nothing
    was sent."""

    kind = "withdrawn"
    trips_breaker: ClassVar[bool] = False


class Unredactable(BackendFault):
    """The request cannot be written without what this place is not to be shown. Nothing was sent to it."""

    kind = "unredactable"
    trips_breaker: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Obliged(Mapping[str, Backend]):
    """The backends, as one request may use them: those to which redaction applies are wrapped.

    Both the bundle that the request came in under and the one in force when an attempt is made oblige.
    """

    trail: Trail
    context: GatewayContext

    def unable(self, chat: ChatRequest, model: str) -> dict[str, tuple[str, ...]]:
        """As `Backends.unable`; and `logprobs` where redaction will apply: they spell placeholders out."""
        unable = self.context.backends.unable(chat, model)
        if not chat.logprobs or not self.trail.detected:
            return unable
        for place, backend in self.context.backends.items():
            if self._kinds(backend.place) and unable.get(place) != ():  # one without the model stays as it is
                unable[place] = (*unable.get(place, ()), "logprobs")
        return unable

    def keys(self) -> KeysView[str]:
        return self.context.backends.keys()

    def __getitem__(self, place: str) -> Backend:
        backend = self.context.backends[place]
        kinds = self._kinds(backend.place)
        return RedactingBackend(backend, self._redactor(kinds), self) if kinds else backend

    def still(self, attempt: Attempt, backend: Backend, redactor: Redactor) -> bool:
        """Whether this attempt, written anew by this redactor, is still what both bundles want."""
        there = self.context.backends.get(attempt.place.id)
        return (
            attempt.still_permitted(self.context.policies.current)
            and there is not None
            and there.place == backend.place
            and self._kinds(backend.place) <= redactor.kinds
            and {rules.revision for rules in self._rules()} <= {rules.revision for rules in redactor.rules}
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.context.backends)

    def __len__(self) -> int:
        return len(self.context.backends)

    def _rules(self) -> tuple[DetectorRules, ...]:
        bundles = (self.trail.bundle, self.context.policies.current)
        rules = {
            bundle.revision: bundle.detectors
            for bundle in bundles
            if bundle.detectors is not None and bundle.detectors.redactions
        }
        return tuple(rules.values())

    def _kinds(self, place: Place) -> frozenset[str]:
        """What this request may hold that this place is not to be shown."""
        own = self.trail.bundle.detectors
        kinds: frozenset[str] = frozenset()
        for rules in self._rules():
            hidden = rules.redacted_at(place)
            # The request was read under its own bundle's rules; what others find is not known yet.
            known = own is not None and rules.revision == own.revision
            kinds |= hidden.intersection(self.trail.detected) if known else hidden
        return kinds

    def _redactor(self, kinds: frozenset[str]) -> Redactor:
        assert self.trail.caller is not None
        return Redactor(self._rules(), kinds, self.trail.caller.tenant, self.trail.caller.zone)


def obliged(trail: Trail, context: GatewayContext) -> Obliged:
    return Obliged(trail, context)


class RedactingBackend:
    """A backend that is sent placeholders and whose answers are restored."""

    def __init__(self, backend: Backend, redactor: Redactor, obliged: Obliged) -> None:
        self._backend = backend
        self._redactor = redactor
        self._obliged = obliged

    @property
    def place(self) -> Place:
        return self._backend.place

    @property
    def asked(self) -> Upstream | None:
        return asked_by(self._backend)

    def unsupported(self, chat: ChatRequest) -> tuple[str, ...]:
        return self._backend.unsupported(chat)

    async def complete(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> Answer:
        redacted, placeholders = await self._redact(attempt, chat)
        counts = dict(placeholders.counts)
        try:
            answer = await self._backend.complete(attempt, redacted, request_id)
        except BackendFault as fault:
            raise told_of(fault, counts) from None
        body = restoring(chat, placeholders).body(answer.body) if placeholders.things else answer.body
        return Answer(body, answer.usage, replace(answer.upstream, redacted=counts))

    async def stream(self, attempt: Attempt, chat: ChatRequest, request_id: str) -> AnswerStream:
        redacted, placeholders = await self._redact(attempt, chat)
        try:
            stream = await self._backend.stream(attempt, redacted, request_id)
        except BackendFault as fault:
            raise told_of(fault, dict(placeholders.counts)) from None
        return RestoringStream(stream, chat, placeholders) if placeholders.things else stream

    async def probe(self) -> Reported | None:
        return await self._backend.probe()

    async def _redact(self, attempt: Attempt, chat: ChatRequest) -> tuple[ChatRequest, Placeholders]:
        """Raises `Unredactable`; `Withdrawn` where a bundle came into force while it was read in a thread."""
        inline = all(sum(map(len, texts_of(chat))) <= rules.inline_bytes for rules in self._redactor.rules)
        try:
            if inline:
                return redact(chat, self._redactor)
            written = await asyncio.to_thread(redact, chat, self._redactor)
        except (TooDense, StillThere):
            raise Unredactable(
                f"the request cannot be sent to `{self.place.id}` without what it is not to be shown"
            ) from None
        if not self._obliged.still(attempt, self._backend, self._redactor):
            raise Withdrawn(f"`{self.place.id}` is no longer where the request may go as it was written")
        return written


class StillThere(Exception):
    """Something that was to be taken out stands where no placeholder can: in a tool's name, for example."""


def redact(chat: ChatRequest, redactor: Redactor) -> tuple[ChatRequest, Placeholders]:
    """The request with placeholders. Raises StillThere or TooDense."""
    forwarded = chat.forwarded()
    placeholders = Placeholders(orjson.dumps(forwarded).decode())
    wire = redactor.wire(forwarded, placeholders)
    if not placeholders.things:
        sent = chat
    else:
        whole = {**chat.wire(), **wire}
        try:
            sent = ChatRequest.model_validate(whole)
        except ValidationError:  # a placeholder stands where the API wants a plain name
            raise StillThere from None
        vars(sent)[SENT] = whole
    if any(redactor.find(text) for text in texts_of(sent)):
        raise StillThere
    if stops_within(sent, placeholders):
        raise StillThere
    return sent, placeholders


def stops_within(chat: ChatRequest, placeholders: Placeholders) -> bool:
    """Whether a stop sequence would end an answer in the middle of a placeholder."""
    stops = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
    return any(
        stop not in placeholders.things and (any(mark in stop for mark in "<>") or stop in placeholder)
        for stop in stops
        for placeholder in placeholders.things
    )


def restoring(chat: ChatRequest, placeholders: Placeholders) -> Restoring:
    json_content = chat.response_format is not None and chat.response_format.type != "text"
    return Restoring(placeholders.things, json_content)


def told_of(fault: BackendFault, counts: Mapping[str, int]) -> BackendFault:
    """The fault, with what the place was not shown."""
    if fault.upstream is not None:
        fault.upstream = replace(fault.upstream, redacted=counts)
    return fault


class RestoringStream:
    """A streamed answer in which what placeholders stand for is put back."""

    def __init__(self, stream: AnswerStream, chat: ChatRequest, placeholders: Placeholders) -> None:
        self._stream = stream
        self._restoring = restoring(chat, placeholders)
        self._counts = dict(placeholders.counts)

    @property
    def upstream(self) -> Upstream:
        return replace(self._stream.upstream, redacted=self._counts)

    async def __aiter__(self) -> AsyncIterator[tuple[Chunk, ...]]:
        try:
            async for batch in self._stream:
                yield tuple(restored for chunk in batch for restored in self._restored(chunk))
        except BackendFault as fault:
            raise told_of(fault, self._counts) from None

    def _restored(self, chunk: Chunk) -> Iterator[Chunk]:
        *before, last = self._restoring.event(chunk.data)
        yield from map(Chunk, before)
        yield Chunk(last, chunk.finish_reason, chunk.usage)

    async def aclose(self) -> None:
        await self._stream.aclose()
