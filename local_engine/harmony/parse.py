"""Reads the assistant's tokens as they are sampled. Tolerant: whatever the model emits, nothing is raised.

    HEADER  -- <|message|> -->  CONTENT  -- <|end|> -->  BETWEEN  -- <|start|> -->  HEADER
    any     -- <|return|>, <|call|>, <|endoftext|> -->  DONE

What models emit beyond the format, and what is made of it:

- a header in any order, with unknown words, or without a channel: `to=X` is the recipient wherever it
  stands; no channel means `final`, or `commentary` when there is a recipient;
- a header that ends or runs on without `<|message|>`: its text is content, final unless the header says
  `analysis`, for reasoning is never shown as an answer;
- tokens that stop within a header: what may be the beginning of one of its words is not shown;
- `<|channel|>` or `<|start|>` inside content: the message ended there;
- a message of another role than the assistant, or text between messages: the turn ends.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from enum import Enum, auto

from local_engine.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    FIRST_SPECIAL,
    MESSAGE,
    START,
    STOP_TOKENS,
    Tokenizer,
)

MAX_HEADER_TOKENS = 96
"""A longer header is content whose `<|message|>` the model forgot. Real ones take about ten tokens, or eighty
with the longest name that a function may have, were each of its 64 letters a token."""

KNOWN_CHANNELS = ("analysis", "commentary", "final")
OTHER_ROLES = ("system", "developer", "user", "tool", "functions.", "browser.", "python")
HEADER_WORDS = (*KNOWN_CHANNELS, *OTHER_ROLES, "assistant", "json", "code", "to=")


@dataclass(frozen=True, slots=True)
class Header:
    """What a message's header says. `channel` is one of `KNOWN_CHANNELS`."""

    channel: str
    recipient: str | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class MessageStart:
    """Message `index` of the turn begins."""

    index: int
    header: Header


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the message that began last. Never half a character."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """The message is over; `called` when it ended with `<|call|>`."""

    index: int
    called: bool


Event = MessageStart | TextDelta | MessageEnd


class State(Enum):
    """Where in a turn the parser is."""

    HEADER = auto()
    CONTENT = auto()
    BETWEEN = auto()
    DONE = auto()


@dataclass(slots=True)
class _Part:
    """A stretch of header text and the special token before it, if any."""

    marker: int | None
    data: bytearray

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", errors="replace")


class HarmonyParser:
    """Turns the tokens after `<|start|>assistant` into events, one token at a time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._state = State.HEADER
        self._parts = [_Part(None, bytearray())]
        self._header_tokens = 0
        self._role_known = True
        self._index = -1
        self._header: Header | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def done(self) -> bool:
        """True once the turn is over; further tokens are ignored."""
        return self._state is State.DONE

    @property
    def header(self) -> Header | None:
        """The header of the message whose content is being read, else None."""
        return self._header if self._state is State.CONTENT else None

    def push(self, token: int) -> list[Event]:
        """Takes one sampled token; returns what it completes."""
        match self._state:
            case State.HEADER:
                return self._in_header(token)
            case State.CONTENT:
                return self._in_content(token)
            case State.BETWEEN:
                return self._between(token)
            case State.DONE:
                return []

    def finish(self) -> list[Event]:
        """The tokens have ended, perhaps in the middle. An incomplete last character is left out."""
        events: list[Event] = []
        if self._state is State.HEADER:
            text = self._header_text()
            unfinished = any(word.startswith(text.strip()) for word in HEADER_WORDS)
            if not (unfinished or text.strip().startswith("to=") or self._is_other_role()):
                events = self._open_without_message(text)
        if self._state is State.CONTENT:
            events.append(MessageEnd(self._index, called=False))
        self._state = State.DONE
        return events

    def _in_header(self, token: int) -> list[Event]:
        ends = token in STOP_TOKENS or token in (END, START)
        self._header_tokens += 1
        if ends or token == MESSAGE or self._header_tokens > MAX_HEADER_TOKENS:
            if self._is_other_role():
                self._state = State.DONE
                return []
            if token == MESSAGE:
                self._decoder.reset()
                return self._open(self._read_header())
        if ends:
            events = self._open_without_message(text) if (text := self._header_text()) else []
            if events:
                events.append(MessageEnd(self._index, called=token == CALL))
            return events + self._after(token)
        if token in (CHANNEL, CONSTRAIN):
            self._parts.append(_Part(token, bytearray()))
        elif token < FIRST_SPECIAL:
            self._parts[-1].data += self._tokenizer.token_bytes(token)
        if self._header_tokens <= MAX_HEADER_TOKENS:
            return []
        return self._open_without_message(self._header_text(final=False))

    def _in_content(self, token: int) -> list[Event]:
        if token < FIRST_SPECIAL:
            return self._text(self._decoder.decode(self._tokenizer.token_bytes(token)))
        if token in STOP_TOKENS or token in (END, START, CHANNEL):
            events = self._text(self._decoder.decode(b"", final=True))
            return [*events, MessageEnd(self._index, called=token == CALL), *self._after(token)]
        return []

    def _between(self, token: int) -> list[Event]:
        if token in (START, CHANNEL):
            return self._after(token)
        if token == MESSAGE:
            self._decoder.reset()
            return self._open(Header("final"))
        self._state = State.DONE
        return []

    def _after(self, token: int) -> list[Event]:
        """Moves on behind a message, or behind a header that never became one."""
        if token == END:
            self._state = State.BETWEEN
        elif token in (START, CHANNEL):
            self._state = State.HEADER
            self._header_tokens = 0
            self._role_known = token == CHANNEL
            self._parts = [_Part(CHANNEL if token == CHANNEL else None, bytearray())]
        else:
            self._state = State.DONE
        return []

    def _open(self, header: Header) -> list[Event]:
        self._state = State.CONTENT
        self._index += 1
        self._header = header
        return [MessageStart(self._index, header)]

    def _open_without_message(self, text: str) -> list[Event]:
        """Makes the text of a header that lacks its `<|message|>` content."""
        channel = "analysis" if self._read_header().channel == "analysis" else "final"
        return [*self._open(Header(channel)), *self._text(text)]

    def _text(self, text: str) -> list[Event]:
        return [TextDelta(self._index, text)] if text else []

    def _is_other_role(self) -> bool:
        """Whether the message behind a `<|start|>` is not the assistant's."""
        return not self._role_known and self._parts[0].text.lstrip().startswith(OTHER_ROLES)

    def _read_header(self) -> Header:
        channel = recipient = content_type = None
        for part in self._parts:
            text = part.text
            if recipient is None and (found := re.search(r"to=([^\s<]+)", text)):
                recipient = found[1]
            if part.marker == CONSTRAIN:
                content_type = next(iter(text.split()), None)
            elif part.marker == CHANNEL and channel is None:
                word = re.match(rf"\W*({'|'.join(KNOWN_CHANNELS)})", text)
                channel = word[1] if word else None
        if content_type is None and (words := self._parts[-1].text.split()) and words[-1] in ("json", "code"):
            content_type = words[-1]
        return Header(channel or ("final" if recipient is None else "commentary"), recipient, content_type)

    def _header_text(self, *, final: bool = True) -> str:
        """The header's text without its role, channel and recipient.

        With `final` false, a character cut at the end waits in the decoder for its missing bytes.
        """
        self._decoder.reset()
        data = bytearray()
        for n, part in enumerate(self._parts):
            piece = bytes(part.data)
            if n == 0 and not self._role_known:
                piece = re.sub(rb"^\s*assistant\b", b"", piece)
            if part.marker == CHANNEL:
                piece = re.sub(rb"^\s*(analysis|commentary|final)\b", b"", piece)
            if part.marker == CONSTRAIN:
                piece = re.sub(rb"^\s*(json|code)\b", b"", piece)
            data += re.sub(rb"\s?\bto=(functions|browser|python)\S*", b"", piece)
        text = self._decoder.decode(bytes(data))
        if final:
            self._decoder.reset()
        return text if text.strip() else ""
