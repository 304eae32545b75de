"""What a compiled kernel is made of: its machine code's loop over the weights, its loads and its spills.

Reads what `cuobjdump` of Triton's own wheel prints, so that no CUDA toolkit and no GPU is needed.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import triton

_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_GUARD = re.compile(r"^@!?U?P\w+\s+")
_BRANCH = re.compile(r"\bBRA\b.*?0x([0-9a-f]+)")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: where it is, and what it says without its guard."""

    address: int
    text: str

    @property
    def name(self) -> str:
        """With its modifiers, such as `LDG.E.128`."""
        return self.text.split()[0]


@dataclass(frozen=True, slots=True)
class Listing:
    """The machine code of one kernel."""

    instructions: tuple[Instruction, ...]
    registers: int
    stack_bytes: int

    @property
    def spills(self) -> int:
        """Instructions that move a register to or from local memory."""
        return sum(one.name.split(".")[0] in {"LDL", "STL"} for one in self.instructions)

    def loop(self) -> tuple[Instruction, ...]:
        """The loop over the weights: of those with a 16-byte load from device memory and no loop inside, the
        longest. Raises `LookupError` where there is none."""
        loops = []
        for one in self.instructions:
            branch = _BRANCH.search(one.text)
            if branch is not None and int(branch[1], 16) <= one.address:
                first = int(branch[1], 16)
                loops.append(tuple(i for i in self.instructions if first <= i.address <= one.address))
        inner = [body for body in loops if not any(set(other) < set(body) for other in loops)]
        hot = [body for body in inner if 128 in load_widths(body)]
        if not hot:
            raise LookupError(f"none of {len(loops)} loops loads 16 bytes at a time from device memory")
        return max(hot, key=len)


def load_widths(body: tuple[Instruction, ...]) -> Counter[int]:
    """How many loads from device memory, to registers or to shared memory, of how many bits each."""
    widths: Counter[int] = Counter()
    for one in body:
        kind, *modifiers = one.name.split(".")
        if kind in {"LDG", "LDGSTS"}:
            narrow = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128}
            widths[next((narrow[part] for part in modifiers if part in narrow), 32)] += 1
    return widths


def listing(cubin: bytes) -> Listing:
    """Takes a compiled kernel's `asm["cubin"]` apart."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        code, usage = (
            subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("-sass", "-res-usage")
        )
    found = _USAGE.search(usage)
    assert found is not None, usage
    return Listing(parse(code), int(found[1]), int(found[2]))


def parse(text: str) -> tuple[Instruction, ...]:
    """The instructions of `cuobjdump -sass`."""
    found = (_INSTRUCTION.match(line) for line in text.splitlines())
    return tuple(Instruction(int(one[1], 16), _GUARD.sub("", one[2])) for one in found if one)
