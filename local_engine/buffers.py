"""The memory that every step reads, allocated once, and how a plan fills it.

INVARIANT: no address changes between steps, so a step can be captured and replayed: each step is a view of
the first T rows, R sampled rows and n table columns of the same buffers. Rows of the block tables and of the
penalty counts belong to a sequence's slot, and how a sequence samples to its place among the sampled rows, so
that what did not change is not written again. One more row of the tables is nobody's and all zeros: rows that
only fill up a captured step are of that sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from local_engine.batch import Batch, Group, Run
from local_engine.kv import BLOCK_TOKENS, Tables
from local_engine.sampling import MAX_LOGIT_BIAS, PROMPTED, Draw, Numbers
from local_engine.scheduler import Limits, Plan, Sequence
from local_engine.staging import Array, Mirror, Part, Staging

MASK_BITS = 32

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


class Buffers:
    """Preallocated inputs of a step on `device`."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        rows, slots = sizes.limits.step_tokens, sizes.limits.max_running
        self._window = sizes.window
        columns = -(-sizes.max_context_tokens // BLOCK_TOKENS)
        seen = min(columns, -(-(sizes.window - 1 + rows) // BLOCK_TOKENS) + 1)

        def mirror(*shape: int, dtype: torch.dtype = torch.int64) -> Mirror:
            return Mirror(shape, dtype, device)

        self._staging = Staging(device)
        part = self._staging.part

        def real(*shape: int) -> Part:
            return part(*shape, dtype=torch.float32)

        self._tokens, self._source = part(rows), part(rows)
        self._positions, self._sequence = part(rows), part(rows)
        self._full_slots, self._window_slots = part(rows), part(rows)
        self._full_tables = Mirror((slots + 1, columns), torch.int64, device, pinned=True)
        self._window_tables = part(slots + 1, seen)
        self._full_base = torch.zeros(slots + 1, dtype=torch.int64, device=device)
        self._window_base = part(slots + 1)
        self._sampled = part(slots)
        self._uniform, self._temperature = real(slots), real(slots)
        self._top_p, self._min_p = real(slots), real(slots)
        self._top_k = part(slots, dtype=torch.int32)
        self._presence, self._frequency, self._repetition = real(slots), real(slots), real(slots)
        self._slot = part(slots)
        self._staging.allocate()
        self._bias_ids = mirror(slots, MAX_LOGIT_BIAS)
        self._bias = mirror(slots, MAX_LOGIT_BIAS, dtype=torch.float32)
        self.mask = mirror(slots, -(-sizes.vocabulary // MASK_BITS), dtype=torch.int32)
        self._counts = torch.zeros((slots, sizes.vocabulary), dtype=torch.int32, device=device)
        self._inputs = torch.zeros(rows, dtype=torch.int64, device=device)
        self.previous = torch.zeros(slots, dtype=torch.int64, device=device)
        """The tokens of the step before, by sampled row: inputs that the host does not know yet."""
        # What is there already: each slot's tables and numbers to draw with, and the views of the last step.
        self._written: list[Written | None] = [None] * slots
        self._numbers = Numbers(slots)
        self._seen: tuple[tuple[int, int, int], Batch] | None = None
        self._drawing: tuple[tuple[Sequence, ...], Draw] | None = None

    def fill(self, plan: Plan, *, masked: bool, captured: int = 0) -> Batch:
        """The plan's batch. With `masked`, the rows of `mask` are read, but not sent: see `send_mask`.

        Of a plan in which every sequence computes one row and samples it, `captured` fills up to so many rows
        what `decoding` of as many reads; the batch returned is then good for its `draw` only, which has the
        plan's own rows.
        """
        self._begin(plan.fresh)
        work, sampled = plan.work, len(plan.sampling)
        slots = np.array([one.sequence.slot for one in work])
        starts = np.array([one.start for one in work])
        counts = np.array([one.count for one in work])
        samples = np.array([one.samples for one in work])
        ends = counts.cumsum()
        count = int(ends[-1])
        sequence, positions = slots, starts
        if count > len(work):
            sequence = slots.repeat(counts)
            positions = (starts + counts - ends).repeat(counts) + np.arange(count)
        columns = self._write_tables(plan, (starts - (self._window - 1)).clip(0) // BLOCK_TOKENS)
        known = self._write_tokens(plan)
        self._write_places(sequence, positions)
        self._sampled.host[:sampled] = ends[samples] - 1
        self._uniform.host[:sampled] = self._numbers.at(plan.sampling, (starts + counts)[samples])
        draw = self._draw(plan, masked)
        self._fill_up(count, captured)
        self._staging.send()
        views = self._viewed(count, sampled, columns)
        if captured:
            return replace(views, draw=draw)
        return Batch(
            tokens=views.tokens if known else self.resolve(count),
            positions=views.positions,
            sequence=views.sequence,
            full=views.full,
            window=views.window,
            rows=views.rows,
            runs=tuple(map(Run, (ends - counts).tolist(), counts.tolist(), starts.tolist(), slots.tolist())),
            window_base=tuple(self._window_base.host.tolist()),
            draw=draw,
        )

    def decoding(self, rows: int) -> Batch:
        """What a captured step of `rows` rows reads, each the next token of another sequence and sampled
        plainly: by temperature alone."""
        return Batch(
            tokens=self._inputs[:rows],
            positions=self._positions.device[:rows],
            sequence=self._sequence.device[:rows],
            full=Group(self._full_tables.device, self._full_base, self._full_slots.device[:rows]),
            window=Group(
                self._window_tables.device, self._window_base.device, self._window_slots.device[:rows]
            ),
            rows=self._sampled.device[:rows],
            runs=(),
            window_base=(),
            draw=self._views(rows),
        )

    def resolve(self, count: int) -> torch.Tensor:
        """The inputs of `count` rows: those the host knows, and those that only the device has."""
        rows, inputs = self._source.device[:count], self._inputs[:count]
        # A row whose logits were unusable gave -1; its sequence has failed, whatever it computes now.
        drawn = self.previous.index_select(0, rows.clamp(min=0)).clamp_(min=0)
        return torch.where(rows < 0, self._tokens.device[:count], drawn, out=inputs)

    def send_mask(self, rows: int) -> None:
        """Brings the masks that were filled on the host to the device."""
        self.mask.send(rows)

    def _begin(self, fresh: tuple[Sequence, ...]) -> None:
        """Sequences that got a slot: counts of what they said before, if they are to be penalised for it."""
        if fresh:
            self._drawing = None
        for sequence in fresh:
            self._numbers.forget(sequence.slot)
            if sequence.params.penalised:
                said = np.asarray(sequence.tokens[sequence.prompt_tokens :], dtype=np.int64)
                counts = np.bincount(said, minlength=self._counts.shape[1]).astype(np.int32)
                counts[sequence.tokens[: sequence.prompt_tokens]] |= PROMPTED
                self._counts[sequence.slot].copy_(torch.from_numpy(counts))

    def _fill_up(self, count: int, captured: int) -> None:
        """Rows of nobody's behind the plan's, up to so many."""
        for part, value in (
            (self._tokens, 0),
            (self._source, -1),
            (self._positions, 0),
            (self._sequence, len(self._written)),
            (self._full_slots, 0),
            (self._window_slots, 0),
        ):
            part.host[count:captured] = value
        self._sampled.host[count:captured] = np.arange(count, captured)

    def _write_tables(self, plan: Plan, bases: Array) -> int:
        """Brings the rows of the block tables up to date, those of the window from the blocks `bases` on;
        returns how many columns of the full one are used."""
        columns = 1
        for work, base in zip(plan.work, bases.tolist(), strict=True):
            tables, slot = work.sequence.tables, work.sequence.slot
            assert tables is not None
            used = len(tables.full)
            columns = max(columns, used)
            last, now = self._written[slot], (tables, tables.version, used, base)
            if last == now:
                continue
            known = last[2] if last is not None and last[:2] == now[:2] else 0
            self._full_tables.host[slot, known:used] = tables.full[known:]
            # All of them are a megabyte at the longest context, and a step adds a block or none.
            self._full_tables.send_part(slot, known, used)
            # More may be held than these positions see: blocks are let go of when a step's results are in.
            seen = tables.window[base:]
            row = self._window_tables.host[slot]
            row[: len(seen)], row[len(seen) :] = seen, 0
            self._window_base.host[slot] = base
            self._written[slot] = now
        return columns

    def _write_tokens(self, plan: Plan) -> bool:
        """The inputs, or where those are that only the device has. True when there are none of these."""
        tokens: list[int] = []
        source: list[int] = []
        for work in plan.work:
            tokens += work.sequence.tokens[work.start : work.start + work.count] if work.source < 0 else (0,)
            source += (work.source,) * work.count
        self._tokens.host[: len(tokens)] = tokens
        self._source.host[: len(source)] = source
        return max(source) < 0

    def _write_places(self, sequence: Array, positions: Array) -> None:
        """Where each row is, and where its keys and values go."""
        count = len(positions)
        self._sequence.host[:count], self._positions.host[:count] = sequence, positions
        block, offset = np.divmod(positions, BLOCK_TOKENS)
        full = self._full_tables.host[sequence, block]
        window = self._window_tables.host[sequence, block - self._window_base.host[sequence]]
        self._full_slots.host[:count] = full * BLOCK_TOKENS + offset
        self._window_slots.host[:count] = window * BLOCK_TOKENS + offset

    def _viewed(self, count: int, sampled: int, columns: int) -> Batch:
        """Views of so many rows, sampled rows and columns, made anew when these are others than last time."""
        shape = (count, sampled, columns)
        if self._seen is None or self._seen[0] != shape:
            self._seen = (
                shape,
                Batch(
                    tokens=self._tokens.device[:count],
                    positions=self._positions.device[:count],
                    sequence=self._sequence.device[:count],
                    full=Group(
                        self._full_tables.device[:, :columns],
                        self._full_base,
                        self._full_slots.device[:count],
                    ),
                    window=Group(
                        self._window_tables.device,
                        self._window_base.device,
                        self._window_slots.device[:count],
                    ),
                    rows=self._sampled.device[:sampled],
                    runs=(),
                    window_base=(),
                    draw=self._views(sampled),
                ),
            )
        return self._seen[1]

    def _draw(self, plan: Plan, masked: bool) -> Draw:
        """How the rows are drawn: written anew when others are sampled than in the step before."""
        if self._drawing is None or self._drawing[0] != plan.sampling:
            self._drawing = plan.sampling, self._write_draw(plan.sampling)
        draw = self._drawing[1]
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
        self._temperature.put([p.temperature for p in params], rows)
        self._top_k.put([p.top_k for p in params], rows)
        self._top_p.put([p.top_p for p in params], rows)
        self._min_p.put([p.min_p for p in params], rows)
        self._presence.put([p.presence_penalty for p in params], rows)
        self._frequency.put([p.frequency_penalty for p in params], rows)
        self._repetition.put([p.repetition_penalty for p in params], rows)
        self._slot.put([sequence.slot for sequence in sequences], rows)
        return replace(
            self._views(rows),
            penalised=any(p.penalised for p in params),
            biased=biased,
            filtered=any(p.filtered for p in params),
            logprobs=max(wanted) if wanted else None,
        )

    def _views(self, rows: int) -> Draw:
        """The memory of the first `rows` sampled rows, to be drawn from plainly."""
        return Draw(
            uniform=self._uniform.device[:rows],
            temperature=self._temperature.device[:rows],
            top_k=self._top_k.device[:rows],
            top_p=self._top_p.device[:rows],
            min_p=self._min_p.device[:rows],
            presence=self._presence.device[:rows],
            frequency=self._frequency.device[:rows],
            repetition=self._repetition.device[:rows],
            slot=self._slot.device[:rows],
            counts=self._counts,
            bias_ids=self._bias_ids.device[:rows],
            bias=self._bias.device[:rows],
            mask=self.mask.device[:rows],
        )
