"""How kernels are launched: checked-in data, chosen by the number of rows. Nothing is tuned at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Config:
    """A launch for up to `rows` rows: tile sizes by the names of the constexprs, warps, stages, and the most
    registers of a thread where that decides how many programs a multiprocessor has room for."""

    rows: int
    sizes: Mapping[str, int]
    warps: int = 4
    stages: int = 2
    registers: int | None = None

    @property
    def options(self) -> dict[str, int]:
        """Keyword arguments of a launch."""
        limit = {} if self.registers is None else {"maxnreg": self.registers}
        return {**self.sizes, "num_warps": self.warps, "num_stages": self.stages, **limit}


def chosen(configs: Sequence[Config], rows: int) -> Config:
    """The first of `configs`, which ascend by `rows`, that takes this many; the last one takes any number."""
    return next((config for config in configs if rows <= config.rows), configs[-1])
