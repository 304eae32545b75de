"""The process that `bench.memory` measures: the engine as `serve` makes it, made as large as it gets.

A prompt and an answer are computed for real. What more of that would only do slowly is then done at once: the
pools are written whole, a context's worth of tokens is looked up in the embedding, and every expert is read,
for random weights choose some of them never. Last comes one more token, at the end of a full context.

    python -m bench.resident MODEL CONTEXT_TOKENS PROMPT_TOKENS ANSWER_TOKENS

prints a JSON object a line: a stage, seconds for it, and the bytes resident then (Linux only).
"""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from local_engine.batch import Batch, Group, Run
from local_engine.buffers import Buffers, Sizes
from local_engine.checkpoint import open_checkpoint
from local_engine.engine import Engine
from local_engine.kv import BLOCK_TOKENS, BlockTables, first_seen
from local_engine.model import KV, Model, forward, load_model, new_kv
from local_engine.opening import EngineOptions, ops_for, pool_blocks
from local_engine.ops import Ops
from local_engine.runner import ModelRunner
from local_engine.sampling import SamplingParams, empty_draw
from local_engine.scheduler import Limits, Scheduler
from local_engine.serve import ServeOptions, service_of
from local_engine.steps import Failed, Finished, Step

PAGE = 4096


def stages(path: Path, context: int, prompt_tokens: int, answer_tokens: int) -> Iterator[str]:
    """Goes through them, and names each when it is done."""
    checkpoint = open_checkpoint(path)
    config, options = checkpoint.config, EngineOptions(max_running=1, max_context_tokens=context)
    limits = Limits(options.max_running, options.step_tokens)
    full, window = pool_blocks(options, config, context)
    ops = ops_for(options)
    model = load_model(checkpoint, torch.bfloat16, max_context_tokens=context)
    kv = new_kv(model, full + 1, window + 1)
    buffers = Buffers(Sizes(limits, context, config.sliding_window, config.vocab_size), model.device)
    engine = Engine(
        ModelRunner(model, kv, ops, buffers, overlaps=False),
        Scheduler(BlockTables(full, window, config.sliding_window), limits),
        max_context_tokens=context,
        max_waiting=1,
    )
    service = service_of(checkpoint, engine, ServeOptions(secret=""))
    yield "loaded"
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, config.vocab_size, (context,), generator=generator)
    service.engine.start()
    answer(service.engine, tokens[:prompt_tokens].tolist(), answer_tokens)
    service.engine.close(10)
    yield "answered"
    for layer in kv.layers:
        layer.keys.normal_(generator=generator)
        layer.values.normal_(generator=generator)
    yield "pools written"
    model.embedding.index_select(0, tokens)
    yield "a context looked up"
    for weights in model.layers:
        for experts in (weights.mlp1, weights.mlp2):
            for part in (experts.blocks, experts.scales, experts.bias):
                part.view(torch.uint8).flatten()[::PAGE].sum()
    yield "experts read"
    last_token(model, kv, ops, context)
    yield "one more token"


def answer(engine: Engine, prompt: list[int], tokens: int) -> None:
    """Computes a prompt and so many tokens. Raises what the engine failed with."""
    steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
    params = SamplingParams(max_tokens=tokens, temperature=0.0, stop_tokens=frozenset())
    engine.submit(prompt, params, steps.put)
    while not isinstance(step := steps.get(), Finished):
        if isinstance(step, Failed):
            raise step.error


def last_token(model: Model, kv: KV, ops: Ops, context: int) -> None:
    """One row at the last position of a context that fills the pools from block 1 on."""
    position, config = context - 1, model.config
    base = first_seen(position, config.sliding_window)

    def group(first: int) -> Group:
        blocks = position // BLOCK_TOKENS - first + 1
        slot = blocks * BLOCK_TOKENS + position % BLOCK_TOKENS
        return Group(torch.arange(1, blocks + 1)[None], torch.tensor([first]), torch.tensor([slot]))

    batch = Batch(
        tokens=torch.tensor([0]),
        positions=torch.tensor([position]),
        sequence=torch.tensor([0]),
        full=group(0),
        window=group(base),
        rows=torch.tensor([0]),
        runs=(Run(0, 1, position, 0),),
        window_base=(base,),
        draw=empty_draw(1, config.vocab_size, 1),
    )
    ops.sample(forward(model, batch, kv, ops), batch.draw)


def resident() -> dict[str, int]:
    """Bytes of this process, now and at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    names = {"peak_bytes": "VmHWM", "anonymous_bytes": "RssAnon", "file_bytes": "RssFile"}
    return {ours: int(found[theirs].split()[0]) << 10 for ours, theirs in names.items()}


def main() -> None:
    """Prints each stage."""
    began_s = time.perf_counter()
    for stage in stages(Path(sys.argv[1]), *(int(count) for count in sys.argv[2:5])):
        now_s = time.perf_counter()
        print(json.dumps({"stage": stage, "took_s": round(now_s - began_s, 2), **resident()}), flush=True)
        began_s = now_s


if __name__ == "__main__":
    main()
