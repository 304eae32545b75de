"""Every text of a request that a backend is sent, as detectors read it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from gateway.openai import ChatRequest

NOT_CONTENT: Final = frozenset({"role", "type"})  # words of the API's own


def texts_of(chat: ChatRequest) -> Iterator[str]:
    """The texts: each part of each message, and whatever else is forwarded. Roles make no difference.

    A field that the API gains later is read as well: what is not known to be a number or a word of the API is
    text. The same message gives the same texts in whichever request it stands.
    """
    for field, value in chat.forwarded().items():
        if field == "messages":
            for message in value:
                yield from texts_of_message(message)
        else:
            yield from texts_of_value(value)


def texts_of_message(message: Mapping[str, Any]) -> Iterator[str]:
    """What a message holds: its content, name, reasoning, refusal, and calls of tools."""
    for field, value in message.items():
        if field in NOT_CONTENT:
            continue
        if field == "tool_calls":
            for call in value or ():
                yield call["id"]
                yield call["function"]["name"]
                yield readable_json(call["function"]["arguments"])
        elif field == "content" and isinstance(value, list):
            parts = [part.get("text") or part.get("refusal") or "" for part in value]
            yield from parts
            if len(parts) > 1:  # what is cut in two by the parts of a message is whole to the model
                yield "".join(parts)
        else:
            yield from texts_of_value(value)


def texts_of_value(value: Any) -> Iterator[str]:
    """The text of any JSON value; none of numbers alone, truth values and null."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and value:
        yield orjson.dumps(value).decode()


def readable_json(text: str) -> str:
    """JSON text with its letters and digits as they are, not as `\\u` escapes; other text as it is."""
    if "\\u" not in text:
        return text
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
