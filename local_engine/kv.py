"""Which block of key/value memory belongs to whom: block pools, prefix cache, copy-on-write. No tensors here.

A block holds `BLOCK_TOKENS` consecutive positions of one sequence, in all layers of one group. There are two
groups: *full* (layers that see everything) and *window* (layers that see the last `window` positions). A
block is always exactly one of

    free    nobody's, contents meaningless
    used    held by one sequence or, after a prefix hit or a fork, by several
    cached  held by nobody, contents known by key; the least recently used one is given away first

and free + used + cached = total. A complete block has the key `blake2b(parent's key, its tokens)`; the first
block's parent is the tenant's salt, so that no tenant ever hits another's blocks. Block 0 of each group is
scratch: rows that only pad a batch write there.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

BLOCK_TOKENS = 16
"""Positions in a block: a prefix hit ends on a multiple of it."""

GroupName = Literal["full", "window"]


class NoBlocks(Exception):
    """A pool has too few free and cached blocks. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Contents of block `source` must be copied to block `target` before the step writes anything."""

    group: GroupName
    source: int
    target: int


@dataclass(slots=True, eq=False)
class Tables:
    """The blocks of one sequence, by logical block (position // `BLOCK_TOKENS`).

    In `window`, entries below `window_start` have left the window and are 0. `version` rises whenever an
    entry that was there is replaced, so that whoever mirrors the lists knows when appending is not enough.
    """

    salt: bytes
    full: list[int] = field(default_factory=list)
    window: list[int] = field(default_factory=list)
    window_start: int = 0
    keys: list[bytes] = field(default_factory=list)
    published: int = 0
    version: int = 0


class BlockPool:
    """The blocks 1 .. `blocks` of one group."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self._free = list(range(blocks, 0, -1))
        self._holders = [0] * (blocks + 1)
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._key_of: dict[int, tuple[bytes, bytes]] = {}
        self._block_of: dict[bytes, int] = {}
        self.salts: Counter[bytes] = Counter()

    @property
    def free(self) -> int:
        """Blocks that nobody holds and nothing is known of."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks that nobody holds but a prefix may hit."""
        return len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that at least one sequence holds."""
        return self.total - self.free - self.cached

    @property
    def available(self) -> int:
        """How many blocks `take` can give."""
        return self.free + self.cached

    def take(self) -> int:
        """A block for one holder, to be written. Raises `NoBlocks`."""
        if self._free:
            block = self._free.pop()
        elif self._cached:
            block, _ = self._cached.popitem(last=False)
            self._unname(block)
        else:
            raise NoBlocks
        self._holders[block] = 1
        return block

    def find(self, key: bytes) -> int | None:
        """The block with this key, if it still exists. Changes nothing."""
        return self._block_of.get(key)

    def share(self, block: int) -> None:
        """One more holder of a used or cached block."""
        self._cached.pop(block, None)
        self._holders[block] += 1

    def drop(self, block: int) -> None:
        """One holder fewer; the last one leaves the block cached if it has a key, else free."""
        assert self._holders[block] > 0, f"block {block} has no holder"
        self._holders[block] -= 1
        if self._holders[block]:
            return
        if block in self._key_of:
            self._cached[block] = None
        else:
            self._free.append(block)

    def publish(self, block: int, key: bytes, salt: bytes) -> None:
        """Makes a complete block findable. A key that another block has already stays with that one."""
        if key in self._block_of or block in self._key_of:
            return
        self._block_of[key] = block
        self._key_of[block] = (key, salt)
        self.salts[salt] += 1

    def forget(self, block: int) -> None:
        """Takes a block's key away, for instance because its contents turned out to be unusable."""
        self._unname(block)
        if block in self._cached:
            del self._cached[block]
            self._free.append(block)

    def is_own(self, block: int) -> bool:
        """True when exactly one sequence holds the block and no later one can find it: it may be written."""
        return self._holders[block] == 1 and block not in self._key_of

    def _unname(self, block: int) -> None:
        if (named := self._key_of.pop(block, None)) is not None:
            key, salt = named
            del self._block_of[key]
            self.salts[salt] -= 1
            if not self.salts[salt]:
                del self.salts[salt]


class BlockTables:
    """Both pools, and what sequences do with them.

    `window` is how many positions a windowed layer sees, the own one included.
    """

    def __init__(self, full_blocks: int, window_blocks: int, window: int) -> None:
        self.full = BlockPool(full_blocks)
        self.window = BlockPool(window_blocks)
        self._window_tokens = window

    def open(self, salt: bytes, tokens: Sequence[int]) -> tuple[Tables, int]:
        """Tables that hold the longest usable cached prefix of `tokens`, and its length in tokens.

        Usable is a boundary between blocks at which the whole chain is there in the full group *and*, in the
        window group, the blocks of the window - 1 positions before it. At least the last token is left to
        compute, because somebody wants its logits.
        """
        tables = Tables(salt)
        blocks = self._hit(tables, tokens, (len(tokens) - 1) // BLOCK_TOKENS)
        first = first_seen(blocks * BLOCK_TOKENS, self._window_tokens)
        for n, key in enumerate(tables.keys[:blocks]):
            tables.full.append(self._shared(self.full, key))
            tables.window.append(self._shared(self.window, key) if n >= first else 0)
        tables.published, tables.window_start = blocks, min(first, blocks)
        return tables, blocks * BLOCK_TOKENS

    def reserve(self, tables: Tables, start: int, end: int) -> list[Copy]:
        """Makes the positions start .. end - 1 writable: new blocks, and own copies of shared ones.

        Positions before `start` are there already. Raises `NoBlocks`, with nothing changed.
        """
        first, last = start // BLOCK_TOKENS, (end - 1) // BLOCK_TOKENS
        if self._may_write(tables, first, last):
            return []
        lists = (("full", self.full, tables.full), ("window", self.window, tables.window))
        for _, pool, blocks in lists:
            fresh = last + 1 - len(blocks)
            copied = sum(not pool.is_own(block) for block in blocks[first : last + 1])
            if fresh + copied > pool.available:
                raise NoBlocks
        copies: list[Copy] = []
        for name, pool, blocks in lists:
            for n in range(first, len(blocks)):
                if not pool.is_own(old := blocks[n]):
                    blocks[n] = pool.take()
                    pool.drop(old)
                    copies.append(Copy("full" if name == "full" else "window", old, blocks[n]))
                    tables.version += 1
            blocks += [pool.take() for _ in range(last + 1 - len(blocks))]
        return copies

    def advance(self, tables: Tables, tokens: Sequence[int], computed: int) -> None:
        """Positions 0 .. computed - 1 now hold `tokens`: publishes complete blocks, lets go of those that no
        position from `computed` on can see in the window group."""
        complete = computed // BLOCK_TOKENS
        if complete > tables.published:
            self._publish(tables, tokens, complete)
        first = first_seen(computed, self._window_tokens)
        if first > tables.window_start:
            self._leave_behind(tables, first)

    def fork(self, tables: Tables, tokens: int) -> Tables:
        """Other tables that share the blocks of the first `tokens` positions; a write copies first.

        What a windowed layer sees from there on must not have been let go of yet.
        """
        held = -(-tokens // BLOCK_TOKENS)
        whole = tokens // BLOCK_TOKENS
        twin = Tables(tables.salt, tables.full[:held], tables.window[:held], min(tables.window_start, held))
        twin.keys = tables.keys[:whole]
        twin.published = min(tables.published, whole)
        for block in twin.full:
            self.full.share(block)
        for block in twin.window[twin.window_start :]:
            self.window.share(block)
        return twin

    def close(self, tables: Tables) -> None:
        """Lets go of everything, last blocks first, so that the beginnings of prompts are kept longest."""
        for block in reversed(tables.full):
            self.full.drop(block)
        for block in reversed(tables.window[tables.window_start :]):
            self.window.drop(block)
        tables.full, tables.window, tables.window_start = [], [], 0
        tables.keys, tables.published = [], 0
        tables.version += 1

    def disown(self, tables: Tables) -> None:
        """Takes the keys of the sequence's blocks away, of those it let go of too: nobody may trust them."""
        for key in tables.keys:
            for pool in (self.full, self.window):
                if (block := pool.find(key)) is not None:
                    pool.forget(block)

    def _may_write(self, tables: Tables, first: int, last: int) -> bool:
        """Whether a position within one block needs nothing: most of those that decode."""
        return (
            first == last < len(tables.full)
            and self.full.is_own(tables.full[last])
            and self.window.is_own(tables.window[last])
        )

    def _publish(self, tables: Tables, tokens: Sequence[int], complete: int) -> None:
        self._extend_keys(tables, tokens, complete)
        for n in range(tables.published, complete):
            self.full.publish(tables.full[n], tables.keys[n], tables.salt)
            if n >= tables.window_start:
                self.window.publish(tables.window[n], tables.keys[n], tables.salt)
        tables.published = complete

    def _leave_behind(self, tables: Tables, first: int) -> None:
        """Lets go of the blocks before `first` in the window group."""
        for n in range(tables.window_start, first):
            self.window.drop(tables.window[n])
            tables.window[n] = 0
        tables.window_start = first

    def _hit(self, tables: Tables, tokens: Sequence[int], most: int) -> int:
        """Blocks in the longest usable prefix of at most `most` blocks; leaves their keys in `tables`."""
        best = run = 0
        for n in range(most):
            self._extend_keys(tables, tokens, n + 1)
            if self.full.find(tables.keys[n]) is None:
                break
            run = run + 1 if self.window.find(tables.keys[n]) is not None else 0
            boundary = n + 1
            if run >= boundary - first_seen(boundary * BLOCK_TOKENS, self._window_tokens):
                best = boundary
        del tables.keys[best:]
        return best

    def _extend_keys(self, tables: Tables, tokens: Sequence[int], blocks: int) -> None:
        for n in range(len(tables.keys), blocks):
            parent = tables.keys[-1] if tables.keys else tables.salt
            part = tokens[n * BLOCK_TOKENS : (n + 1) * BLOCK_TOKENS]
            tables.keys.append(block_key(parent, part))

    @staticmethod
    def _shared(pool: BlockPool, key: bytes) -> int:
        block = pool.find(key)
        assert block is not None, "a block vanished between being found and being shared"
        pool.share(block)
        return block


def first_seen(position: int, window: int) -> int:
    """The first logical block that a layer seeing `window` positions can see from `position` on."""
    return max(0, position - window + 1) // BLOCK_TOKENS


def block_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a complete block behind `parent`: 16 bytes of blake2b, collision-free for all practice."""
    data = struct.pack(f"<{len(tokens)}I", *tokens)
    return hashlib.blake2b(data, key=parent, digest_size=16).digest()


def tenant_salt(cache_salt: str | None) -> bytes:
    """The root of a tenant's chains: 16 bytes. None is a tenant of its own."""
    person = b"douane-kv" if cache_salt is not None else b"douane-kv-none"
    return hashlib.blake2b((cache_salt or "").encode(), digest_size=16, person=person).digest()
