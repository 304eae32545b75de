"""What the compiler makes of the kernels at the released models' shapes, as JSON on the standard output.

`python -m tests.local_engine.ops.triton.compiling` with `version`, with `launches`, or with dtypes and the
names of operations, in a process that does not interpret. The triton is the first that Python finds.
"""

from __future__ import annotations

import json
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import Any

import torch
import triton

from local_engine.ops import triton as package
from local_engine.ops.triton.configs import Config
from local_engine.presets import GPT_OSS_20B, GPT_OSS_120B
from tests.local_engine.ops.triton.launches import Launch, Recorder, step
from tests.local_engine.ops.triton.sass import Listing, listing, load_widths

DECODES = (1, 2, 4, 8, 16, 32, 64)
PROMPTS = (256, 2048, 4096)
BETWEEN = (3, 5, 12, 48)
MODELS = {"20b": GPT_OSS_20B, "120b": GPT_OSS_120B}


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel as a launch specialises it: who asks for it first, and what it is made of.

    `loads` counts the loads from device memory by bits. Of the loop over the weights, if there is one:
    `loop` its instructions, `loop_loads` its loads. `constants` are those that are numbers, by name.
    """

    op: str
    kernel: str
    model: str
    dtype: str
    rows: int
    prompt: bool
    constants: dict[str, int]
    warps: int
    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    loads: dict[int, int]
    loop: int
    loop_loads: dict[int, int]


def steps() -> Iterator[tuple[str, str, int, bool, Recorder]]:
    """Every model, dtype and number of rows, with what such a step launches. Two layers are one of each kind.

    fp32 is a mode to look for errors in: one model's shapes and a few numbers of rows are enough.
    """
    for (name, config), dtype in (
        *((model, torch.bfloat16) for model in MODELS.items()),
        (("20b", GPT_OSS_20B), torch.float32),
    ):
        exact = dtype == torch.float32
        short = replace(config, num_hidden_layers=2)
        decodes, prompts = (DECODES[::3], PROMPTS[:1]) if exact else (DECODES, PROMPTS)
        for rows, prompt in (*((n, False) for n in decodes), *((n, True) for n in prompts)):
            yield (
                name,
                str(dtype).removeprefix("torch."),
                rows,
                prompt,
                step(short, dtype, package.OPS, rows, prompt),
            )


def compiled(dtypes: list[str], ops: list[str]) -> list[Compiled]:
    """Each kernel of some operations once for each way in which it is specialised."""
    first: dict[str, tuple[Launch, tuple[str, str, int, bool]]] = {}
    for name, dtype, rows, prompt, recorder in steps():
        for launch in recorder.launches:
            if launch.op in ops and dtype in dtypes:
                first.setdefault(launch.key, (launch, (name, dtype, rows, prompt)))
    return [_compiled(launch, *asked) for launch, asked in first.values()]


def _compiled(launch: Launch, model: str, dtype: str, rows: int, prompt: bool) -> Compiled:
    kernel = launch.compile()
    code = listing(kernel.asm["cubin"])
    loop = _loop(code)
    names = [parameter.name for parameter in launch.kernel.params]
    return Compiled(
        op=launch.op,
        kernel=launch.kernel.fn.__name__,
        model=model,
        dtype=dtype,
        rows=rows,
        prompt=prompt,
        constants={names[at[0]]: n for at, n in launch.constants.items() if isinstance(n, int)},
        warps=launch.options["num_warps"],
        registers=code.registers,
        stack_bytes=code.stack_bytes,
        spills=code.spills,
        shared_bytes=kernel.metadata.shared,
        loads=dict(load_widths(code.instructions)),
        loop=len(loop),
        loop_loads=dict(load_widths(loop)),
    )


def _loop(code: Listing) -> tuple[Any, ...]:
    try:
        return code.loop()
    except LookupError:
        return ()


def launches() -> dict[str, Any]:
    """What one layer of a decode step launches by model and rows, kernels and torch operations alike, the
    layer with a window or without, whichever takes more; and configurations that no step uses."""
    layer: dict[str, dict[str, list[str]]] = {}
    used: list[Config] = []
    for name, config in MODELS.items():
        for rows in (*DECODES, *BETWEEN):
            recorder = step(replace(config, num_hidden_layers=2), torch.bfloat16, package.OPS, rows)
            used += recorder.used
            layer.setdefault(name, {})[str(rows)] = max(recorder.layers(), key=len)
    for *_, recorder in steps():
        used += recorder.used
    unused = [
        f"{where}: {config}" for where, config in configurations() if all(u is not config for u in used)
    ]
    return {"triton": triton.__version__, "layer": layer, "unused": unused}


def configurations() -> Iterator[tuple[str, Config]]:
    """Every checked-in configuration, and the table that it stands in."""
    for module in pkgutil.iter_modules(package.__path__):
        for name, value in vars(import_module(f"{package.__name__}.{module.name}")).items():
            if isinstance(value, tuple) and value and all(isinstance(one, Config) for one in value):
                yield from ((f"{module.name}.{name}", one) for one in value)


def main() -> None:
    """Prints what was asked for."""
    match sys.argv[1:]:
        case ["version"]:
            found: Any = triton.__version__
        case ["launches"]:
            found = launches()
        case [dtypes, *ops]:
            found = [asdict(one) for one in compiled(dtypes.split(","), ops)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
