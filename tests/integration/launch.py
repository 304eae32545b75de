"""`python -m tests.integration.launch SPEC`: `douane serve` over parts that a test has started.

The real command refuses an emulator outside its own demo; here the test owns the emulated regions, so that it
can read their ledgers and give them faults. Everything else is the command's: logs, settings, serving.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from gateway import logs
from gateway.cli.serve import NOT_STARTED, fail, run
from gateway.egress.guard import Egress
from gateway.serving import serve
from gateway.settings import read_settings


def main(spec: dict[str, Any]) -> None:
    """`spec`: `settings`, `demo_keys`, and for a test's own composition `serve`, `module:function`."""
    logs.configure_logs()
    composition = serve
    if spec["serve"]:
        module, _, name = spec["serve"].partition(":")
        composition = getattr(import_module(module), name)
    try:
        settings = read_settings({}, **spec["settings"])
        told = lambda port: click.echo(f"listening {port}")  # noqa: E731
        if composition is serve:
            egress = Egress()
            run(serve(settings, spec["demo_keys"], told, egress=egress), egress)
        else:
            run(composition(settings, spec["demo_keys"], told))
    except NOT_STARTED as error:
        fail(error)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
