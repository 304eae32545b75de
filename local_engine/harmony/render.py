"""Renders a conversation into the tokens the model is prompted with.

Agrees token by token with the `openai_harmony` library, but for one thing: where the assistant addresses a
tool, the recipient stands behind the channel, as the model itself writes it and as OpenAI's description of
the format has it. The library puts it behind the role; models that read their own calls like that have been
reported to make their next ones in the analysis channel. The tests put the library's tokens into the model's
order and compare, so that this code knows only one.

Text goes through the tokenizer's plain encoding, so nothing a user writes can become a special token.
"""

from __future__ import annotations

from collections.abc import Sequence

from local_engine.harmony.conversation import Message
from local_engine.harmony.tokens import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, START, Tokenizer


def render_message(message: Message, tokenizer: Tokenizer) -> list[int]:
    """One message, from `<|start|>` to `<|end|>`, or `<|call|>` when the assistant addresses a tool.

    A message that carries its own tokens is those. Each header part is encoded on its own, as the model was
    trained. Raises `ValueError` for a tool message without a name.
    """
    if message.tokens is not None:
        return list(message.tokens)
    called = message.role == "assistant" and message.recipient is not None
    recipient = "" if message.recipient is None else f" to={message.recipient}"
    tokens = [START]
    if message.role == "tool":
        if message.name is None:
            raise ValueError("a tool message needs the tool's name")
        tokens += tokenizer.encode(message.name)
    else:
        tokens += tokenizer.encode(message.role)
        if message.name is not None:
            tokens += tokenizer.encode(f":{message.name}")
    if called and message.channel is not None:
        tokens += [CHANNEL, *tokenizer.encode(message.channel), *tokenizer.encode(recipient)]
    else:
        tokens += tokenizer.encode(recipient)
        if message.channel is not None:
            tokens += [CHANNEL, *tokenizer.encode(message.channel)]
    if message.constrain is not None:
        tokens += [*tokenizer.encode(" "), CONSTRAIN, *tokenizer.encode(message.constrain)]
    tokens += [MESSAGE, *tokenizer.encode(message.text), CALL if called else END]
    return tokens


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """The whole conversation and the opening of the assistant's next message, `<|start|>assistant`."""
    tokens = [token for message in messages for token in render_message(message, tokenizer)]
    return [*tokens, START, *tokenizer.encode("assistant")]
