"""Renders a conversation into the tokens the model is prompted with.

Agrees token by token with the `openai_harmony` library. Text goes through the tokenizer's plain encoding, so
nothing a user writes can become a special token.
"""

from __future__ import annotations

from collections.abc import Sequence

from local_engine.harmony.conversation import Message
from local_engine.harmony.tokens import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, START, Tokenizer


def render_message(message: Message, tokenizer: Tokenizer) -> list[int]:
    """One message, from `<|start|>` to `<|end|>`, or `<|call|>` when the assistant addresses a tool.

    Each header part is encoded on its own, as the model was trained. Raises `ValueError` for a tool message
    without a name.
    """
    tokens = [START]
    if message.role == "tool":
        if message.name is None:
            raise ValueError("a tool message needs the tool's name")
        tokens += tokenizer.encode(message.name)
    else:
        tokens += tokenizer.encode(message.role)
        if message.name is not None:
            tokens += tokenizer.encode(f":{message.name}")
    if message.recipient is not None:
        tokens += tokenizer.encode(f" to={message.recipient}")
    if message.channel is not None:
        tokens += [CHANNEL, *tokenizer.encode(message.channel)]
    if message.constrain is not None:
        tokens += [*tokenizer.encode(" "), CONSTRAIN, *tokenizer.encode(message.constrain)]
    tokens += [MESSAGE, *tokenizer.encode(message.text)]
    tokens.append(CALL if message.role == "assistant" and message.recipient is not None else END)
    return tokens


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The whole conversation and the opening of the assistant's next message, `<|start|>assistant`."""
    tokens = [token for message in messages for token in render_message(message, tokenizer)]
    return [*tokens, START, *tokenizer.encode("assistant")]
