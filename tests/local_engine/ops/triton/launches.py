"""The launches that a step makes at the released models' shapes, recorded where there is no GPU.

For processes in which triton compiles: under the interpreter there is nothing to record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.compiler import compile as compile_source
from triton.runtime.jit import JITFunction, MockTensor, create_function_from_signature

from local_engine.batch import Batch, Run
from local_engine.buffers import Buffers, Sizes
from local_engine.config import ModelConfig
from local_engine.model import forward, load_model, new_kv
from local_engine.ops import Ops
from local_engine.ops.triton.configs import Config
from local_engine.scheduler import Limits
from tests.local_engine.batches import empty_checkpoint
from tests.local_engine.fakes import DEVICE, fake_tensors, moved

TARGET = GPUTarget("cuda", 90, 32)
CONTEXT = 131_072
STEP_TOKENS = 4096
MAX_RUNNING = 64

# What makes memory or another view of it, and so costs no launch.
FREE = (
    "prim::",
    "empty",
    "new_empty",
    "view",
    "slice",
    "select",
    "as_strided",
    "expand",
    "unsqueeze",
    "squeeze",
    "alias",
    "detach",
)


class Place(MockTensor):  # type: ignore[misc]
    """Stands for a tensor in a launch: its dtype, and how far from an aligned address it begins."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor.dtype, list(tensor.shape))
        self._bytes = int(tensor.storage_offset()) * tensor.dtype.itemsize

    def data_ptr(self) -> int:
        """An address that is a multiple of 16 where the tensor's would be."""
        return self._bytes


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch as a GPU's launcher would specialise it: what to compile, and for which operation."""

    op: str
    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]
    grid: tuple[int, ...]

    @property
    def key(self) -> str:
        """The same for launches that run the same code."""
        return repr(
            (
                self.kernel.fn.__module__,
                self.kernel.fn.__qualname__,
                self.signature,
                self.constants,
                self.attributes,
                self.options,
            )
        )

    def compile(self) -> Any:
        """The compiled kernel, which no device has loaded."""
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        return compile_source(source, target=TARGET, options=self.options)


class Recorder:
    """Collects launches in place of making them, and the configurations that were asked for. `order` names
    everything that costs a launch, torch's operations too."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.order: list[str] = []
        self.used: list[Config] = []
        self.op = ""
        self._backend = make_backend(TARGET)

    def run(self, kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        """Stands for `JITFunction.run`."""
        given = [_placed(value) for value in args]
        named = {name: _placed(value) for name, value in kwargs.items()} | {"debug": False}
        bind = create_function_from_signature(kernel.signature, kernel.params, self._backend)
        bound, specialization, options = bind(*given, **named)
        packed, signature, constants, attributes = kernel._pack_args(
            self._backend, named, bound, specialization, options
        )
        found = grid(bound) if callable(grid) else grid
        self.order.append(f"{self.op}: {kernel.fn.__name__}")
        self.launches.append(
            Launch(self.op, kernel, signature, constants, attributes, dict(packed.__dict__), tuple(found))
        )

    def layers(self) -> list[list[str]]:
        """What each layer launched: a layer begins with `qkv`, the head is none."""
        found: list[list[str]] = []
        last = ""
        for launch in self.order:
            op = launch.partition(":")[0]
            if op == "qkv" and last != "qkv":
                found.append([])
            if found and op not in ("head", "sample", ""):
                found[-1].append(launch)
            last = op
        return found

    def named(self, ops: Ops) -> Ops:
        """The same operations, which say that they are at work."""

        def naming(name: str, op: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                self.op = name
                result = op(*args)
                self.op = ""
                return result

            return call

        names = [field.name for field in fields(Ops)]
        return Ops(**{name: naming(name, getattr(ops, name)) for name in names})


class _Beside(TorchDispatchMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::").lstrip("_")
        if not name.startswith(FREE):
            self._recorder.order.append(f"{self._recorder.op}: torch's {name}")
        return func(*args, **(kwargs or {}))


@contextmanager
def recording() -> Iterator[Recorder]:
    """Launches in here are recorded, not made."""
    recorder, options = Recorder(), Config.__dict__["options"]

    def record(kernel: JITFunction[Any], *args: Any, **kwargs: Any) -> None:
        recorder.run(kernel, *args, **kwargs)

    def asked(config: Config) -> dict[str, int]:
        recorder.used.append(config)
        found: dict[str, int] = options.__get__(config)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", record)
        patch.setattr(Config, "options", property(asked))
        yield recorder


def step(config: ModelConfig, dtype: torch.dtype, ops: Ops, rows: int, prompt: bool = False) -> Recorder:
    """What one step of so many rows launches: each the next token of another sequence, as in a captured step,
    or with `prompt` all of one sequence's prompt, whose last row is sampled."""
    sizes = Sizes(Limits(MAX_RUNNING, STEP_TOKENS), CONTEXT, config.sliding_window, config.vocab_size)
    runs = (Run(0, rows, 0, 0),) if prompt else ()
    read = Buffers(sizes, torch.device("cpu")).decoding(rows)
    if prompt:
        read = replace(read, rows=read.rows[:1])
    with fake_tensors(), recording() as recorder:
        on_host = load_model(
            empty_checkpoint(config), dtype, max_context_tokens=CONTEXT, decoded_experts_bytes=0
        )
        model = replace(moved(on_host), device=torch.device(DEVICE))
        kv = new_kv(model, CONTEXT // 16 + 1, CONTEXT // 16 + 1)
        batch: Batch = replace(moved(read), runs=runs)
        with _Beside(recorder):
            named = recorder.named(ops)
            named.sample(forward(model, batch, kv, named), batch.draw)
    return recorder


def _placed(value: Any) -> Any:
    return Place(value) if isinstance(value, torch.Tensor) else value
