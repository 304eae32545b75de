"""The memory that every step reads, allocated once, and how a plan fills it.

INVARIANT: no address changes between steps that decode, so such a step can be captured and replayed: each is
a view of the first T rows, R sampled rows and n table columns of the same buffers. Steps of more rows than
sequences may run have rows of their own. Rows of the block tables and of the penalty counts belong to a
sequence's slot, and how a sequence samples to its place among those that do, so that what did not change is
not written again. What does change in every step lies side by side, and one copy sends it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from local_engine.arena import Arena, Array, Mirror, Part
from local_engine.batch import Batch, Group, Run
from local_engine.kv import BLOCK_TOKENS, Tables
from local_engine.sampling import MAX_LOGIT_BIAS, PROMPTED, UNIFORMS, Draw, uniforms
from local_engine.scheduler import Limits, Plan, Sequence

MASK_BITS = 32
PER_ROW = ("tokens", "source", "positions", "sequence", "full_slots", "window_slots")
PER_SAMPLED = {
    "rows": torch.int64,
    "slot": torch.int64,
    "top_k": torch.int32,
    "uniform": torch.float32,
    "temperature": torch.float32,
    "top_p": torch.float32,
    "min_p": torch.float32,
    "presence": torch.float32,
    "frequency": torch.float32,
    "repetition": torch.float32,
}

Written = tuple[Tables, int, int, int]
"""What a slot's rows of the block tables hold: whose, in which version, how many blocks, and from which one
on in the window."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the buffers must hold: a step's limits, the longest context, the model's window and vocabulary."""

    limits: Limits
    max_context_tokens: int
    window: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Rows:
    """What is there once for each row of a step. `source` says where among the arena's numbers the row's
    token is: in `tokens`, which begins at `place`, or among those of the step before."""

    place: int
    tokens: Part
    source: Part
    positions: Part
    sequence: Part
    full_slots: Part
    window_slots: Part


@dataclass(frozen=True, slots=True)
class Views:
    """The parts of a batch that are the same tensors in the next step, if that has as many rows."""

    tokens: torch.Tensor
    source: torch.Tensor
    positions: torch.Tensor
    sequence: torch.Tensor
    full: Group
    window: Group
    rows: torch.Tensor


class Buffers:
    """Preallocated inputs of a step on `device`."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        rows, slots = sizes.limits.step_tokens, sizes.limits.max_running
        self._slots = slots
        self._window = sizes.window
        columns = -(-sizes.max_context_tokens // BLOCK_TOKENS)
        seen = min(columns, -(-(sizes.window - 1 + rows) // BLOCK_TOKENS) + 1)
        # In the order in which they are sent: up to the tables for a step that decodes, to the end for one of
        # more rows. `previous` is written on the device and never sent.
        self._arena = Arena(
            {
                "previous": ((slots,), torch.int64),
                **{f"few {name}": ((slots,), torch.int64) for name in PER_ROW},
                **{name: ((slots,), dtype) for name, dtype in PER_SAMPLED.items()},
                "window_base": ((slots,), torch.int64),
                "window_tables": ((slots, seen), torch.int64),
                **{f"many {name}": ((rows,), torch.int64) for name in PER_ROW},
            },
            device,
        )
        self.previous = self._arena["previous"].device
        """The tokens of the step before, by sampled row: inputs that the host does not know yet. None is
        negative."""
        self._few, self._many = self._rows("few"), self._rows("many")
        self._inputs = torch.zeros(rows, dtype=torch.int64, device=device)
        self._full_tables = Mirror((slots, columns), torch.int64, device)
        self._full_base = torch.zeros(slots, dtype=torch.int64, device=device)
        self._window_tables, self._window_base = self._arena["window_tables"], self._arena["window_base"]
        self._sampled, self._uniform = self._arena["rows"], self._arena["uniform"]
        self._bias_ids = Mirror((slots, MAX_LOGIT_BIAS), torch.int64, device)
        self._bias = Mirror((slots, MAX_LOGIT_BIAS), torch.float32, device)
        self.mask = Mirror((slots, -(-sizes.vocabulary // MASK_BITS)), torch.int32, device)
        self._counts = torch.zeros((slots, sizes.vocabulary), dtype=torch.int32, device=device)
        # What is there already, by slot: the tables, and numbers to draw with.
        self._written: list[Written | None] = [None] * slots
        self._numbers: Array = np.zeros((slots, UNIFORMS), dtype=np.float32)
        self._numbers_from: Array = np.full(slots, -1)
        self._views: tuple[tuple[int, int, int], Views] | None = None
        self._draw: tuple[tuple[Sequence, ...], Draw] | None = None

    def fill(self, plan: Plan, *, masked: bool) -> Batch:
        """The plan's batch. With `masked`, the rows of `mask` are read, but not sent: see `send_mask`."""
        self._begin(plan.fresh)
        work, sampled = plan.work, len(plan.sampling)
        slots = np.array([one.sequence.slot for one in work])
        starts = np.array([one.start for one in work])
        counts = np.array([one.count for one in work])
        ends = counts.cumsum()
        count = int(ends[-1])
        rows = self._few if count <= self._slots else self._many
        columns = self._write_tables(plan, (starts - (self._window - 1)).clip(0) // BLOCK_TOKENS)
        self._write_tokens(plan, rows)
        sequence, positions = slots, starts
        if count > len(work):
            sequence = slots.repeat(counts)
            positions = (starts + counts - ends).repeat(counts) + np.arange(count)
        self._write_places(rows, sequence, positions)
        samples = np.array([one.samples for one in work])
        self._sampled.host[:sampled] = ends[samples] - 1
        draw = self._drawn(plan, masked)
        self._uniform.host[:sampled] = self._uniforms(plan, slots[samples], (starts + counts)[samples])
        views = self._viewed(rows, count, sampled, columns)
        self._arena.send("few tokens", "window_tables" if rows is self._few else f"many {PER_ROW[-1]}")
        return Batch(
            tokens=torch.index_select(self._arena.numbers, 0, views.source, out=views.tokens),
            positions=views.positions,
            sequence=views.sequence,
            full=views.full,
            window=views.window,
            rows=views.rows,
            runs=tuple(map(Run, (ends - counts).tolist(), counts.tolist(), starts.tolist(), slots.tolist())),
            window_base=tuple(self._window_base.host.tolist()),
            draw=draw,
        )

    def send_mask(self, rows: int) -> None:
        """Brings the masks that were filled on the host to the device."""
        self.mask.send(rows)

    def _rows(self, kind: str) -> Rows:
        return Rows(self._arena.place(f"{kind} tokens"), *(self._arena[f"{kind} {name}"] for name in PER_ROW))

    def _begin(self, fresh: tuple[Sequence, ...]) -> None:
        """Sequences that got a slot: counts of what they said before, if they are to be penalised for it."""
        if fresh:
            self._draw = None
        for sequence in fresh:
            self._written[sequence.slot] = None
            self._numbers_from[sequence.slot] = -1
            if sequence.params.penalised:
                said = np.asarray(sequence.tokens[sequence.prompt_tokens :], dtype=np.int64)
                counts = np.bincount(said, minlength=self._counts.shape[1]).astype(np.int32)
                counts[sequence.tokens[: sequence.prompt_tokens]] |= PROMPTED
                self._counts[sequence.slot].copy_(torch.from_numpy(counts))

    def _write_tables(self, plan: Plan, bases: Array) -> int:
        """Brings the rows of the block tables up to date, those of the window from the blocks `bases` on;
        returns how many columns of the full one are used."""
        columns = 1
        for work, base in zip(plan.work, bases.tolist(), strict=True):
            tables, slot = work.sequence.tables, work.sequence.slot
            assert tables is not None
            used = len(tables.full)
            columns = max(columns, used)
            known = self._written[slot]
            if known == (wanted := (tables, tables.version, used, base)):
                continue
            same = known is not None and known[:2] == wanted[:2]
            start = known[2] if known is not None and same else 0
            self._full_tables.host[slot, start:used] = tables.full[start:]
            # All of them are a megabyte at the longest context, and a step adds a block or none.
            self._full_tables.send_part(slot, start, used)
            # More may be held than these positions see: blocks are let go of when a step's results are in.
            seen = tables.window[base:]
            row = self._window_tables.host[slot]
            row[: len(seen)], row[len(seen) :] = seen, 0
            self._window_base.host[slot] = base
            self._written[slot] = wanted
        return columns

    def _write_tokens(self, plan: Plan, rows: Rows) -> None:
        """The inputs that the host knows, and where each is."""
        known: list[int] = []
        source: list[int] = []
        for work in plan.work:
            at = len(known)
            if work.source < 0:
                known += work.sequence.tokens[work.start : work.start + work.count]
                source += range(rows.place + at, rows.place + at + work.count)
            else:
                known.append(0)
                source.append(work.source)
        rows.tokens.host[: len(known)] = known
        rows.source.host[: len(source)] = source

    def _write_places(self, rows: Rows, sequence: Array, positions: Array) -> None:
        """Where each row is and where its keys and values go."""
        count = len(positions)
        rows.sequence.host[:count], rows.positions.host[:count] = sequence, positions
        block, offset = np.divmod(positions, BLOCK_TOKENS)
        full = self._full_tables.host[sequence, block]
        window = self._window_tables.host[sequence, block - self._window_base.host[sequence]]
        rows.full_slots.host[:count] = full * BLOCK_TOKENS + offset
        rows.window_slots.host[:count] = window * BLOCK_TOKENS + offset

    def _viewed(self, rows: Rows, count: int, sampled: int, columns: int) -> Views:
        shape = (count, sampled, columns)
        if self._views is None or self._views[0] != shape:
            self._views = (
                shape,
                Views(
                    tokens=self._inputs[:count],
                    source=rows.source.device[:count],
                    positions=rows.positions.device[:count],
                    sequence=rows.sequence.device[:count],
                    full=Group(
                        self._full_tables.device[:, :columns], self._full_base, rows.full_slots.device[:count]
                    ),
                    window=Group(
                        self._window_tables.device, self._window_base.device, rows.window_slots.device[:count]
                    ),
                    rows=self._sampled.device[:sampled],
                ),
            )
        return self._views[1]

    def _uniforms(self, plan: Plan, slots: Array, positions: Array) -> Array:
        """The number that each sampled row draws its token with."""
        part, offset = np.divmod(positions, UNIFORMS)
        for row in np.flatnonzero(self._numbers_from[slots] != part).tolist():
            sequence = plan.sampling[row]
            self._numbers[sequence.slot] = uniforms(sequence.params.seed, sequence.choice, int(part[row]))
            self._numbers_from[sequence.slot] = part[row]
        numbers: Array = self._numbers[slots, offset]
        return numbers

    def _drawn(self, plan: Plan, masked: bool) -> Draw:
        """How the rows are drawn: written anew when others are sampled than in the step before."""
        if self._draw is None or self._draw[0] != plan.sampling:
            self._draw = plan.sampling, self._write_draw(plan.sampling)
        draw = self._draw[1]
        return replace(draw, masked=True) if masked else draw

    def _write_draw(self, sequences: tuple[Sequence, ...]) -> Draw:
        params = [sequence.params for sequence in sequences]
        rows = len(params)
        biased = any(p.logit_bias for p in params)
        if biased:
            for row, p in enumerate(params):
                ids, values = self._bias_ids.host[row], self._bias.host[row]
                ids[:], values[:] = 0, 0.0
                for n, (token, bias) in enumerate(p.logit_bias):
                    ids[n], values[n] = token, bias
            self._bias_ids.send(rows)
            self._bias.send(rows)
        wanted = [p.top_logprobs for p in params if p.top_logprobs is not None]

        def put(name: str, values: list[float]) -> torch.Tensor:
            self._arena[name].host[:rows] = values
            return self._arena[name].device[:rows]

        return Draw(
            uniform=self._uniform.device[:rows],
            temperature=put("temperature", [p.temperature for p in params]),
            top_k=put("top_k", [p.top_k for p in params]),
            top_p=put("top_p", [p.top_p for p in params]),
            min_p=put("min_p", [p.min_p for p in params]),
            presence=put("presence", [p.presence_penalty for p in params]),
            frequency=put("frequency", [p.frequency_penalty for p in params]),
            repetition=put("repetition", [p.repetition_penalty for p in params]),
            slot=put("slot", [sequence.slot for sequence in sequences]),
            counts=self._counts,
            bias_ids=self._bias_ids.device[:rows],
            bias=self._bias.device[:rows],
            mask=self.mask.device[:rows],
            penalised=any(p.penalised for p in params),
            biased=biased,
            masked=False,
            filtered=any(p.filtered for p in params),
            logprobs=max(wanted) if wanted else None,
        )
