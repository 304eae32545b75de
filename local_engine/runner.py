"""Turns plans into tokens: fills the buffers, runs the model, samples; or launches a recorded step that does.

A step's results stay on the device until they are asked for, so that the host can plan and launch the next
step meanwhile. Where there is nothing to overlap with, on the CPU, every step is done when `launch` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from local_engine.buffers import Buffers
from local_engine.errors import DeviceLost
from local_engine.graphs import Graphs
from local_engine.kv import Copy
from local_engine.model import KV, Model, forward
from local_engine.ops import Ops
from local_engine.sampling import Drawn, Logprobs, count
from local_engine.scheduler import Plan
from local_engine.steps import Grammar, Sampled

MASK_THREADS = 2


@dataclass(frozen=True, slots=True)
class Drawing:
    """A launched step: what was drawn, where the host can read it once `arrived` returns, and how many
    logprobs each row asked for."""

    drawn: Drawn | None
    wanted: tuple[int | None, ...]
    arrived: Callable[[], object] = lambda: None

    def results(self) -> list[Sampled]:
        """Waits for the step's tokens. Raises `DeviceLost`."""
        if self.drawn is None:
            return []
        with device_errors():
            self.arrived()
            tokens = self.drawn.tokens.tolist()
            if self.drawn.chosen is None or self.drawn.top_ids is None or self.drawn.top is None:
                return [Sampled(token, None) for token in tokens]
            chosen, ids, values = (
                x.tolist() for x in (self.drawn.chosen, self.drawn.top_ids, self.drawn.top)
            )
        return [
            Sampled(token, None if n is None else Logprobs(lp, tuple(zip(i[:n], v[:n], strict=True))))
            for token, n, lp, i, v in zip(tokens, self.wanted, chosen, ids, values, strict=True)
        ]


class ModelRunner:
    """Runs a model over its buffers and pools. Implements `steps.Runner`.

    `overlaps` says whether a step may be launched before the last one's results are read: of use where the
    device works by itself. `graphs` are recorded over the same model, pools and buffers.
    """

    def __init__(
        self,
        model: Model,
        kv: KV,
        ops: Ops,
        buffers: Buffers,
        *,
        overlaps: bool,
        graphs: Graphs | None = None,
    ) -> None:
        self._model = model
        self._kv = kv
        self._ops = ops
        self._buffers = buffers
        self._graphs = graphs
        self.overlaps = overlaps
        self._fetch = fetch_now if model.device.type == "cpu" else fetch_later
        self._masking = ThreadPoolExecutor(MASK_THREADS, thread_name_prefix="grammar")

    @torch.inference_mode()
    def launch(self, plan: Plan, grammars: Sequence[Grammar | None]) -> Drawing:
        """Begins a step. Masks are filled on other threads during the forward pass. Raises `DeviceLost`."""
        recorded = None if self._graphs is None else self._graphs.step_for(plan)
        masked = grammars.count(None) < len(grammars)
        filling = [
            self._masking.submit(grammar.fill, self._buffers.mask.host[row])
            for row, grammar in enumerate(grammars)
            if grammar is not None
        ]
        try:
            with device_errors():
                batch = self._buffers.fill(plan, masked=masked, captured=recorded.rows if recorded else 0)
                self._copy(plan.copies)
                if recorded is not None:
                    recorded.launch()
                    logits = recorded.output.logits[: len(grammars)]
                else:
                    logits = forward(self._model, batch, self._kv, self._ops)
        finally:
            # Also when the step breaks: the rows of the mask are the next step's.
            wait(filling)
        if not grammars:
            return Drawing(None, ())
        with device_errors():
            if masked:
                for row, grammar in enumerate(grammars):
                    if grammar is None:
                        self._buffers.mask.host[row] = -1
                self._buffers.send_mask(len(grammars))
            if recorded is not None and batch.draw.plain:
                drawn = Drawn(recorded.output.drawn.tokens[: len(grammars)])
            else:
                drawn = self._ops.sample(logits, batch.draw)
                self._buffers.previous[: len(grammars)].copy_(drawn.tokens)
            if batch.draw.penalised:
                count(batch.draw.counts, batch.draw.slot, drawn.tokens)
            there, arrived = self._fetch(drawn)
        wanted = () if there.top is None else tuple(each.params.top_logprobs for each in plan.sampling)
        return Drawing(there, wanted, arrived)

    def _copy(self, copies: Sequence[Copy]) -> None:
        """Copy-on-write, one after the other: a block may be the source of one and the target of the next."""
        for copy in copies:
            for n in range(self._model.config.num_hidden_layers):
                if (self._model.config.window_of(n) is None) == (copy.group == "full"):
                    layer = self._kv.layer(n)
                    layer.keys[copy.target] = layer.keys[copy.source]
                    layer.values[copy.target] = layer.values[copy.source]


def fetch_now(drawn: Drawn) -> tuple[Drawn, Callable[[], object]]:
    """What was drawn on the host is there already."""
    return drawn, lambda: None


def fetch_later(drawn: Drawn) -> tuple[Drawn, Callable[[], object]]:
    """Sends what was drawn towards the host, in pinned memory, and returns what waits for its arrival.

    Asked for only later, it would queue behind the next step.
    """

    def sent(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values.to("cpu", non_blocking=True)

    tokens = drawn.tokens.to("cpu", non_blocking=True)
    there = Drawn(tokens, sent(drawn.chosen), sent(drawn.top_ids), sent(drawn.top))
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return there, arrived.synchronize


@contextmanager
def device_errors() -> Iterator[None]:
    """Tells an error that leaves the device useless from one that concerns the step."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLost("the accelerator reported an error that does not go away") from error
