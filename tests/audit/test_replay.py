"""`douane audit replay`: recorded requests under another bundle, and what would have been otherwise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.audit.chain import Link
from gateway.audit.replay import NO_LABEL, NO_TENANT, NOT_SAID, OTHER_REASON, replay
from gateway.cli.audit import audit
from gateway.policy.load import load_bundle
from tests.audit.traffic import Traffic
from tests.integration.bundle import edit


@pytest.fixture
def other(traffic: Traffic, tmp_path: Path) -> Path:
    """A copy of the bundle in force, to be changed."""
    shutil.copytree(traffic.policies, tmp_path / "other")
    return tmp_path / "other"


def douane(traffic: Traffic, directory: Path, *arguments: str) -> Result:
    given = ["replay", str(traffic.audit), "--policies", str(directory), *arguments]
    return CliRunner().invoke(audit, given, catch_exceptions=False)


def groups(result: Result) -> dict[tuple[str, ...], tuple[str, int]]:
    """(tenant, labels) -> kind and count."""
    found = json.loads(result.output)["changed"]
    return {(one["tenant"], *one["labels"]): (one["kind"], one["count"]) for one in found}


def test_under_the_same_bundle_everything_is_decided_as_it_was(traffic: Traffic) -> None:
    result = douane(traffic, traffic.policies)

    asked = [link for link in traffic.links if link.kind in ("begin", "refused")]
    said = json.loads(douane(traffic, traffic.policies, "--format", "json").output)
    assert result.exit_code == 0
    assert (said["same"], said["changed"]) == (said["replayed"], [])
    assert said["replayed"] + sum(said["left_out"].values()) == len(asked)
    assert said["left_out"] == {
        "it was turned away before it was judged": 1,  # the malformed one
        OTHER_REASON: 1,  # nobody was there to answer it
    }


def test_a_bundle_that_permits_less_shows_who_would_have_been_refused_or_bound(
    traffic: Traffic, other: Path
) -> None:
    edit(other / "residency" / "90-permits.yaml", "place_in: [EEA, GB, US]}", "place_in: [GB, US]}")

    result = douane(traffic, other, "--format", "json")

    assert result.exit_code == 1
    assert groups(result)["demo", "internal"] == ("narrower", 3)
    narrower = next(one for one in json.loads(result.output)["changed"] if one["kind"] == "narrower")
    assert "infer at bedrock-frankfurt" in narrower["lost"]
    assert narrower["gained"] == []
    assert narrower["request"] in traffic.ids.values()


def test_a_bundle_that_permits_more_shows_where_it_might_have_gone(traffic: Traffic, other: Path) -> None:
    edit(other / "residency" / "30-region.yaml",
         "when: {tenant_in: EEA, sensitivity_at_least: internal}",
         "when: {tenant_in: EEA, sensitivity_at_least: secret}")  # fmt: skip

    result = douane(traffic, other, "--format", "json")

    assert groups(result)["demo", "internal"] == ("wider", 3)
    (wider,) = [one for one in json.loads(result.output)["changed"] if one["labels"] == ["internal"]]
    assert "infer at bedrock-virginia" in wider["gained"]


def test_a_gateway_that_may_not_read_it_any_more_refuses_under_the_other_bundle(
    traffic: Traffic, other: Path
) -> None:
    (other / "residency" / "95-door.yaml").write_text(
        "- id: internal-requests-are-read-elsewhere\n  basis: a test\n  forbid: [infer]\n"
        "  when: {sensitivity_at_least: internal, place_in: [gateway]}\n"
    )

    result = douane(traffic, other)

    assert result.exit_code == 1
    assert "3 × newly_refused: demo (DE), gpt-oss-20b, internal" in result.output
    assert "    now   refused by internal-requests-are-read-elsewhere" in result.output


def test_what_the_other_bundle_says_of_every_request_of_a_key_joins(traffic: Traffic, other: Path) -> None:
    edit(other / "tenants.yaml", "labels: {default: [public]}\n\n  - id: acme-de",
         "labels: {always: [health], default: [public]}\n\n  - id: acme-de")  # fmt: skip

    result = douane(traffic, other, "--format", "json")

    assert ("demo", "public") in groups(result)
    assert all(kind in ("narrower", "other_labels") for kind, _ in groups(result).values())


def test_what_the_other_bundle_does_not_know_is_counted_with_the_reason(
    traffic: Traffic, other: Path
) -> None:
    text = (other / "tenants.yaml").read_text()
    start = text.index("  - id: globex-us")
    (other / "tenants.yaml").write_text(text[:start] + text[text.index("  - id: nhs-gb") :])

    found = replay(traffic.links, load_bundle(other))

    assert found.left_out[NO_TENANT] == 1


def test_a_record_of_an_earlier_version_or_with_a_label_that_is_gone_is_left_out(traffic: Traffic) -> None:
    begin = traffic.record("answered", "begin")
    bundle = load_bundle(traffic.policies)

    def changed(**fields: object) -> Link:
        return replace(begin, fields={**begin.fields, **fields})

    assert replay([changed(considered=None)], bundle).left_out == {NOT_SAID: 1}
    assert replay([changed(labels=["top-secret"])], bundle).left_out == {NO_LABEL: 1}


def test_a_bundle_that_does_not_load_and_a_path_that_is_not_there_exit_3(
    traffic: Traffic, other: Path, tmp_path: Path
) -> None:
    (other / "routes.yaml").write_text("routes: nonsense\n")

    assert douane(traffic, other).exit_code == 3
    missing = CliRunner().invoke(
        audit, ["replay", str(tmp_path / "none"), "--policies", str(traffic.policies)]
    )
    assert missing.exit_code == 3
