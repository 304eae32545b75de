"""The engine on an NVIDIA GPU: `python3 -m bench.gpu` checks and measures it, in less than eight minutes.

Needs a Python with torch, triton, numpy and safetensors, and nothing else: no environment, no network, no
checkpoint. Each stage is a process of its own with a deadline, so that one which hangs or crashes ends
nothing but itself. What is known is written as JSON after each stage; the table comes last. A stage that did
not run to its end, or in which a check did not hold, is "not measured".

Exit status: 0 all stages measured, 1 some not, 2 none.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.gpu_rows import Result, Row, decode, lines, store

ROOT = Path(__file__).resolve().parent.parent
PROBE_S = 60.0
OPERATIONS = ("qkv", "attention", "experts", "head")
CHECKS = ("decoders", "offsets", *(f"{op}-{dtype}" for dtype in ("fp32", "bf16") for op in OPERATIONS))


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the bench, and how long it may take; its parts run side by side."""

    number: int
    title: str
    deadline_s: float
    parts: tuple[str, ...] = ("",)


STAGES = (
    Stage(1, "The machine: reading, and launching nothing", 45),
    Stage(2, "Every kernel against plain torch", 110, CHECKS),
    Stage(3, "Recorded steps: 4 layers of 20b, then all at batch 1", 70),
    Stage(4, "Each operation of 20b by itself", 70),
    Stage(5, "20b at batch 8 and 64, a long context, prompts", 70),
    Stage(6, "120b in 80 GB, with one context of full length", 60),
    Stage(7, "Other launch configurations, and a trace", 40),
)


@dataclass(frozen=True, slots=True)
class Run:
    """How stages are started."""

    device: str
    tiny: bool
    folder: Path
    patience: float
    """What deadlines are multiplied with."""


def started(
    run: Run, stage: str, part: str, read: float | None, deadline_s: float
) -> tuple[list[Row], str | None]:
    """Runs a stage, or a part of it: its rows, and what it ended with if not well."""
    rows, log = (run.folder / f"stage-{stage}{part and '-' + part}.{kind}" for kind in ("rows", "log"))
    rows.write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "bench.gpu_stage", stage, "--part", part, "--rows", str(rows)]
    command += ["--device", run.device, *(["--tiny"] if run.tiny else [])]
    command += [] if read is None else ["--read", str(read)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TRITON_INTERPRET": "1" if run.device == "cpu" else "0",
    }
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(deadline_s * run.patience)
            ended = None if status == 0 else f"it failed with status {status}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended = f"it had not ended after {deadline_s * run.patience:.0f} s"
    found = []
    for line in rows.read_text(encoding="utf-8").splitlines():
        try:
            found.append(decode(line))
        except ValueError:  # the last line of a process that was killed
            break
    return found, ended


def measure(run: Run, stage: Stage, read: float | None) -> Result:
    """All parts of a stage."""
    result, began = Result(stage.number, stage.title), time.monotonic()
    parts = [part for part in stage.parts if not (run.tiny and part.endswith("bf16"))]
    with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as pool:
        outcomes = list(
            pool.map(lambda part: started(run, str(stage.number), part, read, stage.deadline_s), parts)
        )
    missing = []
    for part, (rows, ended) in zip(parts, outcomes, strict=True):
        result.rows += rows
        missing += [f"{part}: {ended}" if part else ended] if ended is not None else []
    failed = sum(row.failed for row in result.rows)
    if failed:
        missing.append(f"{failed} checks did not hold")
    result.missing = "; ".join(missing) or None
    result.seconds = time.monotonic() - began
    return result


def reading(results: Sequence[Result]) -> float | None:
    """Bytes a second of the fastest way to read that stage 1 found; None unless it was measured."""
    first = results[0]
    found = [row.values["GB/s"] for row in first.rows if "GB/s" in row.values]
    return max(map(float, found)) * 1e9 if first.measured and found else None


def _last_line(log: Path) -> str:
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return said[-1].strip() if said else "it said nothing"


def main() -> int:
    """The bench."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=ROOT / "var" / "gpu.json", help="where results go")
    parser.add_argument("--folder", type=Path, help="keeps logs and the trace there")
    parser.add_argument("--stages", default="1,2,3,4,5,6,7", help="which, like 1,3")
    parser.add_argument("--rehearse", action="store_true", help="on the host, with tiny shapes: no numbers")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies every deadline")
    options = parser.parse_args()
    wanted = {int(number) for number in options.stages.split(",")}
    about = {
        "date": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
        "rehearsal": options.rehearse,
        "python": sys.version.split()[0],
    }
    results = [Result(stage.number, stage.title) for stage in STAGES]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = Run("cpu" if options.rehearse else "cuda", options.rehearse, folder, options.patience)
        store(options.json, about, results)
        found, ended = ([], None) if options.rehearse else started(run, "probe", "", None, PROBE_S)
        missing = ended or next((str(row.values["is"]) for row in found), None)
        for number, stage in enumerate(STAGES):
            if missing is not None:
                results[number].missing = missing
            elif stage.number in wanted:
                print(f"stage {stage.number}: {stage.title} ...", file=sys.stderr, flush=True)
                results[number] = measure(run, stage, reading(results))
            store(options.json, about, results)
    print("\n".join(lines(about, results)))
    measured = sum(result.measured for result in results)
    return 0 if measured == len(results) else 1 if measured else 2


if __name__ == "__main__":
    sys.exit(main())
