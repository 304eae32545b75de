"""One stage of the GPU bench, in the process that `bench.gpu` starts for it.

Rows go to a file as they come, so that what was measured outlives a crash. `probe` is no stage: it says what
keeps this machine from being measured, or nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.gpu_rows import Row, encode

LEAST_CAPABILITY = (9, 0)


def problem() -> str | None:
    """What is missing here."""
    try:
        import torch
        import triton  # noqa: F401
    except ModuleNotFoundError as error:
        return f"`{sys.executable}` has no {error.name}: install torch with CUDA, which brings triton"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} of `{sys.executable}` is built without CUDA: there is no GPU to it"
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU here, or its driver does not answer"
    if torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability()))
        return f"{torch.cuda.get_device_name()} has compute capability {found}, the kernels need 9.0"
    return None


def rows_of(
    number: int, part: str, device: str, tiny: bool, read: float | None, folder: Path
) -> Iterator[Row]:
    """What a stage measures, or a part of it."""
    import torch

    from bench.gpu_setting import Setting

    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    setting = Setting(torch.device(device), tiny)
    with torch.inference_mode():
        match number:
            case 1:
                from bench.gpu_machine import machine

                yield from machine(setting)
            case 2:
                from bench.gpu_checks import parts

                yield from parts(setting)[part](setting)
            case 3 | 5 | 6:
                from bench import gpu_engine

                stage = {3: gpu_engine.graphs, 5: gpu_engine.batches, 6: gpu_engine.large}[number]
                yield from stage(setting, read)
            case 4:
                from bench.gpu_kernels import kernels

                yield from kernels(setting, read)
            case _:
                from bench.gpu_kernels import tune

                yield from tune(setting, folder)


def main() -> None:
    """Exit 0 when the stage came to its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage")
    parser.add_argument("--part", default="")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--read", type=float)
    parser.add_argument("--rows", type=Path, required=True)
    options = parser.parse_args()
    with options.rows.open("a", encoding="utf-8") as file:
        if options.stage == "probe":
            found = problem()
            rows: Iterator[Row] = iter([] if found is None else [Row("problem", {"is": found}, failed=True)])
        else:
            rows = rows_of(
                int(options.stage),
                options.part,
                options.device,
                options.tiny,
                options.read,
                options.rows.parent,
            )
        for row in rows:
            file.write(encode(row) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
