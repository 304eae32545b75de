"""The progress of a load: a bar on a terminal, one plain line elsewhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from local_engine.footprint import size


class Loading:
    """Called with a tensor's name and bytes after each tensor; a context manager around the load.

    `total_bytes` is what the checkpoint holds. Everything goes to `console`, which is the standard error.
    """

    def __init__(self, total_bytes: int, console: Console) -> None:
        self._console = console
        self._loaded_bytes = 0
        self._began_s = time.monotonic()
        self._stack = ExitStack()
        columns = (
            TextColumn("loading"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[tensor]}"),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("loading", total=total_bytes, tensor="")

    def __call__(self, name: str, count: int) -> None:
        """One more tensor is there."""
        self._loaded_bytes += count
        self._bar.update(self._task, advance=count, tensor=name)

    def __enter__(self) -> Loading:
        self._stack.enter_context(self._bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is None:
            took_s = time.monotonic() - self._began_s
            self._console.out(f"loaded {size(self._loaded_bytes)} in {took_s:.1f} s", highlight=False)
