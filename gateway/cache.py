"""The exact cache: what may share an answer, and how an answer is kept, checked and told again.

An entry is found only by a request of the same tenant, with the same labels, the same permitted places, the
same model and policy revision, and the same fields that shape an answer. Plain and streamed requests share
entries. Only complete answers are kept, sealed under the tenant's key, where the action `cache` is permitted.
A sampled answer is cached like any other: a caller who wants a fresh one varies `seed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.backends.base import Chunk, Usage
from gateway.keys.keyring import Keyring, Unsealable
from gateway.openai import ChatRequest
from gateway.places import Action
from gateway.policy.permit import Permitted
from gateway.receipts.receipt import CacheOrigin

ENTRY_BYTES_MAX = 1024 * 1024
FORMAT = 1
TEXTS = frozenset({"content", "reasoning", "refusal"})  # of a message, that come in pieces


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A complete answer. `parts` is the JSON text of the body, or of each chunk before the usage chunk."""

    origin: CacheOrigin
    id: str  # of the answer when it was made; replaced when it is told again
    usage: Usage
    streamed: bool
    parts: tuple[bytes, ...]

    def body(self, answer_id: str) -> bytes:
        """The answer as a `chat.completion`."""
        if self.streamed:
            return orjson.dumps(merged([orjson.loads(part) for part in self.parts], answer_id, self.usage))
        return renamed(self.parts[0], self.id, answer_id)

    def chunks(self, answer_id: str) -> tuple[Chunk, ...]:
        """The answer as the events of a stream; the last one carries the usage."""
        if self.streamed:
            parts = [renamed(part, self.id, answer_id) for part in self.parts]
        else:
            parts = [orjson.dumps(event) for event in split(orjson.loads(self.parts[0]), answer_id)]
        usage_event = {**orjson.loads(parts[0]), "choices": [], "usage": self.usage.wire()}
        return (*(Chunk(part) for part in parts), Chunk(orjson.dumps(usage_event), usage=self.usage))


def cache_key(
    chat: ChatRequest, permitted: Permitted, store_place: str | None, commit: Callable[[str, bytes], str]
) -> str | None:
    """The key of this request's entry; None when its labels do not permit `cache` at the store's place.

    A keyed digest: it tells a reader of the store nothing about the request, and no two tenants share one.
    """
    if store_place is None or not permitted.allows(Action.CACHE, store_place):
        return None
    facts = permitted.facts
    partition = (
        FORMAT,
        facts.labels.names(),
        facts.model,
        facts.purpose,
        facts.zone,
        permitted.digest,
        permitted.revision,
        # Only the top level is sorted: the order of a tool's or a schema's properties is the order in which
        # the model reads them.
        sorted(chat.forwarded().items()),
    )
    return "answer/" + commit(facts.tenant, orjson.dumps(partition))


def authorised(cached: CachedAnswer, permitted: Permitted, store_place: str | None) -> bool:
    """Whether today's bundle lets this request have this answer: made and kept where that is permitted."""
    return (
        store_place is not None
        and permitted.allows(Action.INFER, cached.origin.place)
        and permitted.allows(Action.CACHE, store_place)
    )


def seal_entry(cached: CachedAnswer, key: str, tenant: str, keys: Keyring) -> bytes | None:
    """The entry as the store keeps it; None when it is too large to keep."""
    head = {"origin": cached.origin, "id": cached.id, "usage": cached.usage, "streamed": cached.streamed}
    plain = b"\n".join((orjson.dumps(head), *cached.parts))
    return keys.seal(tenant, key.encode(), plain) if len(plain) <= ENTRY_BYTES_MAX else None


def open_entry(sealed: bytes, key: str, tenant: str, keys: Keyring) -> CachedAnswer | None:
    """The entry; None for one that is damaged, moved to another key, or of a tenant whose key is gone."""
    try:
        head_text, *parts = keys.open_(tenant, key.encode(), sealed).split(b"\n")
        head = orjson.loads(head_text)
        origin = CacheOrigin(**{**head["origin"], "labels": tuple(head["origin"]["labels"])})
        return CachedAnswer(origin, head["id"], Usage(**head["usage"]), head["streamed"], tuple(parts))
    except (Unsealable, orjson.JSONDecodeError, KeyError, TypeError):
        # Damaged, or written by a version with another form: either way there is nothing to tell again.
        return None


def complete_stream(parts: Sequence[bytes]) -> bool:
    """Whether the parts hold an answer that its model has finished.

    One cut at `length` counts: the bound is the request's, and so part of the key. One that a filter
    withheld does not.
    """
    return any(b'"finish_reason":"' in part for part in parts) and not any(
        b'"finish_reason":"content_filter"' in part for part in parts
    )


def renamed(part: bytes, before: str, after: str) -> bytes:
    """The JSON text under another id; only the first `id` of an object of the API is an answer's."""
    return part.replace(b'"id":"%b"' % before.encode(), b'"id":"%b"' % after.encode(), 1)


def split(body: Mapping[str, Any], answer_id: str) -> Iterable[dict[str, Any]]:
    """A whole answer as events, in the order in which a model makes them."""
    choice = body["choices"][0]
    message = choice["message"]
    head = {**{name: body[name] for name in ("created", "model", "system_fingerprint") if name in body}}

    def event(delta: Mapping[str, Any], finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]
        return {"id": answer_id, "object": "chat.completion.chunk", **head, "choices": choices}

    yield event({"role": "assistant", "content": ""})
    if message.get("reasoning"):
        yield event({"reasoning": message["reasoning"]})
    if message.get("refusal"):
        yield event({"refusal": message["refusal"]})
    if message.get("content"):
        yield event({"content": message["content"]}, logprobs=choice.get("logprobs"))
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield event({"tool_calls": [{"index": index, **call}]})
    yield event({}, choice["finish_reason"])


@dataclass(frozen=True, slots=True)
class Joined:
    """What the choices of a stream's events amount to."""

    message: dict[str, Any]
    logprobs: list[Any]
    finish_reason: str | None


def joined(events: Iterable[Mapping[str, Any]]) -> Joined:
    """The deltas of a stream as one message, as clients put them together."""
    texts: dict[str, list[str]] = {name: [] for name in TEXTS}
    calls: dict[int, dict[str, Any]] = {}
    logprobs: list[Any] = []
    finish = None
    for event in events:
        for choice in event["choices"]:
            delta = choice["delta"]
            for name in delta.keys() & TEXTS:
                if delta[name]:
                    texts[name].append(delta[name])
            for part in delta.get("tool_calls") or ():
                known = calls.setdefault(
                    part["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
                )
                known["id"] = part.get("id") or known["id"]
                for name in ("name", "arguments"):
                    known["function"][name] += (part.get("function") or {}).get(name) or ""
            if choice.get("logprobs"):
                logprobs.extend(choice["logprobs"].get("content") or ())
            finish = choice.get("finish_reason") or finish
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts["content"]) or None}
    if texts["refusal"]:
        message["refusal"] = "".join(texts["refusal"])
    if texts["reasoning"]:
        message["reasoning"] = "".join(texts["reasoning"])
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return Joined(message, logprobs, finish)


def merged(events: Sequence[Mapping[str, Any]], answer_id: str, usage: Usage) -> dict[str, Any]:
    """The events of a stream as one whole answer."""
    whole, first = joined(events), events[0]
    head = {name: first[name] for name in ("created", "model", "system_fingerprint") if name in first}
    return {
        "id": answer_id,
        "object": "chat.completion",
        **head,
        "choices": [
            {
                "index": 0,
                "message": whole.message,
                "logprobs": {"content": whole.logprobs} if whole.logprobs else None,
                "finish_reason": whole.finish_reason,
            }
        ],
        "usage": usage.wire(),
    }
