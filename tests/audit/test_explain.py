"""`douane explain`: every place, the rule for each, and what the plan saw, from the audit's files alone."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.audit.chain import GENESIS, seal
from gateway.cli.explain import explain
from gateway.opening import RECEIPT_KEY
from gateway.receipts.keys import load_signing_key

from .traffic import FRANKFURT, LOCAL, VIRGINIA, Traffic

PREMISES = "our-premises-serve-every-tenant"
CLOUD = "european-and-us-tenants-may-use-bedrock"


def douane(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(explain, [str(one) for one in arguments], input=given, catch_exceptions=False)


def told(traffic: Traffic, what: str) -> dict[str, Any]:
    result = douane(traffic.ids[what], "--audit", traffic.audit, "--format", "json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.output)
    return document


def candidate(document: dict[str, Any], place: str) -> dict[str, Any]:
    (found,) = [one for one in document["candidates"] if one["place"] == place]
    return {name: found[name] for name in ("allowed", "rule", "order", "skipped", "saw", "tried")}


@pytest.fixture
def public_key(traffic: Traffic, tmp_path: Path) -> Path:
    key = tmp_path / "public.pem"
    key.write_bytes(load_signing_key(traffic.state / RECEIPT_KEY).public.pem())
    return key


def test_a_request_that_spilled_over_is_told_in_words(traffic: Traffic) -> None:
    result = douane(traffic.ids["spilled"], "--audit", traffic.audit)
    begin = traffic.record("spilled", "begin")

    assert result.exit_code == 0
    assert result.output.splitlines()[:18] == [
        f"request {traffic.ids['spilled']}",
        f"  asked by tenant `demo` (DE) at {begin.time}",
        "  for the model `gpt-oss-20b`, for the purpose `general`",
        "  judged to carry: public",
        f"  judged under policy {begin.fields['revision']} (serial 1)",
        f"  recorded as number {begin.sequence} of replica {begin.replica} "
        f"({traffic.chain}:{begin.sequence}), hash {begin.hash}",
        "",
        "outcome: answered (HTTP status 200, at bedrock-frankfurt)",
        f"decided by: {CLOUD}, {PREMISES}",
        "",
        "where a model could have answered, in the order of route `everyone`:",
        f"  1. {FRANKFURT}: allowed by rule `{CLOUD}`",
        "     the plan saw: tier 2; nothing was under way there, and nothing had failed",
        "     asked instead of a place that had too much to do: it answered",
        f"  2. {VIRGINIA}: allowed by rule `{CLOUD}`",
        "     the plan saw: tier 4; nothing was under way there, and nothing had failed",
        "     its turn did not come",
        f"  3. {LOCAL}: allowed by rule `{PREMISES}`",
    ]
    assert (
        "     the plan saw: tier 1; it makes 2 answers at once; 7 waited; "
        "others come first when more than 4 wait, and they did" in result.output.splitlines()
    )
    assert "  audit-files: metadata is recorded: allowed by rule `" + PREMISES in result.output


def test_the_same_as_json_holds_the_numbers_that_the_plan_saw(traffic: Traffic) -> None:
    document = told(traffic, "spilled")

    assert (document["outcome"], document["answered_at"], document["receipt_verified"]) == (
        "answered",
        FRANKFURT,
        None,
    )
    assert candidate(document, LOCAL) == {
        "allowed": True,
        "rule": PREMISES,
        "order": 3,
        "skipped": "",
        "saw": {"tier": 1, "spill_over": 4, "slots": 2, "queued": 7},
        "tried": [],
    }
    assert candidate(document, "bedrock-ireland")["skipped"] == "unconfigured"


def test_each_forbidden_place_names_the_rule_that_forbids_it(traffic: Traffic) -> None:
    document = told(traffic, "personal")

    assert {
        one["place"]: one["rule"] for one in document["candidates"] if not one["allowed"]
    } == dict.fromkeys(
        ["bedrock-london", VIRGINIA, "bedrock-ohio"], "personal-data-of-eea-tenants-stays-in-the-eea"
    )


def test_an_open_breaker_is_told_with_its_failures_and_the_time_that_was_left(traffic: Traffic) -> None:
    document = told(traffic, "broken")
    local = candidate(document, LOCAL)

    assert (document["outcome"], document["code"]) == ("failed", "permitted_backend_saturated")
    assert (local["order"], local["skipped"], local["saw"]["failures"]) == (None, "unavailable", 3)
    assert 0 < local["saw"]["open_ms"] <= 2000
    assert candidate(document, FRANKFURT)["tried"] == [{"kind": "first", "outcome": "saturated"}]


def test_a_refusal_is_explained_as_well(traffic: Traffic) -> None:
    result = douane(traffic.ids["denied"], "--audit", traffic.audit)

    assert result.exit_code == 0
    assert "outcome: refused; nothing left the gateway (HTTP status 403, `residency_denied`)" in result.output
    assert "  -  bedrock-frankfurt: denied by rule `secret-stays-on-the-premises`" in result.output
    assert "     not tried: this gateway has no connection to it" in result.output


def test_an_answer_from_the_cache_has_candidates_and_no_numbers(traffic: Traffic) -> None:
    document = told(traffic, "cached")

    assert (document["outcome"], document["route"]) == ("cached", None)
    assert candidate(document, LOCAL)["allowed"]
    assert all(one["saw"] == {} and one["order"] is None for one in document["candidates"])


def test_a_request_that_was_malformed_had_no_place_considered(traffic: Traffic) -> None:
    result = douane(traffic.ids["malformed"], "--audit", traffic.audit)

    assert result.exit_code == 0
    assert "no place was considered" in result.output


@pytest.mark.parametrize("by", ["receipt", "file", "stdin", "receipt id"])
def test_a_receipt_or_its_id_leads_to_the_record(traffic: Traffic, tmp_path: Path, by: str) -> None:
    saved = tmp_path / "headers.txt"
    saved.write_text(f"x-request-id: x\nx-douane-receipt: {traffic.receipts['personal']}\n")
    source = {
        "receipt": traffic.receipts["personal"],
        "file": str(saved),
        "stdin": "-",
        "receipt id": traffic.record("personal", "end").fields["receipt"],
    }[by]

    result = douane(source, "--audit", traffic.chain, given=saved.read_text())

    assert result.exit_code == 0
    assert result.output.startswith(f"request {traffic.ids['personal']}\n")


def test_a_receipt_is_checked_with_a_key_first(traffic: Traffic, public_key: Path, tmp_path: Path) -> None:
    genuine = traffic.receipts["spilled"]
    head, payload, signature = genuine.split(".")
    forged = ".".join((head, payload, signature[:-4] + ("AAAA" if signature[-4:] != "AAAA" else "BBBB")))

    right = douane(genuine, "--audit", traffic.audit, "--key", public_key)
    wrong = douane(forged, "--audit", traffic.audit, "--key", public_key)
    bare = douane(traffic.ids["spilled"], "--audit", traffic.audit, "--key", public_key)

    assert (right.exit_code, wrong.exit_code, bare.exit_code) == (0, 1, 3)
    assert (
        right.output.splitlines()[1] == "  the receipt is genuine, and names the very record that was found"
    )
    assert "the signature does not fit" in wrong.output


def test_the_bundle_of_the_same_revision_adds_basis_and_file(traffic: Traffic, tmp_path: Path) -> None:
    result = douane(traffic.ids["personal"], "--audit", traffic.audit, "--policies", traffic.policies)
    other = tmp_path / "policies"
    shutil.copytree(traffic.policies, other)
    (other / "bundle.yaml").write_text((other / "bundle.yaml").read_text() + "# another\n")
    refused = douane(traffic.ids["personal"], "--audit", traffic.audit, "--policies", other)

    assert result.exit_code == 0
    (line,) = [one for one in result.output.splitlines() if "bedrock-london" in one]
    assert "by rule `personal-data-of-eea-tenants-stays-in-the-eea`, on the basis of GDPR" in line
    assert "(residency/" in line
    assert refused.exit_code == 3
    assert "decided about this request: check it out" in refused.output


def test_what_is_not_there_exits_1_and_what_cannot_be_read_3(traffic: Traffic, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text("not an audit\n")
    unknown = "req_" + "0" * 32

    assert douane(unknown, "--audit", traffic.audit).exit_code == 1
    assert douane("rcpt_" + "0" * 32, "--audit", traffic.audit).exit_code == 1
    assert douane(unknown).exit_code == 3
    assert douane(unknown, "--audit", tmp_path / "other.jsonl").exit_code == 3
    assert douane(unknown, "--audit", tmp_path / "missing").exit_code == 3
    assert douane(tmp_path / "missing", "--audit", traffic.audit).exit_code == 3


def test_a_record_that_was_altered_is_not_shown_as_the_truth(traffic: Traffic, tmp_path: Path) -> None:
    copy = tmp_path / "chain.jsonl"
    copy.write_bytes(traffic.chain.read_bytes().replace(b'"labels":["public"]', b'"labels":["secret"]', 1))

    result = douane(traffic.ids["spilled"], "--audit", copy)

    assert result.exit_code == 3
    assert "was altered; look at the file with `douane audit verify`" in result.output


def test_a_receipt_that_names_another_record_is_not_found(traffic: Traffic, tmp_path: Path) -> None:
    """A chain written anew as a whole is intact in itself; the receipt tells."""
    head, lines = GENESIS, []
    for link in traffic.links:
        moment = datetime.fromisoformat(link.time)
        if link.sequence == 2:
            line, head = seal(link.replica, head, "stopped", moment, {"reason": "", "unfinished_count": 0})
            lines.append(line)
        line, head = seal(link.replica, head, link.kind, moment, link.fields)
        lines.append(line)
    forged = tmp_path / "chain.jsonl"
    forged.write_bytes(b"".join(lines))

    result = douane(traffic.receipts["spilled"], "--audit", forged)

    assert result.exit_code == 1
    assert "this audit is not the one that was written then" in result.output
