"""Which conversation a request belongs to, told from the request alone (pure).

Clients send the whole history with every turn. So a turn can leave a mark that the next one finds: the
digest of the messages up to its last `user` or `tool` message. The next request holds the same messages as
an earlier prefix, and reads the same digest. Answers in between do not matter to the mark that an answer's
own turn has left, and reasoning and tool-call ids, which clients drop, are never part of a digest.

A session id (`metadata.session_id`) names the conversation outright, and so also survives a client that
rewrites its history: one that summarises, or whose system prompt holds the time of day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from gateway.labels import Labels, Vocabulary
from gateway.openai import AssistantMessage, ChatRequest, Message, RefusalPart, TextPart
from gateway.store.base import Conversation

Commit = Callable[[str, bytes], str]  # (tenant, data) -> hex; `Keyring.commit`

NEAR_MAX = 64  # prefixes nearest to the end that are always read, of each kind
DIGEST_HEX = 32  # 128 bits: forging one needs the tenant's key, meeting one by chance 2⁶⁴ turns


def conversation_of(chat: ChatRequest, tenant: str, commit: Commit) -> Conversation:
    """The digests under which this turn finds, and leaves, the labels of its conversation.

    One pass over the messages; O(bytes). Never more than 2·`NEAR_MAX` + 13 reads for the 4,096 messages
    that a request may hold (see `bounded`), and at most two writes.
    """
    running = hashlib.blake2b(digest_size=32)
    answered: list[bytes] = []  # an assistant message comes later; a request ended at the last one before it
    trailing: list[bytes] = []  # none comes later: here a request may have ended that got no answer
    for message in chat.messages:
        if message.role == "assistant":
            answered += trailing
            trailing = []
        running.update(canonical(message))
        if message.role in ("user", "tool"):
            trailing.append(running.copy().digest())
    # A request that ends in an answer continues it: the turn that asked has left its mark at the same place.
    last = trailing.pop() if trailing else answered[-1] if answered else running.digest()

    def named(digest: bytes) -> str:
        return commit(tenant, b"prefix\x00" + digest)[:DIGEST_HEX]

    earlier = [*bounded(trailing), *bounded(answered)]
    reads = tuple(named(digest) for digest in earlier)
    writes: tuple[str, ...] = (named(last),)
    vouchers = min(len(bounded(trailing)) + 1, len(reads))
    if chat.session_id is not None:
        session = commit(tenant, b"session\x00" + chat.session_id.encode())[:DIGEST_HEX]
        return Conversation(reads=(session, *reads), writes=(session, *writes), vouchers=1)
    return Conversation(reads=reads, writes=writes, vouchers=vouchers)


def bounded(ends: Sequence[bytes]) -> list[bytes]:
    """The newest `NEAR_MAX`, then each twice as far from the end as the one before; newest first.

    The turn before this one is always among the newest, and it carries the labels of all turns before
    itself. The far ones find a conversation again that was cut back, or taken up at an earlier turn.
    """
    newest_first = list(reversed(ends))
    near, distance = newest_first[:NEAR_MAX], NEAR_MAX
    while distance < len(newest_first):
        near.append(newest_first[distance])
        distance *= 2
    return near


def canonical(message: Message) -> bytes:
    """The content of a message, byte for byte, so that no two lists of messages have the same bytes.

    Text given as a string or as parts is the same text. Names, reasoning and tool-call ids are left out.
    """
    fields = [text_of(message.content)]
    if isinstance(message, AssistantMessage):
        fields[0] += message.refusal or ""
        for call in message.tool_calls or ():
            fields += (call.function.name, call.function.arguments)
    encoded = [field.encode("utf-8", "surrogatepass") for field in fields]
    head = f"{message.role} {','.join(str(len(field)) for field in encoded)}\n".encode()
    return head + b"".join(encoded)


def text_of(content: str | Iterable[TextPart | RefusalPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def known_names(labels: Labels, vocabulary: Vocabulary) -> frozenset[str]:
    """The names of `labels` and of every lower word of the scale: what a store compares taint with.

    A conversation that once was `internal` holds nothing that a request judged `secret` does not know of.
    """
    return frozenset(vocabulary.scale[: vocabulary.rank(labels.sensitivity) + 1]) | labels.categories
