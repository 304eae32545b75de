"""What this worker remembers of the labels that conversations carried: a guess, which the store corrects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from gateway.facts import Caller
from gateway.labels import Labels, Vocabulary
from gateway.store.base import Conversation, Entered

REMEMBERED_MAX = 50_000


class RememberedTaints:
    """Labels by mark, the least recently used forgotten first.

    Forgetting is harmless: the store's answer decides, and a wrong guess costs one more round trip.
    """

    def __init__(self, size_max: int = REMEMBERED_MAX) -> None:
        self._size_max = size_max
        self._labels: OrderedDict[bytes, frozenset[str]] = OrderedDict()

    def recall(self, conversation: Conversation) -> frozenset[str]:
        found = map(self._labels.get, conversation.marks)
        return frozenset().union(*{labels for labels in found if labels is not None})

    def clear(self) -> None:
        """Forgets everything."""
        self._labels.clear()

    def remember(self, marks: Iterable[bytes], labels: frozenset[str]) -> None:
        for mark in marks:
            before = self._labels.get(mark, labels)
            self._labels[mark] = labels if before <= labels else before | labels
            self._labels.move_to_end(mark)
        while len(self._labels) > self._size_max:
            self._labels.popitem(last=False)


def known_taint(names: frozenset[str], vocabulary: Vocabulary, caller: Caller) -> Labels | None:
    """The labels with these names. A name that today's vocabulary lacks stands for the caller's ceiling: what
    it meant can no longer be judged. The other names still count: one may lie above a ceiling of today."""
    if not names:
        return None
    known = names & frozenset(vocabulary.words())
    labels = vocabulary.from_names(known)
    return labels if known == names else vocabulary.union(labels, caller.ceiling)


def corrected(
    taint: Labels | None, entered: Entered, vocabulary: Vocabulary, caller: Caller
) -> Labels | None:
    """The taint to judge again with, after the store refused a guess. An unreadable past means the ceiling,
    beside whatever of it could be read."""
    told = known_taint(entered.taint, vocabulary, caller)
    unread = caller.ceiling if entered.unreadable else None
    known = [labels for labels in (taint, told, unread) if labels is not None]
    return vocabulary.union(*known) if known else None
