"""The headers of the assistant's messages as tokens, and a trie of those that may come next.

Each header is spelled as the model itself writes it: the recipient follows the channel, and its pieces are
encoded one by one, as in training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from local_engine.harmony.tokens import CHANNEL, CONSTRAIN, MESSAGE, Tokenizer

Leaf = TypeVar("Leaf")


@dataclass(slots=True)
class Node(Generic[Leaf]):
    """A place inside a header: what may follow, and what each header that ends here leads to.

    `children` are the next tokens that do not end the header, `leaf` is where `<|message|>` leads, if
    anywhere. Built once, then never changed.
    """

    children: dict[int, Node[Leaf]] = field(default_factory=dict)
    leaf: Leaf | None = None

    @property
    def tokens(self) -> list[int]:
        """The tokens that may come here."""
        return [*self.children, *([] if self.leaf is None else [MESSAGE])]


def trie(headers: Iterable[tuple[list[int], Leaf]]) -> Node[Leaf]:
    """The root of a trie over headers, each up to and without its `<|message|>`."""
    root: Node[Leaf] = Node()
    for tokens, leaf in headers:
        node = root
        for token in tokens:
            node = node.children.setdefault(token, Node())
        node.leaf = leaf
    return root


def channel_header(channel: str, tokenizer: Tokenizer) -> list[int]:
    """`<|channel|>` and the channel's name: a message to nobody in particular."""
    return [CHANNEL, *tokenizer.encode(channel)]


def json_header(header: list[int], tokenizer: Tokenizer) -> list[int]:
    """The same header announcing that its content is JSON."""
    return [*header, *tokenizer.encode(" "), CONSTRAIN, *tokenizer.encode("json")]


def call_header(name: str, tokenizer: Tokenizer) -> list[int]:
    """A call of the function `name`, its arguments being JSON."""
    header = [*channel_header("commentary", tokenizer), *tokenizer.encode(f" to=functions.{name}")]
    return json_header(header, tokenizer)
