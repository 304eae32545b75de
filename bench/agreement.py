"""Whether two engines compute the same model: logits of the same tokens, beside a reference's.

A ratio of speeds over different arithmetic would be worth nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over all rows: the median KL divergence from the reference's distribution in nats, mean |Δ| of the
    logits as a share of their standard deviation, and how often the likeliest token is the same.

    The median, because a router that decides otherwise in a few rows makes most of a mean.
    """

    kl: float
    mean_delta: float
    same_top: float


def agreement(reference: Logits, other: Logits) -> Agreement:
    """Of logits f32 [T, V]. Raises `ValueError` for shapes that differ and for what is no number."""
    if reference.shape != other.shape:
        raise ValueError(f"logits {other.shape} cannot be held against {reference.shape}")
    if not (np.isfinite(reference).all() and np.isfinite(other).all()):
        raise ValueError("some logits are no numbers")
    p, q = log_softmax(reference), log_softmax(other)
    return Agreement(
        kl=float(np.median((np.exp(p) * (p - q)).sum(axis=-1))),
        mean_delta=float(np.abs(reference - other).mean() / reference.std()),
        same_top=float((reference.argmax(axis=-1) == other.argmax(axis=-1)).mean()),
    )


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    found: npt.NDArray[np.float64] = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return found
