"""Recorded steps say what launched ones say, on a device that is played by the host.

A recording is played by running the same function again over the same memory, which is all that a graph can
do: results land where they landed when it was recorded, and whatever it reads must be there beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from local_engine import opening
from local_engine.buffers import Buffers, Sizes
from local_engine.checkpoint import Checkpoint, open_checkpoint
from local_engine.engine import Engine
from local_engine.errors import SetupError
from local_engine.generation import Generation
from local_engine.graphs import Graphs, Output, compile_prompts, sizes_up_to
from local_engine.kv import BlockTables
from local_engine.model import KV, Model, load_model, new_kv
from local_engine.opening import EngineOptions, ops_for
from local_engine.ops import Ops, cpu, ref
from local_engine.runner import ModelRunner
from local_engine.sampling import Drawn, SamplingParams
from local_engine.scheduler import Limits, Scheduler
from local_engine.staging import Staging
from tests.local_engine.batches import tensors_of
from tests.local_engine.fakes import storage
from tests.local_engine.recorded import Request, run, submit
from tests.local_engine.test_runner import EVERYTHING, Digits, prompt_of

RUNNING = 20
LONGEST = 256


class Reads(TorchDispatchMode):
    """Which memory from before it is looked at: storage and where in it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: set[int] = set()
        self.seen: list[tuple[int, int]] = []
        self._alive: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        self.seen += [(storage(one), one.data_ptr()) for one in given if storage(one) not in self.made]
        known = {storage(one) for one in given}
        for one in tree_leaves(result):
            if isinstance(one, torch.Tensor) and storage(one) not in known:
                self.made.add(storage(one))
                self._alive.append(one)
        return result


@dataclass
class Rerun:
    """Plays a device that records. Keeps what each recording read and how often each was launched."""

    read: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    launched: dict[int, int] = field(default_factory=dict)

    def record(self, step: Callable[[], Output]) -> tuple[Output, Callable[[], None]]:
        """See `Capture`."""
        with Reads() as reads:
            output = step()
        rows = len(output.logits)
        self.read[rows], self.launched[rows] = reads.seen, 0

        def launch() -> None:
            with Reads() as reads:
                again = step()
            assert reads.seen == self.read[rows], "a replayed step would read other memory"
            output.logits.copy_(again.logits)
            output.drawn.tokens.copy_(again.drawn.tokens)
            self.launched[rows] += 1

        return output, launch


@pytest.fixture(scope="module")
def checkpoint(tiny: dict[str, Path]) -> Checkpoint:
    """The `tiny` preset."""
    return open_checkpoint(tiny["hf"])


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Model:
    """Its weights in fp32."""
    return load_model(checkpoint, torch.float32, max_context_tokens=LONGEST)


def fetch_copies(drawn: Drawn) -> tuple[Drawn, Callable[[], object]]:
    """Brings results to the host, as from a device: the next step may write over them."""
    copies = (None if part is None else part.clone() for part in (drawn.chosen, drawn.top_ids, drawn.top))
    return Drawn(drawn.tokens.clone(), *copies), lambda: None


@dataclass
class Opened:
    """An engine and what it runs over."""

    engine: Engine
    kv: KV
    buffers: Buffers
    capture: Rerun


def opened(
    model: Model,
    *,
    graphs: bool,
    sizes: tuple[int, ...] = sizes_up_to(RUNNING),
    max_running: int = RUNNING,
    blocks: int = 400,
    overlap: bool = True,
    ops: Ops = ref.OPS,
) -> Opened:
    """An engine whose steps overlap, as on a device, with recorded steps or without."""
    limits = Limits(max_running, 64)
    config = model.config
    kv = new_kv(model, blocks + 1, blocks + 1)
    buffers = Buffers(Sizes(limits, LONGEST, config.sliding_window, config.vocab_size), torch.device("cpu"))
    capture = Rerun()
    recorded = Graphs(model, kv, ops, buffers, capture, sizes) if graphs else None
    runner = ModelRunner(model, kv, ops, buffers, overlaps=overlap, graphs=recorded)
    runner._fetch = fetch_copies
    scheduler = Scheduler(BlockTables(blocks, blocks, config.sliding_window), limits)
    engine = Engine(runner, scheduler, max_context_tokens=LONGEST, max_waiting=64)
    return Opened(engine, kv, buffers, capture)


def plain(tokens: int, seed: int) -> SamplingParams:
    """By temperature alone, and greedy every third time."""
    temperature = 0.0 if seed % 3 == 0 else 1.0
    return SamplingParams(tokens, temperature=temperature, seed=seed, stop_tokens=frozenset())


def asked(rows: int, tokens: int = 8) -> list[Request]:
    """Requests of several lengths, which end at different times."""
    return [Request(prompt_of(1 + 7 * n % 60, n), plain(tokens + n % 4, n)) for n in range(rows)]


def answers(requests: list[Request]) -> list[dict[int, list[int]]]:
    """What each said."""
    return [request.tokens for request in requests]


@pytest.mark.parametrize("rows", [*range(1, 18)])
def test_recorded_steps_say_what_launched_ones_say(model: Model, rows: int) -> None:
    with_graphs, without = opened(model, graphs=True), opened(model, graphs=False)
    recorded, launched = asked(rows), asked(rows)
    run(with_graphs.engine, recorded)
    run(without.engine, launched)

    assert answers(recorded) == answers(launched)
    assert sum(with_graphs.capture.launched.values()) >= 6


class Apart(Staging):
    """Plays a device with memory of its own, which only `send` reaches."""

    def _beyond(self, host: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(host)


@pytest.mark.parametrize("graphs", [False, True])
def test_all_that_a_step_reads_has_been_sent(
    model: Model, monkeypatch: pytest.MonkeyPatch, graphs: bool
) -> None:
    together = opened(model, graphs=graphs)
    monkeypatch.setattr("local_engine.buffers.Staging", Apart)
    apart = opened(model, graphs=graphs)
    expected, given = ([*asked(6), Request(prompt_of(9, 9), EVERYTHING[1])] for _ in range(2))
    run(together.engine, expected)
    run(apart.engine, given)

    assert answers(given) == answers(expected)
    assert apart.buffers.decoding(1).positions.item() > 0


def test_what_was_not_written_again_is_sent_again() -> None:
    staging = Apart(torch.device("cpu"))
    kept, changed = staging.part(3), staging.part(2, 2, dtype=torch.float32)
    staging.allocate()
    kept.put([5, 6, 7], 3)
    for step in range(3):
        there = changed.put(np.array([[step, 1], [2, 3]]), 2)
        staging.send()

        assert there.tolist() == [[step, 1], [2, 3]]
        assert kept.device.tolist() == [5, 6, 7]
    changed.put(np.array([[9, 9]]), 1)
    assert changed.device.tolist() == [[2, 1], [2, 3]]


def test_each_plan_takes_the_smallest_recorded_step_that_holds_it(model: Model) -> None:
    for rows, size in ((1, 1), (2, 4), (3, 4), (4, 4), (5, 12), (12, 12)):
        it = opened(model, graphs=True, sizes=(1, 4, 12))
        requests = [Request(prompt_of(4, n), plain(6, n)) for n in range(rows)]
        run(it.engine, requests)

        assert {at for at, times in it.capture.launched.items() if times} == {size}
        assert it.capture.launched[size] >= 4


def test_more_rows_than_any_recorded_step_has_are_launched_one_by_one(model: Model) -> None:
    it, without = opened(model, graphs=True, sizes=(1, 2)), opened(model, graphs=False)
    recorded = [Request(prompt_of(4, n), plain(6, n)) for n in range(3)]
    launched = [Request(prompt_of(4, n), plain(6, n)) for n in range(3)]
    run(it.engine, recorded)
    run(without.engine, launched)

    assert it.capture.launched == {1: 0, 2: 0}
    assert answers(recorded) == answers(launched)


@pytest.mark.parametrize("overlap", [False, True])
def test_rows_that_ask_for_more_are_drawn_from_the_recorded_logits(model: Model, overlap: bool) -> None:
    def everything() -> list[Request]:
        requests = [Request(prompt_of(9, n), one) for n, one in enumerate(EVERYTHING)]
        held = Request(prompt_of(5, 50), plain(10, 50), n=2, grammar=Digits)
        return [*requests, held, *asked(3, 20)]

    it, without = opened(model, graphs=True, overlap=overlap), opened(model, graphs=False, overlap=overlap)
    recorded, launched = everything(), everything()
    run(it.engine, recorded)
    run(without.engine, launched)

    assert answers(recorded) == answers(launched)
    assert sum(it.capture.launched.values()) > 20
    for answer in recorded[len(EVERYTHING)].tokens.values():
        assert [token % 100 for token in answer] == list(range(10))
    given = recorded[5].steps[0].logprobs  # type: ignore[union-attr]
    expected = launched[5].steps[0].logprobs  # type: ignore[union-attr]
    assert given is not None
    assert expected is not None
    assert [token for token, _ in given.top] == [token for token, _ in expected.top]


def test_sequences_that_come_and_go_leave_the_others_as_they_are(model: Model) -> None:
    def mixed(it: Opened) -> list[Request]:
        stay = [Request(prompt_of(40 + n, n), plain(60, n)) for n in range(3)]
        for request in stay:
            submit(it.engine, request)
        gone: list[Generation] = []
        for step in range(70):
            it.engine._take_in()
            it.engine.step()
            if step % 7 == 3:
                gone.append(submit(it.engine, Request(prompt_of(30 + step, 100 + step), plain(100, step))))
            if step % 7 == 0 and gone:
                gone.pop(0).cancel()
        it.engine.close()
        return stay

    recorded, launched = (mixed(opened(model, graphs=graphs)) for graphs in (True, False))

    assert answers(recorded) == answers(launched)
    assert all(len(request.tokens[0]) >= 50 for request in recorded)


def test_preempted_sequences_and_shared_prompts_go_on_as_before(model: Model) -> None:
    def crowded(graphs: bool) -> tuple[list[Request], Opened]:
        it = opened(model, graphs=graphs, blocks=18, max_running=8, sizes=(1, 2, 3, 4, 8))
        requests = [Request(prompt_of(33, n), plain(40, n), n=2) for n in range(3)]
        run(it.engine, requests)
        return requests, it

    recorded, it = crowded(graphs=True)
    launched, _ = crowded(graphs=False)

    assert it.engine.load().preemptions_total > 0
    assert answers(recorded) == answers(launched)


def test_a_recorded_step_reads_weights_pools_and_the_buffers_and_nothing_else(model: Model) -> None:
    it = opened(model, graphs=True)
    run(it.engine, asked(5))
    theirs = {storage(tensor) for tensor in tensors_of((model, it.kv))}
    ours = {storage(value) for value in vars(it.buffers).values() if isinstance(value, torch.Tensor)}
    held = [getattr(value, "device", None) for value in vars(it.buffers).values()]
    ours |= {storage(value) for value in held if isinstance(value, torch.Tensor)}

    read = {place for seen in it.capture.read.values() for place, _ in seen}

    assert read <= theirs | ours
    assert {storage(it.buffers.previous), storage(it.buffers.decoding(1).full.tables)} <= read


def test_rows_that_fill_up_write_to_the_scratch_block_only(model: Model) -> None:
    it = opened(model, graphs=True, sizes=(16,))
    requests = [Request(prompt_of(20, 1), plain(12, 1))]
    run(it.engine, requests)
    used = set(range(1, 4))

    for layer in it.kv.layers:
        for pool in (layer.keys, layer.values):
            written = {block for block in range(pool.shape[0]) if pool[block].any()}
            assert written <= used | {0}
            assert not pool[0, 1:].any()


def test_sizes_are_exact_up_to_8_and_never_filled_up_by_a_quarter() -> None:
    for most in (1, 2, 7, 8, 9, 16, 17, 64, 200):
        sizes = sizes_up_to(most)

        assert sizes[:8] == tuple(range(1, min(most, 8) + 1))
        assert sizes[-1] == most
        assert all(before < after <= 1.25 * (before + 1) for before, after in pairwise(sizes))
    assert sizes_up_to(64) == (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)


def test_kernels_for_prompts_are_compiled_before_the_first_request(model: Model) -> None:
    it = opened(model, graphs=False)
    rows: list[int] = []

    def qkv(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        rows.append(len(x))
        return ref.OPS.qkv(x, *rest)

    compile_prompts(model, it.kv, replace(ref.OPS, qkv=qkv), it.buffers, 64)

    assert sorted(set(rows)) == [1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64]
    assert not any(pool[1:].any() for layer in it.kv.layers for pool in (layer.keys, layer.values))


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    """Says that there is one."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")


def test_a_gpu_takes_the_kernels_or_plain_torch_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    from local_engine.ops import triton

    on_a_gpu(monkeypatch, (9, 0))

    assert ops_for(EngineOptions(device="cuda")) is triton.OPS
    assert ops_for(EngineOptions(device="cuda:1")) is triton.OPS
    assert ops_for(EngineOptions(device="cuda", kernels="eager")) is cpu.OPS
    assert ops_for(EngineOptions(device="cpu")) is cpu.OPS


def test_a_gpu_that_is_too_old_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch, (8, 9))

    with pytest.raises(SetupError, match=r"9\.0 or later, Some GPU has 8\.9: say `--kernels eager`"):
        ops_for(EngineOptions(device="cuda"))


def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch, (9, 0))

    def absent(*given: Any) -> Any:
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.setattr(opening, "import_module", absent)

    with pytest.raises(SetupError, match=r"install `triton>=3\.6`, or say `--kernels eager`"):
        ops_for(EngineOptions(device="cuda"))
