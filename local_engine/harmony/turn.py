"""Reads a sampled turn strictly: as the messages it consists of, each with its own tokens, or not at all.

`parse.py` makes the best of whatever a model emits. Here the question is whether the turn may be shown to the
model again token by token, and a turn that strays from the format would lead it further astray.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from local_engine.harmony.conversation import Message
from local_engine.harmony.tokens import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    Tokenizer,
)

RECIPIENT = r"(?: to=(functions\.[A-Za-z0-9_.-]{1,64}))?"
BEFORE_CHANNEL = re.compile(RECIPIENT)
CHANNEL_WORDS = re.compile(rf"(analysis|commentary|final){RECIPIENT}")


def read_turn(tokens: Sequence[int], tokenizer: Tokenizer) -> tuple[Message, ...] | None:
    """The messages of a turn, `tokens` being what was sampled behind `<|start|>assistant`.

    Joined, the messages' tokens are `<|start|>assistant` and the sampled ones, none added, none left out.

    None unless the turn is complete and well-formed: known channels, every header whole, every text UTF-8, no
    stray special token, each message but the last ended by `<|end|>`. It either ends by `<|return|>` behind
    the one message to the user that is due, or by `<|call|>`, and then all that follows its first call is
    calls and reasoning, all calls go to functions on the commentary channel, and nothing is final.
    """
    opening = [START, *tokenizer.encode("assistant")]
    whole = [*opening, *tokens]
    messages: list[Message] = []
    at = 0
    while at < len(whole):
        end = next((n for n in range(at, len(whole)) if whole[n] in (END, RETURN, CALL)), None)
        if end is None or whole[at : at + len(opening)] != opening:
            return None
        message = _message(whole[at : end + 1], len(opening), tokenizer)
        at = end + 1
        if message is None or (whole[end] == END) == (at == len(whole)):
            return None
        messages.append(message)
    return tuple(messages) if _is_a_turn(messages, whole[-1]) else None


def _is_a_turn(messages: list[Message], ending: int) -> bool:
    *earlier, last = (
        message for message in messages if message.channel != "analysis" or message is messages[-1]
    )
    if ending == RETURN:
        spoken = last.channel != "analysis" and last.recipient is None
        return spoken and all(m.channel == "commentary" and m.recipient is None for m in earlier)
    calls = [message.recipient is not None for message in (*earlier, last)]
    return (
        last.recipient is not None and calls == sorted(calls) and all(m.channel != "final" for m in earlier)
    )


def _message(tokens: list[int], opening: int, tokenizer: Tokenizer) -> Message | None:
    """One message, or None; `opening` is the length of its `<|start|>assistant`."""
    if MESSAGE not in tokens:
        return None
    content = tokens.index(MESSAGE)
    before, has_channel, behind = _parted(tokens[opening:content], CHANNEL)
    words, constrained, constraint = _parted(behind, CONSTRAIN)
    texts = [_text(part, tokenizer) for part in (before, words, constraint, tokens[content + 1 : -1])]
    if not has_channel or any(text is None for text in texts):
        return None
    ahead, said, kind, text = (text or "" for text in texts)
    if kind != ("json" if constrained else ""):
        return None
    said = said.removesuffix(" ") if constrained else said
    place, named = BEFORE_CHANNEL.fullmatch(ahead), CHANNEL_WORDS.fullmatch(said)
    if place is None or named is None or (place[1] and named[2]):
        return None
    channel, recipient = named[1], place[1] or named[2]
    if recipient is not None and channel != "commentary":
        return None
    return Message(
        "assistant",
        text,
        channel=channel,
        recipient=recipient,
        constrain="json" if constrained else None,
        tokens=tuple(tokens),
    )


def _parted(tokens: list[int], marker: int) -> tuple[list[int], bool, list[int]]:
    if marker not in tokens:
        return tokens, False, []
    at = tokens.index(marker)
    return tokens[:at], True, tokens[at + 1 :]


def _text(tokens: list[int], tokenizer: Tokenizer) -> str | None:
    if any(token >= FIRST_SPECIAL for token in tokens):
        return None
    try:
        return b"".join(tokenizer.token_bytes(token) for token in tokens).decode()
    except UnicodeDecodeError:
        return None
