"""What this worker remembers of the labels that conversations carried: a guess, which the store corrects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from gateway.facts import Caller
from gateway.labels import Labels, Vocabulary
from gateway.store.base import Conversation, Entered

REMEMBERED_MAX = 50_000


class RememberedTaints:
    """Labels by conversation digest, the least recently used forgotten first.

    Forgetting is harmless: the store's answer decides, and a wrong guess costs one more round trip.
    """

    def __init__(self, size_max: int = REMEMBERED_MAX) -> None:
        self._size_max = size_max
        self._labels: OrderedDict[str, frozenset[str]] = OrderedDict()

    def recall(self, conversation: Conversation) -> frozenset[str]:
        return frozenset().union(*(self._labels.get(digest, frozenset()) for digest in conversation.reads))

    def remember(self, conversation: Conversation, labels: Iterable[str]) -> None:
        names = frozenset(labels)
        for digest in conversation.writes:
            self._labels[digest] = self._labels.get(digest, frozenset()) | names
            self._labels.move_to_end(digest)
        while len(self._labels) > self._size_max:
            self._labels.popitem(last=False)


def known_taint(names: frozenset[str], vocabulary: Vocabulary, caller: Caller) -> Labels | None:
    """The labels with these names. A name that today's vocabulary lacks stands for the caller's ceiling:
    what it meant can no longer be judged."""
    if not names:
        return None
    if not names <= frozenset(vocabulary.words()):
        return caller.ceiling
    return vocabulary.from_names(names)


def corrected(
    taint: Labels | None, entered: Entered, vocabulary: Vocabulary, caller: Caller
) -> Labels | None:
    """The taint to judge again with, after the store refused a guess."""
    told = caller.ceiling if entered.unreadable else known_taint(entered.taint, vocabulary, caller)
    known = [labels for labels in (taint, told) if labels is not None]
    return vocabulary.union(*known) if known else None
