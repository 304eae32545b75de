"""Block pools and the prefix cache, alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from local_engine.kv import (
    BLOCK_TOKENS,
    BlockPool,
    BlockTables,
    Copy,
    GroupName,
    NoBlocks,
    Tables,
    block_key,
    tenant_salt,
)
from local_engine.model import kv_block_bytes
from local_engine.presets import GPT_OSS_20B

SALT = tenant_salt("a tenant")
WINDOW = 128


def computed(blocks: BlockTables, tokens: list[int], salt: bytes = SALT, chunk: int = 64) -> Tables:
    """Tables of a sequence whose tokens were computed chunk by chunk, from whatever prefix was cached."""
    tables, start = blocks.open(salt, tokens)
    while start < len(tokens):
        end = min(len(tokens), start + chunk)
        blocks.reserve(tables, start, end)
        blocks.advance(tables, tokens, end)
        start = end
    return tables


def test_a_pool_gives_free_blocks_first_and_then_the_least_recently_used_cached_one() -> None:
    pool = BlockPool(3)
    blocks = [pool.take() for _ in range(3)]
    for n, block in enumerate(blocks):
        pool.publish(block, bytes([n]), SALT)
    for block in (blocks[1], blocks[0], blocks[2]):
        pool.drop(block)

    assert (pool.free, pool.used, pool.cached) == (0, 0, 3)
    assert [pool.take(), pool.take()] == [blocks[1], blocks[0]]
    assert [pool.find(bytes([n])) for n in range(3)] == [None, None, blocks[2]]
    assert (pool.free, pool.used, pool.cached) == (0, 2, 1)


def test_an_empty_pool_says_so_and_stays_as_it_is() -> None:
    pool = BlockPool(1)
    pool.take()

    with pytest.raises(NoBlocks):
        pool.take()

    assert (pool.free, pool.used, pool.cached) == (0, 1, 0)


def test_a_shared_prefix_of_1000_tokens_is_computed_once() -> None:
    blocks = BlockTables(512, 512, WINDOW)
    prefix = [n % 251 for n in range(1000)]
    blocks.close(computed(blocks, [*prefix, 7, 8, 9]))

    _, hit = blocks.open(SALT, [*prefix, *range(50)])

    assert 1050 - hit < 64 + 50
    assert hit == 992


def test_another_tenants_salt_hits_nothing() -> None:
    blocks = BlockTables(64, 64, WINDOW)
    tokens = list(range(100))
    blocks.close(computed(blocks, tokens))

    assert blocks.open(tenant_salt("another tenant"), tokens)[1] == 0
    assert blocks.open(tenant_salt(None), tokens)[1] == 0
    assert blocks.open(SALT, tokens)[1] == 96


def test_no_salt_and_an_empty_salt_are_two_tenants() -> None:
    assert tenant_salt(None) != tenant_salt("")


def test_the_last_token_is_always_left_to_compute() -> None:
    blocks = BlockTables(64, 64, WINDOW)
    tokens = list(range(4 * BLOCK_TOKENS))
    blocks.close(computed(blocks, tokens))

    assert blocks.open(SALT, tokens)[1] == 3 * BLOCK_TOKENS


def test_a_hit_ends_where_the_window_before_it_is_still_cached() -> None:
    blocks = BlockTables(64, 64, WINDOW)
    tokens = list(range(40 * BLOCK_TOKENS))
    tables = computed(blocks, tokens)
    keys = list(tables.keys)
    blocks.close(tables)
    # Whoever hits at 35 blocks needs the window blocks 27 .. 34, and who hits at 33 those from 25 on.
    gone = blocks.window.find(keys[33])
    assert gone is not None
    blocks.window.forget(gone)

    assert blocks.open(SALT, [*tokens[: 35 * BLOCK_TOKENS], 1])[1] == 33 * BLOCK_TOKENS


def test_a_hit_ends_before_a_block_that_the_full_group_lost() -> None:
    blocks = BlockTables(64, 64, WINDOW)
    tokens = list(range(20 * BLOCK_TOKENS))
    tables = computed(blocks, tokens)
    keys = list(tables.keys)
    blocks.close(tables)
    gone = blocks.full.find(keys[11])
    assert gone is not None
    blocks.full.forget(gone)

    assert blocks.open(SALT, tokens)[1] == 11 * BLOCK_TOKENS


def test_blocks_that_leave_the_window_are_cached_and_not_free() -> None:
    blocks = BlockTables(64, 64, WINDOW)

    tables = computed(blocks, list(range(20 * BLOCK_TOKENS)))

    # Position 320 sees 193 .. 320: the blocks from 12 on.
    assert tables.window_start == 12
    assert (blocks.window.used, blocks.window.cached, blocks.window.free) == (8, 12, 44)
    assert blocks.full.used == 20


@pytest.mark.parametrize("window", [1, 2, 16, 17, 100, 128])
def test_a_windowed_block_is_held_exactly_as_long_as_some_position_to_come_sees_it(window: int) -> None:
    blocks = BlockTables(32, 32, window)
    tokens = list(range(300))
    tables, _ = blocks.open(SALT, tokens)
    for after in range(1, 300):
        blocks.reserve(tables, after - 1, after)
        blocks.advance(tables, tokens, after)
        # What the next position sees: its own block, if it is there already, and those of the window.
        seen = {j // BLOCK_TOKENS for j in range(max(0, after + 1 - window), after + 1)}

        assert {n for n, block in enumerate(tables.window) if block} == seen & set(range(len(tables.window)))


def test_a_long_sequence_holds_a_constant_number_of_window_blocks() -> None:
    blocks = BlockTables(1024, 32, WINDOW)

    tables = computed(blocks, [n % 97 for n in range(10_000)], chunk=128)

    assert len(tables.full) == 625
    assert blocks.window.used <= -(-(WINDOW - 1) // BLOCK_TOKENS) + 1


def test_a_fork_shares_until_somebody_writes() -> None:
    blocks = BlockTables(64, 64, WINDOW)
    tokens = list(range(40))
    first = computed(blocks, tokens)
    second = blocks.fork(first, 39)

    assert second.full == first.full
    assert blocks.full.used == 3

    (full, window) = blocks.reserve(second, 39, 40)

    assert full == Copy("full", first.full[2], second.full[2])
    assert window == Copy("window", first.window[2], second.window[2])
    assert second.full[:2] == first.full[:2]
    assert blocks.full.used == 4
    assert blocks.reserve(first, 40, 41) == []


@pytest.mark.parametrize("group", ["full", "window"])
@pytest.mark.parametrize(("start", "end", "block"), [(20, 21, 1), (3, 21, 0), (3, 21, 1)])
def test_a_block_that_is_not_ones_own_in_one_group_is_copied_in_that_one(
    group: GroupName, start: int, end: int, block: int
) -> None:
    blocks = BlockTables(8, 8, WINDOW)
    tables, _ = blocks.open(SALT, [1])
    blocks.reserve(tables, 0, 21)
    assert blocks.reserve(tables, start, end) == []
    pool, held = (blocks.full, tables.full) if group == "full" else (blocks.window, tables.window)
    pool.share(shared := held[block])

    assert blocks.reserve(tables, start, end) == [Copy(group, shared, held[block])]
    assert held[block] != shared
    assert blocks.reserve(tables, start, end) == []


def test_a_reservation_that_does_not_fit_changes_nothing() -> None:
    blocks = BlockTables(4, 2, WINDOW)
    tables, _ = blocks.open(SALT, list(range(60)))

    with pytest.raises(NoBlocks):
        blocks.reserve(tables, 0, 48)

    assert (blocks.full.free, blocks.window.free) == (4, 2)
    assert tables.full == tables.window == []


def test_disowned_blocks_are_found_by_nobody_even_those_that_left_the_window() -> None:
    blocks = BlockTables(64, 64, WINDOW)
    tokens = list(range(20 * BLOCK_TOKENS))
    tables = computed(blocks, tokens)
    blocks.disown(tables)
    blocks.close(tables)

    assert (blocks.full.free, blocks.window.free) == (64, 64)
    assert blocks.open(SALT, tokens)[1] == 0


def test_the_tokens_cached_for_a_tenant_are_counted() -> None:
    blocks = BlockTables(8, 8, WINDOW)
    blocks.close(computed(blocks, list(range(70))))
    assert blocks.full.salts == {SALT: 4}

    computed(blocks, list(range(100, 228)), tenant_salt("b"))

    assert blocks.full.salts == {tenant_salt("b"): 8}


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=16, max_size=16),
    st.integers(0, 15),
    st.integers(0, 2**32 - 1),
)
def test_a_key_depends_on_every_token_and_on_the_parent(tokens: list[int], at: int, other: int) -> None:
    changed = [*tokens[:at], other, *tokens[at + 1 :]]

    assert (block_key(SALT, tokens) == block_key(SALT, changed)) == (tokens == changed)
    assert block_key(SALT, tokens) != block_key(block_key(SALT, tokens), tokens)


class Pools(RuleBasedStateMachine):
    """Sequences come, grow, fork and go over small pools; a plain dict says who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockTables(24, 20, 40)
        self.held: list[tuple[Tables, list[int], int]] = []

    @rule(family=st.integers(0, 2), length=st.integers(2, 120), salt=st.sampled_from("ab"))
    def opens(self, family: int, length: int, salt: str) -> None:
        tokens = [family] * length
        tables, hit = self.blocks.open(tenant_salt(salt), tokens)
        assert hit < length
        assert hit % BLOCK_TOKENS == 0
        self.held.append((tables, tokens, hit))

    @precondition(lambda self: self.held)
    @rule(at=st.integers(0, 99), count=st.integers(1, 40))
    def grows(self, at: int, count: int) -> None:
        tables, tokens, done = self.held[at % len(self.held)]
        end = min(len(tokens), done + count)
        if end == done:
            return
        before = (self.blocks.full.available, self.blocks.window.available)
        try:
            self.blocks.reserve(tables, done, end)
        except NoBlocks:
            assert (self.blocks.full.available, self.blocks.window.available) == before
            return
        for pool, mine in ((self.blocks.full, tables.full), (self.blocks.window, tables.window)):
            for block in mine[done // BLOCK_TOKENS : -(-end // BLOCK_TOKENS)]:
                assert pool.is_own(block)
        self.blocks.advance(tables, tokens, end)
        self.held[at % len(self.held)] = (tables, tokens, end)

    @precondition(lambda self: self.held)
    @rule(at=st.integers(0, 99))
    def forks(self, at: int) -> None:
        tables, tokens, done = self.held[at % len(self.held)]
        first = max(0, done - 40 + 1) // BLOCK_TOKENS
        if done and tables.window_start <= first:
            self.held.append((self.blocks.fork(tables, done), tokens, done))

    @precondition(lambda self: self.held)
    @rule(at=st.integers(0, 99), disowned=st.booleans())
    def closes(self, at: int, disowned: bool) -> None:
        tables, _, _ = self.held.pop(at % len(self.held))
        if disowned:
            self.blocks.disown(tables)
        self.blocks.close(tables)

    @invariant()
    def every_block_is_free_used_or_cached(self) -> None:
        for pool, mine in (
            (self.blocks.full, [t.full for t, _, _ in self.held]),
            (self.blocks.window, [t.window[t.window_start :] for t, _, _ in self.held]),
        ):
            assert pool.free + pool.used + pool.cached == pool.total
            assert pool.used == len({block for blocks in mine for block in blocks})
            assert 0 not in {block for blocks in mine for block in blocks}


TestPools = Pools.TestCase
TestPools.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_blocks_and_scheduler_need_no_torch() -> None:
    code = "import local_engine.engine, sys; print('torch' in sys.modules, 'numpy' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]


def test_10000_tokens_of_the_20b_shape_cost_24_kib_each_and_one_window() -> None:
    blocks = BlockTables(700, 64, GPT_OSS_20B.sliding_window)
    computed(blocks, [n % 97 for n in range(10_000)], chunk=256)
    full, window = kv_block_bytes(GPT_OSS_20B, torch.bfloat16)

    held = blocks.full.used * full + blocks.window.used * window

    # Windowed layers keep the 127 positions before the next one: at most nine blocks, wherever they begin.
    assert held <= 10_000 * 24.5 * 1024 + 9 * window
    assert window == 12 * 2 * 16 * 8 * 64 * 2
