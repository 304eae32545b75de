"""The GPU bench where there is no GPU: it says so, and its rehearsal on the host comes to its end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bench import gpu
from bench.gpu_kernels import TABLES, variants
from bench.gpu_rows import Result, Row, decode, encode, lines, store
from local_engine.ops.triton.configs import Config

ROOT = Path(__file__).resolve().parents[2]


def bench(folder: Path, *arguments: str, python: str = sys.executable) -> tuple[int, str, dict[str, Any]]:
    """Exit status, the table and the JSON."""
    path = folder / "gpu.json"
    command = [python, "-m", "bench.gpu", "--json", str(path), "--folder", str(folder), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_without_a_gpu_every_stage_is_not_measured_and_the_reason_is_said(tmp_path: Path) -> None:
    status, printed, kept = bench(tmp_path)

    assert status == 2
    assert printed.count("not measured: ") == 7
    assert "is built without CUDA" in printed or "there is no NVIDIA GPU here" in printed
    assert [stage["rows"] for stage in kept["stages"]] == [[]] * 7
    assert all(stage["missing"] for stage in kept["stages"])


REHEARSED = {
    1: ("reading by torch's maximum", "each further launch in it"),
    2: ("256 bytes under 256 scales", "keys and values past 2^31", "experts, a prompt of 17", "head, 5 rows"),
    3: ("4 layers, 3 rows: recorded and launched", "4 layers against plain torch", "a step of 1, context"),
    4: ("qkv, 8 rows", "attend, a window, 1 rows", "experts, 8 rows", "sample, 1 rows"),
    5: ("the engine, 8 at once", "a step of 8, context", "a prompt of 40"),
    6: ("weights", "the engine with room for one full context"),
    7: ("trace of one step", "experts.UP, 1 rows"),
}


@pytest.mark.proof
class Rehearsal:
    """A stage on the host, with tiny shapes, is the same code. Each subclass may be on another worker."""

    stages: tuple[int, ...]

    @pytest.mark.timeout(400)  # half a minute alone on a core
    def test_its_stages_come_to_their_end(self, tmp_path: Path) -> None:
        chosen = ",".join(map(str, self.stages))
        status, printed, kept = bench(tmp_path, "--rehearse", "--patience", "4", "--stages", chosen)
        stages = {stage["number"]: stage for stage in kept["stages"]}

        assert status == 1
        assert printed.startswith("REHEARSAL on the host with tiny shapes: no number below is a measurement")
        for number in self.stages:
            assert stages[number]["missing"] is None, stages[number]
            for start in REHEARSED[number]:
                assert any(row["what"].startswith(start) for row in stages[number]["rows"]), start
            assert not any(row["failed"] for row in stages[number]["rows"])
        assert {n for n, stage in stages.items() if stage["missing"] == "not run"} == {*range(1, 8)} - {
            *self.stages
        }


class TestMachineAndChecks(Rehearsal):
    """Reading and launching; kernels against plain torch."""

    stages = (1, 2)


class TestRecordedSteps(Rehearsal):
    """Steps by themselves and in an engine."""

    stages = (3,)


class TestOperationsAndTuning(Rehearsal):
    """Each operation, and other ways to launch it."""

    stages = (4, 7)


class TestBatches(Rehearsal):
    """Batches, a long context, prompts."""

    stages = (5,)


class TestTheLargeModel(Rehearsal):
    """120b."""

    stages = (6,)


def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, deadline_s: float = 30.0) -> Result:
    """A stage whose process runs some code in place of the bench's; ROWS is the path of its rows."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nshift 6\nROWS=\"$1\" exec {sys.executable} -c '{code}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    run = gpu.Run("cuda", False, tmp_path, 1.0)
    return gpu.measure(run, gpu.Stage(1, "A stage", deadline_s), None)


WRITES = 'import os; open(os.environ["ROWS"], "w").write({text}); '
GOOD = encode(Row("reading", {"GB/s": 5.0})) + "\n"


def test_a_stage_that_hangs_is_ended_and_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = WRITES.format(text=json.dumps(GOOD + GOOD[:20])) + "import time; time.sleep(600)"
    result = staged(tmp_path, monkeypatch, code.replace("'", "'\\''"), deadline_s=3.0)

    assert result.missing == "it had not ended at the deadline"
    assert result.rows == [Row("reading", {"GB/s": 5.0})]
    assert "   the rest not measured: it had not ended at the deadline" in lines(
        {"rehearsal": False}, [result]
    )


def test_a_stage_that_crashes_says_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = staged(tmp_path, monkeypatch, 'raise SystemExit("out of memory, say")')

    assert result.missing == "it failed with status 1: out of memory, say"
    assert "   not measured: it failed with status 1: out of memory, say" in lines(
        {"rehearsal": False}, [result]
    )
    assert gpu.reading([result]) is None


def test_a_stage_in_which_a_check_does_not_hold_counts_as_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = encode(Row("a kernel", {"relative": 0.7}, failed=True)) + "\n"
    code = WRITES.format(text=json.dumps(GOOD + wrong))
    result = staged(tmp_path, monkeypatch, code)

    assert result.missing == "1 checks did not hold"
    assert any(line.endswith("0.7 relative FAILED") for line in lines({"rehearsal": False}, [result]))


def test_whoever_ends_the_bench_ends_its_stage_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--rehearse", "--stages", "3", "--folder", str(tmp_path)]
    process = subprocess.Popen([*command, "--json", str(tmp_path / "gpu.json")], cwd=ROOT)
    while not (tmp_path / "stage-3.rows").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()

    assert process.wait(30) == 3
    assert (
        json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["stages"][2]["missing"] == "not run"
    )
    assert [line for line in processes() if str(tmp_path) in line] == []


def processes() -> Iterator[str]:
    """The command lines of all that runs here and has not ended."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


def test_a_row_survives_its_line() -> None:
    row = Row("what", {"µs": 1.5, "with": "R=64"}, failed=True, met=False)

    assert decode(encode(row)) == row


def test_what_is_kept_is_whole_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    store(path, {"date": "today"}, [Result(1, "one")])
    before = path.read_text(encoding="utf-8")
    store(path, {"date": "today"}, [Result(1, "one", missing=None, rows=[Row("it", {"µs": 1.0})])])

    assert json.loads(before)["stages"][0]["missing"] == "not run"
    assert json.loads(path.read_text(encoding="utf-8"))["stages"][0]["rows"][0]["values"] == {"µs": 1.0}
    assert [file.name for file in tmp_path.iterdir()] == ["gpu.json"]


def test_all_deadlines_together_are_less_than_eight_minutes() -> None:
    assert gpu.PROBE_S + sum(stage.deadline_s for stage in gpu.STAGES) < 8 * 60


def test_the_tables_that_are_tuned_are_those_of_the_kernels() -> None:
    for table in TABLES:
        module, _, name = table.partition(".")
        configs = getattr(import_module(f"local_engine.ops.triton.{module}"), name)

        assert all(isinstance(config, Config) for config in configs)
        assert len(list(variants(configs[0]))) > 12
        assert all(config.rows == configs[0].rows for config in variants(configs[0]))


@pytest.mark.needs("make")
def test_make_gpu_takes_the_python_that_is_there_and_makes_no_environment() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "gpu", "PYTHON=python3", "GPU_ARGS=--stages 1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.stdout == "exec python3 -m bench.gpu --stages 1\n"
