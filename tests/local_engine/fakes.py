"""Tensors on a device that need not be there: they have a shape, and no value that anything could look at.

Inside `with fake_tensors(), Watch() as watch:` whatever a captured step must not do raises: to wait for a
value, to make a shape that depends on one, to copy between host and device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "cuda:0"


class Crossing(RuntimeError):
    """Data went between host and device in the middle of a step."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises `Crossing` for copies, which fake tensors let pass; collects the storages written to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operation."""
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs or {}, result))
        if len({leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}) > 1:
            raise Crossing(str(func))
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write:
                self.written.append(storage(value))
        return result


class Spelt(TorchFunctionMode):
    """Says in single operations what torch, built without the device, refuses to do there even for fakes."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One call."""
        spelt: dict[Any, Callable[..., Any]] = {
            torch.Tensor.__getitem__: _indexed,
            torch.Tensor.__invert__: torch.ops.aten.bitwise_not,
            torch.Tensor.nonzero: torch.ops.aten.nonzero,
        }
        return spelt.get(func, func)(*args, **(kwargs or {}))


def _indexed(tensor: torch.Tensor, key: Any) -> torch.Tensor:
    keys = key if isinstance(key, tuple) else (key,)
    dim, chosen = 0, {}
    for n, part in enumerate(keys):
        if part is None:
            tensor = tensor.unsqueeze(dim)
            dim += 1
        elif part is Ellipsis:
            dim = tensor.dim() - sum(later is not None for later in keys[n + 1 :])
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice(tensor, dim, part.start, part.stop, part.step or 1)
            dim += 1
        elif isinstance(part, torch.Tensor):
            chosen[dim] = part
            dim += part.dim() if part.dtype == torch.bool else 1
        else:
            tensor = tensor.select(dim, part)
    if not chosen:
        return tensor
    found: torch.Tensor = torch.ops.aten.index(tensor, [chosen.get(n) for n in range(max(chosen) + 1)])
    return found


@contextmanager
def fake_tensors() -> Iterator[None]:
    """All tensors made in here are fake."""
    with FakeTensorMode(), Spelt():
        yield


def storage(tensor: torch.Tensor) -> int:
    """Which memory a tensor is a view of."""
    place: int = tensor.untyped_storage()._cdata
    return place


def moved(value: Any) -> Any:
    """A value of tensors, dataclasses and tuples with memory on the device in the place of every tensor.

    Where torch is built without the device, a copy to it is another thing that it refuses.
    """
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
    if isinstance(value, tuple):
        return tuple(moved(part) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: moved(getattr(value, field.name)) for field in fields(value)})
    return value
