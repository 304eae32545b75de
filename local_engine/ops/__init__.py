"""The model's operations, as one value: a new device is `replace(ref.OPS, attend=...)`.

`ref` is plain torch on any device, with static shapes and without a wait for the device: the oracle of each
faster one. `cpu` is eager and goes sequence by sequence and expert by expert. `exact` gives a row the same
bits whatever is beside it.

Shapes: T rows of a batch, H hidden, N query heads, D head dimension, R rows to sample, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from local_engine.batch import Batch, Group, LayerKV
    from local_engine.model import Layer, Model, Rope
    from local_engine.sampling import Draw, Drawn


Heard = Any
"""What `attend` hands to `out` of the same value: [T, N, D], or a device's own partial sums of it."""

Sent = Any
"""What `route` hands to `experts` of the same value: `Routed`, or a device's own form of it."""


class Routed(NamedTuple):
    """Rows of a batch with the experts of each: t [T, H], ids i64 [T, top], weights [T, top]."""

    t: Tensor
    ids: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Ops:
    """What a device must be able to do. Activations are in the model's dtype unless said otherwise."""

    qkv: Callable[[Tensor, Layer, Rope, Tensor, LayerKV, Tensor], Tensor]
    """(x [T, H], layer, rope, positions i64 [T], kv, slots i64 [T]) -> q [T, N, D].

    Norm, projection and rotation; writes the rows' keys and values into `kv` at `slots`."""

    attend: Callable[[Tensor, LayerKV, Group, Batch, Tensor, int | None], Heard]
    """(q [T, N, D], kv, group, batch, sinks [N], window) -> what the rows heard, for `out`."""

    out: Callable[[Heard, Layer, Tensor], Tensor]
    """(heard, layer, x [T, H]) -> x [T, H]: projection, bias, residual."""

    route: Callable[[Tensor, Layer, int], Sent]
    """(x [T, H], layer, top) -> the rows and where to, for `experts`.

    Norm, router, the `top` experts of each row and the softmax over those."""

    experts: Callable[[Sent, Layer, float, Tensor], Tensor]
    """(routed, layer, swiglu limit, x [T, H]) -> x [T, H]: experts, bias, residual."""

    head: Callable[[Tensor, Model, Tensor], Tensor]
    """(x [T, H], model, rows i64 [R]) -> logits f32 [R, V]: norm and unembedding of the wanted rows."""

    sample: Callable[[Tensor, Draw], Drawn]
    """(logits f32 [R, V], draw) -> tokens, and logprobs where asked for."""
