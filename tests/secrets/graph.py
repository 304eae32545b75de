"""Everything that can be reached from an object, as a debugger would walk it."""

from __future__ import annotations

import dataclasses
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

OBJECTS_MAX = 200_000
LEAVES = (str, bytes, bytearray, int, float, complex, bool, type(None), type, types.ModuleType)
CONTAINERS = (dict, list, tuple, set, frozenset, deque, types.MappingProxyType)
FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)


def reachable(root: object) -> Iterator[tuple[str, object]]:
    """Path and object of each of the gateway's own and of what these hold, the root first, each once.

    Leaves and containers are walked through and not given: what holds them decides whether to show them. So
    are the insides of libraries, which show themselves to nobody but a library.
    """
    seen: set[int] = set()
    kept: list[object] = []  # so that no id is used twice
    waiting: deque[tuple[str, object, bool]] = deque([(type(root).__name__, root, True)])
    while waiting and len(seen) < OBJECTS_MAX:
        path, one, held = waiting.popleft()
        if isinstance(one, LEAVES) or id(one) in seen:
            continue
        seen.add(id(one))
        kept.append(one)
        transparent = type(one) in (*CONTAINERS, *FUNCTIONS)
        ours = type(one).__module__.startswith("gateway")
        if not transparent and (held or ours):
            yield path, one
        holds = held if transparent else ours
        waiting.extend((f"{path}{step}", inner, holds) for step, inner in inside(one))
    assert len(seen) < OBJECTS_MAX, "the walk did not end: it says nothing of what it did not see"


def inside(one: object) -> Iterator[tuple[str, object]]:
    if isinstance(one, dict | types.MappingProxyType):
        yield from ((f"[{str(key)[:20]}]", value) for key, value in list(one.items()))
        return
    if isinstance(one, CONTAINERS):
        yield from ((f"[{number}]", value) for number, value in enumerate(list(one)))
        return
    if isinstance(one, types.MethodType):
        yield ".__self__", one.__self__
        return
    if isinstance(one, types.FunctionType):
        for cell in one.__closure__ or ():
            try:
                yield "(closure)", cell.cell_contents
            except ValueError:  # not filled
                continue
        return
    for name in names_of(one):
        try:
            yield f".{name}", object.__getattribute__(one, name)
        except Exception:  # not set, or of a type that has no such thing
            continue


def names_of(one: object) -> set[str]:
    names = set(getattr(one, "__dict__", ()))
    for kind in type(one).__mro__:
        slots: Any = kind.__dict__.get("__slots__", ())
        names.update((slots,) if isinstance(slots, str) else slots)
    if dataclasses.is_dataclass(one):
        names.update(field.name for field in dataclasses.fields(one))
    return names - {"__dict__", "__weakref__"}
