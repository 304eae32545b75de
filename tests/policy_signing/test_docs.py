"""docs/signed-policies.md says what is so."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from gateway.policy.problems import (
    PolicyClaimsFailed,
    PolicyInvalid,
    PolicyTestsFailed,
    Problem,
    reason_of,
)
from gateway.policy.serials import SerialFile
from gateway.policy.signatures import Judged, Standing, Statement
from gateway.policy.summary import Summary
from gateway.policy.trust import refusal
from tests.policy.test_docs import rows
from tests.policy_signing.signing import ANN
from tests.policy_signing.test_serials import refusal as serial_refusal

PAGE = (Path(__file__).parents[2] / "docs" / "signed-policies.md").read_text()


def first_cells(heading: str) -> set[str]:
    return {row[0].strip("`") for row in rows(heading, PAGE)}


def test_the_table_of_reasons_is_all_that_the_audit_may_say() -> None:
    problem = Problem("bundle.yaml", 0, None, "m", "h")
    trust = trust_reasons()
    others = (PolicyInvalid([problem]), PolicyTestsFailed(("f",)), PolicyClaimsFailed([problem]), OSError())

    assert first_cells("## What an auditor sees") == {*trust, *(reason_of(one) for one in others), "serial"}


def trust_reasons() -> set[str]:
    bad = Judged("signatures/x.jws", Standing.ALTERED, "it does not fit", ANN.kid)
    return {
        refusal((), (), 1).reason,
        refusal((bad,), (), 1).reason,
        refusal((bad,), (ANN.kid,), 2).reason,
    }


def test_the_statement_that_is_shown_is_the_one_that_is_signed() -> None:
    assert first_cells("## The signature") == {"v", *(field.name for field in fields(Statement))}


def test_the_summary_that_is_shown_has_every_field() -> None:
    for field in fields(Summary):
        assert f'"{field.name}"' in PAGE


def test_the_refusal_that_is_shown_is_the_one_that_is_printed(tmp_path: Path) -> None:
    SerialFile(tmp_path).advance("sha256:41f…", 7)
    said = serial_refusal(tmp_path, "sha256:other", 6)

    assert f"douane: {said.replace(str(tmp_path), '/var/lib/douane')}" in PAGE
