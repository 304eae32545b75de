"""The auditor's walk of the documentation, as it stands."""

from __future__ import annotations

import subprocess

import pytest

from tests.docs.snippets import ROOT
from tests.docs.stack import commands_environment, free_ports


@pytest.mark.needs("curl")
def test_the_walk_verifies_an_answer_finds_what_was_planted_and_confirms_an_erasure() -> None:
    port, engine_port = free_ports(2)
    environment = commands_environment() | {
        "DOUANE_PORT": str(port), "DOUANE_ENGINE_PORT": str(engine_port),
    }  # fmt: skip

    done = subprocess.run(
        ["docs/auditor.sh"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    said = " ".join(done.stdout.split())  # tables wrap
    steps = [
        "verified: signed by a pinned key",
        "the receipt is genuine, but it is not about this answer",
        "why did it go where it went?",
        "anchored up to record",
        "the files and the key find nothing ... intact",
        "the clients' receipts do altered",
        ": rewritten: record",
        "tenant_erased",
        "tenant_shredded",
        "== done",
    ]
    places = [said.find(step) for step in steps]
    assert -1 not in places, [step for step, place in zip(steps, places, strict=True) if place == -1]
    assert places == sorted(places)
