"""Step 3's detectors: the labels that the text of a request brings, reading each text once."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.detect.budget import TooDense
from gateway.detect.rules import DetectorRules
from gateway.detect.texts import texts_of
from gateway.facts import Caller
from gateway.openai import ChatRequest

REMEMBERED_MAX: Final = 50_000
DIGEST_BYTES: Final = 16
NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Reading:
    """Who the text is of, and what it is held against."""

    rules: DetectorRules
    tenant: str
    zone: str

    def kinds(self, text: bytes) -> frozenset[str]:
        """The kinds found in a text (UTF-8); every kind for one that is too long or too dense to read."""
        if len(text) > self.rules.text_bytes_max:
            return self.rules.everything(self.tenant)
        try:
            return frozenset(found.kind for found in self.rules.find(decoded(text), self.tenant, self.zone))
        except TooDense:
            return self.rules.everything(self.tenant)


class Detectors:
    """Remembers which kinds each text held that this worker has read: by a keyed digest, never the text."""

    def __init__(self, size_max: int = REMEMBERED_MAX) -> None:
        self._size_max = size_max
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, frozenset[str]] = OrderedDict()

    async def kinds(self, chat: ChatRequest, caller: Caller, rules: DetectorRules | None) -> frozenset[str]:
        """The kinds found in whatever of this request a backend would be sent; nothing without rules.

        Only texts that were not read before are read: on the event loop while they are few bytes.
        """
        if rules is None:
            return NOTHING
        reading = Reading(rules, caller.tenant, caller.zone)
        found: set[str] = set()
        unread: dict[bytes, bytes] = {}
        for text in map(encoded, texts_of(chat)):
            digest = self._digest(text, reading)
            known = self._known.get(digest)
            if known is None:
                unread[digest] = text
            else:
                self._known.move_to_end(digest)
                found |= known
        if unread:
            size = sum(map(len, unread.values()))
            if size > rules.inline_bytes:
                # RE2 lets go of the interpreter while it searches; the checks take turns with the loop.
                read = await asyncio.to_thread(read_all, unread.values(), reading)
            else:
                read = read_all(unread.values(), reading)
            for digest, kinds in zip(unread, read, strict=True):
                self._remember(digest, kinds)
                found |= kinds
        return frozenset(found)

    def _digest(self, text: bytes, reading: Reading) -> bytes:
        """Of the text, under this revision, for this tenant; whoever reads memory learns nothing from it."""
        digest = hashlib.blake2b(
            f"{reading.rules.revision}\0{reading.tenant}\0{reading.zone}\0".encode(),
            key=self._key,
            digest_size=DIGEST_BYTES,
        )
        digest.update(text)
        return digest.digest()

    def _remember(self, digest: bytes, kinds: frozenset[str]) -> None:
        self._known[digest] = kinds
        while len(self._known) > self._size_max:
            self._known.popitem(last=False)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")


def read_all(texts: Iterable[bytes], reading: Reading) -> list[frozenset[str]]:
    return [reading.kinds(text) for text in texts]
