"""Which messages a request holds, as marks that no two tenants share (pure).

Clients send the whole history with every turn, or as much of it as they like. So each message of a request
leaves a mark of its own: whichever later request of the tenant holds the same text finds it again, in any
order, in any selection, in any conversation, under any session id or none. What a model answered is marked
when it is delivered. A session id (`metadata.session_id`) is marked as well, and so also follows a client
that rewrites its history.

System and developer messages are prompts that conversations share: they neither leave marks nor find any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from gateway.labels import Labels, Vocabulary
from gateway.openai import AssistantMessage, ChatRequest, Message, RefusalPart, TextPart, ToolMessage
from gateway.store.base import MARK_BYTES, Conversation

Commit = Callable[[str, bytes], str]  # (tenant, data) -> hex; `Keyring.commit`


class Marker:
    """Makes the marks of one tenant: BLAKE2b under a key of the tenant's own."""

    def __init__(self, tenant: str, commit: Commit, from_bytes: int) -> None:
        self._key = bytes.fromhex(commit(tenant, b"marks"))
        self._from_bytes = from_bytes

    def message(self, fields: Sequence[str]) -> bytes | None:
        """The mark of a message with these `fields`; None where they hold nothing, or too little to count."""
        encoded = [field.encode("utf-8", "surrogatepass") for field in fields]
        size_bytes = sum(map(len, encoded))
        if not size_bytes or size_bytes < self._from_bytes:
            return None
        # The lengths go first, so that no two lists of fields have the same bytes.
        head = f"{','.join([str(len(field)) for field in encoded])}\n".encode()
        return self._digest(b"message", head + b"".join(encoded))

    def session(self, session_id: str) -> bytes:
        return self._digest(b"session", session_id.encode("utf-8", "surrogatepass"))

    def _digest(self, kind: bytes, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=MARK_BYTES, key=self._key, person=kind).digest()


def conversation_of(chat: ChatRequest, tenant: str, commit: Commit, from_bytes: int = 0) -> Conversation:
    """The marks that this turn finds, and leaves: one pass over the messages, O(bytes).

    Messages of fewer than `from_bytes` bytes have no mark, and are no past.

    What comes after the last answer is this turn, and may be new; without an answer, a last `user` message
    may. All else was said before: a session id if there is one, else every earlier message, is what the store
    has to have on record when its epoch does not answer for all.
    """
    marker = Marker(tenant, commit, from_bytes)
    earlier: list[bytes] = []
    latest: list[bytes] = []
    answered, mark = False, None
    for message in chat.messages:
        if message.role in ("system", "developer"):
            continue
        mark = marker.message(fields_of(message))
        if mark is not None:
            latest.append(mark)
        if message.role == "assistant":
            answered = True
            earlier += latest
            latest = []
    if not answered:  # `mark` is the last message's
        new = 1 if mark is not None and chat.messages[-1].role == "user" else 0
        split = len(latest) - new
        earlier, latest = latest[:split], latest[split:]
    before = dict.fromkeys(earlier)
    marks = tuple(dict.fromkeys((*before, *latest)))
    if chat.session_id is None:
        return Conversation(marks, vouchers=len(before))
    return Conversation((marker.session(chat.session_id), *marks), vouchers=1)


def answer_mark(message: Mapping[str, Any], tenant: str, commit: Commit, from_bytes: int = 0) -> bytes | None:
    """The mark of an answer as it is delivered: `message` of a `chat.completion`."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    text = (message.get("content") or "") + (message.get("refusal") or "")
    return Marker(tenant, commit, from_bytes).message(
        fields(text, [(call["name"], call["arguments"]) for call in calls], message.get("reasoning") or "")
    )


def fields_of(message: Message) -> list[str]:
    """What of a message is marked. Its role, its name and the ids of tool calls are left out."""
    text = text_of(message.content)
    if not isinstance(message, AssistantMessage):
        name = "" if isinstance(message, ToolMessage) else message.name or ""
        return fields(text, (), name)
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    rest = message.reasoning or message.reasoning_content or message.name or ""
    return fields(text + (message.refusal or ""), calls, rest)


def fields(text: str, calls: Iterable[tuple[str, str]], rest: str) -> list[str]:
    """The text and the tool calls, as no client changes them; `rest` only where a message holds nothing else.

    Clients drop reasoning, so a message that also says something is known without it.
    """
    said = [settled(text)]
    for name, arguments in calls:
        said += (name, settled_json(arguments))
    return said if any(said) else [settled(rest)]


def settled(text: str) -> str:
    """The text without what clients change as they keep and send it again: white space at its ends, and how
    lines end. Nothing else: any other difference is another text."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip()


def settled_json(arguments: str) -> str:
    """A tool call's arguments as the value that they are: clients read them, and write them again."""
    try:
        return orjson.dumps(orjson.loads(arguments or "{}")).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return settled(arguments)


def text_of(content: str | Iterable[TextPart | RefusalPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def known_names(labels: Labels, vocabulary: Vocabulary) -> frozenset[str]:
    """The names of `labels` and of every lower word of the scale: what a store compares taint with.

    A conversation that once was `internal` holds nothing that a request judged `secret` does not know of.
    """
    return frozenset(vocabulary.scale[: vocabulary.rank(labels.sensitivity) + 1]) | labels.categories
