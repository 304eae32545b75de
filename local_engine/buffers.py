"""The memory that every step reads, allocated once, and how a plan fills it.

INVARIANT: no address changes between steps, so a step can be captured and replayed: each step is a view of
the first T rows, R sampled rows and n table columns of the same buffers. Rows of the block tables and of the
penalty counts belong to a sequence's slot, so that what did not change is not written again. One more row of
the tables is nobody's and all zeros: rows that only fill up a captured step are of that sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from local_engine.batch import Batch, Group, Run
from local_engine.kv import BLOCK_TOKENS, Tables, first_seen
from local_engine.sampling import MAX_LOGIT_BIAS, PROMPTED, Draw, uniform
from local_engine.scheduler import Limits, Plan, Sequence
from local_engine.staging import Part, Staging

MASK_BITS = 32


class Mirror:
    """A device tensor and the host array it is filled from. On the CPU both are the same memory."""

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *, pinned: bool = False
    ) -> None:
        # What is not pinned is copied once more on the way, and may be written again at once.
        staging = torch.zeros(shape, dtype=dtype, pin_memory=pinned and device.type == "cuda")
        self.host: np.ndarray[Any, Any] = staging.numpy()
        self.device = staging if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        self._staging = staging

    def put(self, values: Iterable[float] | np.ndarray[Any, Any], count: int) -> torch.Tensor:
        """Writes the first `count` entries and returns them on the device."""
        self.host[:count] = values
        return self.send(count)

    def send(self, count: int) -> torch.Tensor:
        """The first `count` entries of the host's array, on the device."""
        view = self.device[:count]
        if self.device is not self._staging:
            view.copy_(self._staging[:count], non_blocking=True)
        return view

    def send_part(self, row: int, start: int, end: int) -> None:
        """Brings the entries start .. end - 1 of one row to the device.

        Where the host's array is pinned, they may be written again before the device has fetched them: a row
        gets another sequence's blocks only once nobody wants what the step under way makes of its last owner.
        """
        if self.device is not self._staging and start < end:
            self.device[row, start:end].copy_(self._staging[row, start:end], non_blocking=True)


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
        self._written: list[tuple[Tables | None, int, int]] = [(None, 0, 0)] * slots

    def fill(self, plan: Plan, *, masked: bool, captured: int = 0) -> Batch:
        """The plan's batch. With `masked`, the rows of `mask` are read, but not sent: see `send_mask`.

        Of a plan in which every sequence computes one row and samples it, `captured` fills up to so many rows
        what `decoding` of as many reads; the batch returned is then good for its `draw` only, which has the
        plan's own rows.
        """
        self._begin(plan.fresh)
        tokens, source, positions, sequence, full_slots, window_slots = ([] for _ in range(6))  # type: ignore[var-annotated]
        runs, sampled, columns = [], [], 1
        for work in plan.work:
            owner, tables = work.sequence, work.sequence.tables
            assert tables is not None
            columns = max(columns, self._write_tables(owner.slot, tables, work.start))
            runs.append(Run(len(tokens), work.count, work.start, owner.slot))
            places = range(work.start, work.start + work.count)
            tokens += owner.tokens[work.start : work.start + work.count] if work.source < 0 else [0]
            source += [work.source] * work.count
            positions += places
            sequence += [owner.slot] * work.count
            full_slots += [_place(tables.full, p) for p in places]
            window_slots += [_place(tables.window, p) for p in places]
            if work.samples:
                sampled.append(len(tokens) - 1)
        spare = len(self._written)
        for values, value in (
            (tokens, 0),
            (source, -1),
            (positions, 0),
            (sequence, spare),
            (full_slots, 0),
            (window_slots, 0),
        ):
            values += [value] * (captured - len(values))
        if captured:
            sampled = list(range(captured))
        count, draw = len(tokens), self._draw(plan, masked)
        batch = Batch(
            tokens=self._tokens.put(tokens, count),
            positions=self._positions.put(positions, count),
            sequence=self._sequence.put(sequence, count),
            full=Group(
                self._full_tables.device[:, :columns],
                self._full_base,
                self._full_slots.put(full_slots, count),
            ),
            window=Group(
                self._window_tables.device,
                self._window_base.device,
                self._window_slots.put(window_slots, count),
            ),
            rows=self._sampled.put(sampled, len(sampled)),
            runs=tuple(runs),
            window_base=tuple(self._window_base.host.tolist()),
            draw=draw,
        )
        self._source.put(source, count)
        self._staging.send()
        if captured or max(source) < 0:
            return batch
        return replace(batch, tokens=self.resolve(count))

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
        for sequence in fresh:
            self._written[sequence.slot] = (None, 0, 0)
            if sequence.params.penalised:
                said = np.asarray(sequence.tokens[sequence.prompt_tokens :], dtype=np.int64)
                counts = np.bincount(said, minlength=self._counts.shape[1]).astype(np.int32)
                counts[sequence.tokens[: sequence.prompt_tokens]] |= PROMPTED
                self._counts[sequence.slot].copy_(torch.from_numpy(counts))

    def _write_tables(self, slot: int, tables: Tables, start: int) -> int:
        """Brings a slot's rows of the block tables up to date for positions from `start` on; returns how many
        columns the full one uses."""
        owner, version, known = self._written[slot]
        if owner is not tables or version != tables.version:
            known = 0
        self._full_tables.host[slot, known : len(tables.full)] = tables.full[known:]
        # All of them are a megabyte at the longest context, and a step adds a block or none.
        self._full_tables.send_part(slot, known, len(tables.full))
        self._written[slot] = (tables, tables.version, len(tables.full))
        # More may be held than these positions see: blocks are let go of when a step's results are in.
        base = first_seen(start, self._window)
        seen = tables.window[base:]
        row = self._window_tables.host[slot]
        row[: len(seen)], row[len(seen) :] = seen, 0
        self._window_base.host[slot] = base
        return len(tables.full)

    def _draw(self, plan: Plan, masked: bool) -> Draw:
        drawing = [(work.sequence, work.start + work.count) for work in plan.work if work.samples]
        params = [sequence.params for sequence, _ in drawing]
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
        self._uniform.put([uniform(s.params.seed, s.choice, at) for s, at in drawing], rows)
        self._temperature.put([p.temperature for p in params], rows)
        self._top_k.put([p.top_k for p in params], rows)
        self._top_p.put([p.top_p for p in params], rows)
        self._min_p.put([p.min_p for p in params], rows)
        self._presence.put([p.presence_penalty for p in params], rows)
        self._frequency.put([p.frequency_penalty for p in params], rows)
        self._repetition.put([p.repetition_penalty for p in params], rows)
        self._slot.put([sequence.slot for sequence, _ in drawing], rows)
        return replace(
            self._views(rows),
            penalised=any(p.penalised for p in params),
            biased=biased,
            masked=masked,
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


def _place(blocks: list[int], position: int) -> int:
    return blocks[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
