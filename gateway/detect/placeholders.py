"""What stands in a redacted request for what was taken out, and how an answer gets it back."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from gateway.detect.budget import TooDense
from gateway.detect.kinds import Found
from gateway.detect.rules import DetectorRules


@dataclass(slots=True)
class Placeholders:
    """The placeholders of one request: one for each thing, numbered by kind in the order of the text.

    The same thing has the same placeholder wherever it stands; a conversation that grows keeps its beginning.
    `taken` is everything that the request says: no placeholder is a part of it.
    """

    taken: str
    things: dict[str, str] = field(default_factory=dict)  # by placeholder
    counts: Counter[str] = field(default_factory=Counter)  # spans by kind
    _of: dict[tuple[str, str], str] = field(default_factory=dict)
    _stems: dict[str, str] = field(default_factory=dict)
    _numbers: Counter[str] = field(default_factory=Counter)

    def put(self, kind: str, thing: str) -> str:
        """The placeholder of this thing; counts that it stands here."""
        self.counts[kind] += 1
        known = self._of.get((kind, thing))
        if known is not None:
            return known
        self._numbers[kind] += 1
        made = self._of[kind, thing] = f"{self._stem(kind)}{self._numbers[kind]}>"
        self.things[made] = thing
        return made

    def _stem(self, kind: str) -> str:
        """`<EMAIL_`; with a letter more where the request itself has that."""
        if kind not in self._stems:
            name = re.sub(r"[^A-Z0-9]", "_", kind.upper())
            stems = (f"<{name}_{''.join(more)}" for n in itertools.count() for more in letters(n))
            self._stems[kind] = next(stem for stem in stems if stem not in self.taken)
        return self._stems[kind]


def letters(count: int) -> Iterator[tuple[str, ...]]:
    return itertools.product("ABCDEFGHJKLMNPQRSTUVWXYZ", repeat=count)


def redact_text(text: str, found: list[Found], placeholders: Placeholders) -> str:
    """The text with a placeholder for each of the spans; one for spans that overlap, of the kind of the first
    and longest."""
    spans: list[Found] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end, one.kind)):
        if spans and one.start < spans[-1].end:  # no end of it is shown, either
            spans[-1] = replace(spans[-1], end=max(one.end, spans[-1].end))
        else:
            spans.append(one)
    pieces, at = [], 0
    for one in spans:
        pieces += [text[at : one.start], placeholders.put(one.kind, text[one.start : one.end])]
        at = one.end
    return "".join([*pieces, text[at:]])


@dataclass(frozen=True, slots=True)
class Redactor:
    """Takes things of `kinds` out of a request of one tenant."""

    rules: tuple[DetectorRules, ...]
    kinds: frozenset[str]
    tenant: str
    zone: str

    def find(self, text: str) -> list[Found]:
        """Spans to take out. Raises TooDense, also for a text that is too long to read."""
        if any(len(text.encode("utf-8", "surrogatepass")) > rules.text_bytes_max for rules in self.rules):
            raise TooDense
        found = {one for rules in self.rules for one in rules.find(text, self.tenant, self.zone)}
        return [one for one in found if one.kind in self.kinds]

    def text(self, text: str, placeholders: Placeholders, key: str = "") -> str:
        """The text without them. `key` is what it is called where it stands, which may say what it is."""
        name = f"{key}: " if key else ""
        found = [
            Found(one.start - len(name), one.end - len(name), one.kind)
            for one in self.find(name + text)
            if one.start >= len(name)
        ]
        return redact_text(text, found, placeholders) if found else text

    def value(self, value: Any, placeholders: Placeholders, key: str = "") -> Any:
        """A JSON value without them; a number that is one of them becomes a text."""
        if isinstance(value, str):
            return self.text(value, placeholders, key)
        if isinstance(value, dict):
            return {
                self.text(name, placeholders): self.value(inner, placeholders, name)
                for name, inner in value.items()
            }
        if isinstance(value, list):
            return [self.value(inner, placeholders, key) for inner in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            written = json.dumps(value)
            redacted = self.text(written, placeholders, key)
            return value if redacted == written else redacted
        return value

    def arguments(self, text: str, placeholders: Placeholders) -> str:
        """The arguments of a tool's call: still JSON where they were."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text, placeholders)
        redacted = self.value(value, placeholders)
        if redacted == value:
            return text
        written = json.dumps(redacted, ensure_ascii=False)
        return written if written == written.encode("utf-8", "replace").decode() else json.dumps(redacted)

    def message(self, message: Mapping[str, Any], placeholders: Placeholders) -> dict[str, Any]:
        """A message without them. What names a message's role, a tool or a call is left as it is."""
        redacted = dict(message)
        for name in ("content", "reasoning", "reasoning_content", "refusal", "name"):
            value = message.get(name)
            if isinstance(value, str):
                redacted[name] = self.text(value, placeholders)
            elif isinstance(value, list):
                redacted[name] = [
                    {k: v if k == "type" else self.text(v, placeholders) for k, v in part.items()}
                    for part in value
                ]
        if message.get("tool_calls"):
            redacted["tool_calls"] = [
                {
                    **call,
                    "function": {
                        **call["function"],
                        "arguments": self.arguments(call["function"]["arguments"], placeholders),
                    },
                }
                for call in message["tool_calls"]
            ]
        return redacted

    def wire(self, wire: Mapping[str, Any], placeholders: Placeholders) -> dict[str, Any]:
        """A whole request without them, as far as it can be written without them."""
        redacted = dict(wire)
        redacted["messages"] = [self.message(message, placeholders) for message in wire["messages"]]
        for name in ("tools", "response_format", "stop"):
            if wire.get(name) is not None:
                redacted[name] = self.value(wire[name], placeholders)
        return redacted


class Restorer:
    """Puts back what placeholders stand for, in whole texts and in pieces as they arrive."""

    def __init__(self, things: Mapping[str, str], *, json_text: bool = False) -> None:
        self._things = {
            placeholder: json.dumps(thing, ensure_ascii=False)[1:-1] if json_text else thing
            for placeholder, thing in things.items()
        }
        self._pattern = re.compile("|".join(map(re.escape, self._things)))
        self.held = ""

    def whole(self, text: str) -> str:
        return self._pattern.sub(lambda match: self._things[match.group()], text)

    def piece(self, text: str) -> str:
        """What can be told of a text that goes on: all but what may be the beginning of a placeholder."""
        text = self.held + text
        begun = text.rfind("<")
        cut = len(text)
        if begun >= 0 and any(
            len(text) - begun < len(placeholder) and placeholder.startswith(text[begun:])
            for placeholder in self._things
        ):
            cut = begun
        self.held = text[cut:]
        return self.whole(text[:cut])

    def rest(self) -> str:
        """What was held back, at the end of the text."""
        held, self.held = self.held, ""
        return held


TEXTS = ("reasoning", "content", "refusal")


@dataclass(slots=True)
class Restoring:
    """Restores one answer. `json_content`: the content was asked for as JSON, and is to stay it."""

    things: Mapping[str, str]
    json_content: bool
    _texts: dict[str, Restorer] = field(default_factory=dict)
    _calls: dict[int, Restorer] = field(default_factory=dict)

    def text(self, name: str) -> Restorer:
        if name not in self._texts:
            self._texts[name] = Restorer(self.things, json_text=self.json_content and name == "content")
        return self._texts[name]

    def call(self, index: int) -> Restorer:
        if index not in self._calls:
            self._calls[index] = Restorer(self.things, json_text=True)
        return self._calls[index]

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole `chat.completion`."""
        choices = []
        for choice in body["choices"]:
            message = dict(choice["message"])
            for name in TEXTS:
                if message.get(name):
                    message[name] = self.text(name).whole(message[name])
            if message.get("tool_calls"):
                message["tool_calls"] = [
                    {**one, "function": self._function(one["function"])} for one in message["tool_calls"]
                ]
            choices.append({**choice, "message": message})
        return {**body, "choices": choices}

    def _function(self, function: Mapping[str, Any]) -> dict[str, Any]:
        return {**function, "arguments": self.call(0).whole(function["arguments"])}

    def event(self, data: bytes) -> Iterator[bytes]:
        """The events that one event of a stream becomes; nothing is held back but the end of a text.

        What was held of a text is told before another one goes on, and before the answer is finished.
        """
        event = orjson.loads(data)
        for choice in event["choices"]:
            delta, finished = choice.get("delta") or {}, bool(choice.get("finish_reason"))
            if before := self._ended(delta, finished):
                head = {**choice, "delta": before, "finish_reason": None}
                yield orjson.dumps({**event, "choices": [head]})
            for name in TEXTS:
                if delta.get(name):
                    delta[name] = told(self.text(name), delta[name], finished)
            for part in delta.get("tool_calls") or ():
                function = part.get("function") or {}
                if function.get("arguments"):
                    function["arguments"] = told(self.call(part["index"]), function["arguments"], finished)
        yield orjson.dumps(event)

    def _ended(self, delta: Mapping[str, Any], finished: bool) -> dict[str, Any]:
        """What is held of texts that do not go on in this event, where it says that they have ended."""
        goes_on = {name for name in TEXTS if delta.get(name)}
        calls = {part["index"] for part in delta.get("tool_calls") or ()}
        if not (finished or goes_on or calls):
            return {}
        ended: dict[str, Any] = {
            name: held for name, one in self._texts.items() if name not in goes_on and (held := one.rest())
        }
        # Calls may take turns: a call has ended only with the answer.
        rest = [
            {"index": index, "function": {"arguments": held}}
            for index, one in self._calls.items()
            if finished and index not in calls and (held := one.rest())
        ]
        return {**ended, "tool_calls": rest} if rest else ended


def told(restorer: Restorer, text: str, finished: bool) -> str:
    return restorer.piece(text) + (restorer.rest() if finished else "")
