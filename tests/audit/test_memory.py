"""The sink that tests use is the same chain."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.audit.base import AuditSink
from gateway.audit.chain import GENESIS
from gateway.audit.memory import MemoryAudit
from gateway.audit.verify import verify_files
from gateway.clock import ManualClock
from gateway.errors import RecordUnavailable

from . import samples


async def test_what_is_appended_is_chained_and_can_be_read_back(tmp_path: Path) -> None:
    audit = MemoryAudit(replica="aa", clock=ManualClock())
    sink: AuditSink = audit
    assert sink.head == GENESIS

    for sample in samples.ALL:
        await sink.append(sample.kind, sample.fields())

    assert [(r.sequence, r.kind, r.replica) for r in audit.records] == [
        (number, sample.kind, "aa") for number, sample in enumerate(samples.ALL, start=1)
    ]
    assert sink.head.hash == audit.records[-1].hash
    (tmp_path / "chain").write_bytes(b"".join(audit.lines))
    (report,) = verify_files([tmp_path / "chain"])
    assert (report.intact, report.records, report.unfinished) == (True, 9, ())
    await sink.aclose()


async def test_a_sink_that_is_not_writable_refuses_and_takes_up_again_without_a_gap() -> None:
    audit = MemoryAudit()
    await audit.append("begin", {})
    audit.writable = False

    with pytest.raises(RecordUnavailable, match="cannot be written"):
        await audit.append("end", {})

    audit.writable = True
    assert (await audit.append("end", {})).sequence == 2
