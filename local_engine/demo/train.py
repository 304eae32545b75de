"""Trains the demo: `python -m local_engine.demo.train`. A quarter of an hour on one thread of a CPU.

Seeded: the same seed, steps and release of torch give the same weights on the same machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from safetensors.torch import save_file

from local_engine.config import ModelConfig
from local_engine.demo.corpus import KINDS, VERSION, Corpus, example, used_tokens
from local_engine.demo.expand import DEMO_CONFIG, IDS, STORED
from local_engine.demo.network import Network, Tensors, counted, initial_parameters, pack
from local_engine.harmony.tokens import VOCABULARY_SIZE, Tokenizer

STEPS = 9000
BATCH_TOKENS = 1024
POOL = 200
"""Conversations that are put in order of length before they are cut into batches."""

PEAK_RATE = 3e-3
WARM_UP = 50
LEVEL_UNTIL = 0.4


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is trained on until a share of the steps.

    `echoes` is the share of the batches that are echoes, of at most `echoed` tokens. For the other batches
    only conversations of `kinds` are taken, and a share `short` of them is shortened.
    """

    until: float
    echoes: float
    echoed: int = 20
    short: float = 1.0
    kinds: frozenset[str] = KINDS
    longest: int = 1000


SIMPLE = frozenset({"topic", "greeting", "fallback"})
LESSONS = (
    Lesson(0.05, echoes=1.0, echoed=9),
    Lesson(0.15, echoes=0.15, kinds=SIMPLE, longest=100),
    Lesson(0.35, echoes=0.1, kinds=KINDS - {"json", "name", "more"}, longest=200),
    Lesson(0.7, echoes=0.05, short=0.85),
    Lesson(1.0, echoes=0.0, short=0.15),
)
"""From easy to hard. First to copy, which tools, names and dates need, then to look at the question, then all
the rest: given everything at once, it is slow to learn either.
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of the small vocabulary [B, T] and which of them are predicted; padded at the end."""

    rows: torch.Tensor
    learnt: torch.Tensor


@dataclass(frozen=True, slots=True)
class Trained:
    """Parameters in fp32, the ids of the vocabulary's rows, and the loss of the last steps per token."""

    parameters: Tensors
    ids: list[int]
    loss: float


def train(
    tokenizer: Tokenizer,
    *,
    steps: int = STEPS,
    seed: int = 0,
    config: ModelConfig = DEMO_CONFIG,
    batch_tokens: int = BATCH_TOKENS,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Trained:
    """Runs `steps` steps of Adam; `report` is called after each with its number and the batch's loss."""
    ids = used_tokens(tokenizer)
    parameters = initial_parameters(config, len(ids) + 1, torch.Generator().manual_seed(seed))
    network = Network(config, parameters, torch.bfloat16)
    optimizer = torch.optim.Adam(parameters.values(), lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)
    recent: list[float] = []
    corpus, lessons, lesson = Corpus(seed), iter(LESSONS), None
    for step in range(steps):
        if lesson is None or step >= lesson.until * steps:
            lesson = next(lessons)
            batches = make_batches(corpus, tokenizer, ids, batch_tokens, lesson)
        echo = corpus.chance() < lesson.echoes
        batch = echoes(corpus, len(ids), batch_tokens, lesson.echoed) if echo else next(batches)
        wanted = torch.zeros_like(batch.learnt)
        wanted[:, :-1] = batch.learnt[:, 1:]
        logits = network.forward(batch.rows, wanted)
        loss = loss_of(counted(logits, VOCABULARY_SIZE - len(ids)), batch.rows[:, 1:][wanted[:, :-1]])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.param_groups[0]["lr"] = PEAK_RATE * rate(step, steps)
        optimizer.step()
        recent = [*recent[-99:], loss.item()]
        report(step, recent[-1])
    return Trained({n: p.detach() for n, p in parameters.items()}, ids, sum(recent) / len(recent))


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of logits [n, rows].

    A target that has no row of its own only teaches that no such token is said.
    """
    shares = torch.log_softmax(logits, dim=-1)
    said = -shares.gather(1, targets[:, None])[:, 0]
    unsaid = -torch.log1p(-shares[:, -1].exp().clamp(max=1 - 1e-6))
    return torch.where(targets < logits.shape[-1] - 1, said, unsaid).mean()


def rate(step: int, steps: int) -> float:
    """The learning rate's share of its peak: up in a straight line, then level, then down along a cosine."""
    falling = max(0.0, (step / steps - LEVEL_UNTIL) / (1 - LEVEL_UNTIL))
    return min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * falling))


def echoes(corpus: Corpus, known: int, tokens: int, longest: int) -> Batch:
    """Nonsense of 3 to `longest` tokens, said twice; learnt is the second time, but for its beginning."""
    length = 3 + int(corpus.chance() * (longest - 2))
    count = tokens // (2 * length)
    once = torch.tensor([[int(corpus.chance() * known) for _ in range(length)] for _ in range(count)])
    learnt = torch.zeros(count, 2 * length, dtype=torch.bool)
    learnt[:, length + 1 :] = True
    return Batch(torch.cat([once, once], dim=1), learnt)


def make_batches(
    corpus: Corpus, tokenizer: Tokenizer, ids: list[int], tokens: int, lesson: Lesson
) -> Iterator[Batch]:
    """Batches of about `tokens` tokens, padding included, of conversations of about equal length."""
    row_of = {token: row for row, token in enumerate(ids)}
    while True:
        pool: list[tuple[list[int], list[bool]]] = []
        while len(pool) < POOL:
            conversation = corpus.conversation()
            if conversation.kind not in lesson.kinds:
                continue
            if corpus.chance() < lesson.short:
                conversation = conversation.shortened()
            found, learnt = example(conversation, tokenizer)
            if len(found) <= lesson.longest:
                pool.append(([row_of.get(token, len(ids)) for token in found], learnt))
        pool.sort(key=lambda pair: len(pair[0]))
        batches: list[list[tuple[list[int], list[bool]]]] = [[]]
        for pair in pool:
            if (len(batches[-1]) + 1) * len(pair[0]) > tokens:
                batches.append([])
            batches[-1].append(pair)
        order = corpus.shuffled(len(batches))
        for n in order:
            longest = len(batches[n][-1][0])
            yield Batch(
                torch.tensor([r + [0] * (longest - len(r)) for r, _ in batches[n]]),
                torch.tensor([y + [False] * (longest - len(y)) for _, y in batches[n]]),
            )


def stored(trained: Trained) -> Tensors:
    """The tensors to store: bf16, experts as blocks and scales, and the ids of the vocabulary's rows."""
    tensors: Tensors = {IDS: torch.tensor(trained.ids, dtype=torch.int32)}
    for name, values in trained.parameters.items():
        if name.endswith(("mlp1_weight", "mlp2_weight")):
            tensors[f"{name}.blocks"], tensors[f"{name}.scales"] = pack(values)
        else:
            tensors[name] = values.to(torch.bfloat16)
    return tensors


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=STORED, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=STEPS, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(out: Path, steps: int, seed: int) -> None:
    """Train the demo model and write its weights."""
    from local_engine.vocabulary import load_vocabulary

    torch.set_num_threads(1)
    began = time.monotonic()
    recent: list[float] = []

    def report(step: int, loss: float) -> None:
        recent.append(loss)
        if (step + 1) % 100 == 0:
            mean = sum(recent) / len(recent)
            recent.clear()
            click.echo(f"step {step + 1} of {steps}: loss {mean:.4f}, {time.monotonic() - began:.0f} s")

    trained = train(load_vocabulary(), steps=steps, seed=seed, report=report)
    metadata = {"seed": str(seed), "steps": str(steps), "loss": f"{trained.loss:.4f}", "corpus": VERSION}
    save_file(stored(trained), str(out), metadata=metadata)
    click.echo(f"wrote {out.stat().st_size} bytes to {out}")


if __name__ == "__main__":
    main()
