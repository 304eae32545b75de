"""`douane policy canary`: what it shows, what it refuses, and what it leaves on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli.policy import policy
from gateway.policy.load import load_bundle
from gateway.receipts.keys import create_key
from gateway.shadow.disagreement import Disagreement, Kind
from gateway.shadow.tally import Tally, save
from tests.shadow.bundles import Bundles, candidate

MONDAY = "2026-11-30T08:00:00.000000Z"


class Site:
    """A live bundle, a candidate, and what workers have counted."""

    def __init__(self, root: Path, bundles: Bundles, *, linked: bool) -> None:
        self.root = root
        self.live = root / "policies"
        self.next = root / "next"
        if linked:
            candidate(bundles.directory, root / "releases-7")
            candidate(root / "releases-7", root / "releases-8")
            self.live.symlink_to("releases-7")
            self.next.symlink_to("releases-8")
        else:
            candidate(bundles.directory, self.live)
            candidate(self.live, self.next)

    def count(self, *kinds: Kind, failed: int = 0, worker: str = "a" * 16) -> None:
        """As a worker writes it down: one request for each kind, and one on which both agree."""
        live, new = load_bundle(self.live), load_bundle(self.next)
        tally = Tally(live.revision, new.revision, new.serial, failed=failed)
        for kind in kinds:
            found = Disagreement(
                kind, "gpt-oss-20b", "DE", ("public", "personal"), "residency_denied", "stays",
                "paris", "may", ("infer at paris",), ("cache at store",),
            )  # fmt: skip
            tally.add(found, MONDAY, f"req_{kind}", listed=True)
        tally.add(None, MONDAY, None, listed=True)
        save(self.root / "state" / "shadow", worker, tally.saved())

    def canary(self, *arguments: str) -> Result:
        paths = [
            "--policies",
            str(self.live),
            "--shadow",
            str(self.next),
            "--state-dir",
            str(self.root / "state"),
        ]
        return CliRunner().invoke(policy, ["canary", *paths, *arguments], catch_exceptions=False)


@pytest.fixture
def site(tmp_path: Path, bundles: Bundles) -> Site:
    return Site(tmp_path, bundles, linked=False)


def test_status_shows_what_all_workers_counted(site: Site) -> None:
    live, new = load_bundle(site.live), load_bundle(site.next)
    site.count("newly_allowed", "other_first")
    site.count("newly_allowed", worker="b" * 16)

    text, document = site.canary("status"), site.canary("status", "--format", "json")

    assert (text.exit_code, document.exit_code) == (1, 1)
    assert text.output.splitlines()[:9] == [
        f"live       {live.revision} (serial {live.serial})",
        f"candidate  {new.revision} (serial {new.serial})",
        "judged     5 requests, 3 otherwise",
        "        2  newly_allowed",
        "        1  other_first",
        "2 × newly_allowed: gpt-oss-20b, DE, public, personal",
        "    live       residency_denied by stays",
        "    candidate  paris by may",
        "    gained     infer at paris",
    ]
    said = json.loads(document.output)
    assert (said["judged"], said["kinds"]) == (5, {"newly_allowed": 2, "other_first": 1})
    assert said["groups"][0]["request"] == "req_newly_allowed"


def test_status_of_a_candidate_that_agrees_ends_with_0(site: Site) -> None:
    site.count()

    result = site.canary("status")

    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "judged     1 requests, 0 otherwise")


def test_a_candidate_that_agrees_is_promoted_and_the_one_before_is_kept(site: Site) -> None:
    live, new = load_bundle(site.live), load_bundle(site.next)
    site.count()

    result = site.canary("promote")

    kept = site.root / f"policies.previous-{live.serial}"
    assert (result.exit_code, result.output) == (
        0, f"promoted: {new.revision} (serial {new.serial}) is live; the one before is kept in {kept}\n",
    )  # fmt: skip
    assert load_bundle(site.live).revision == new.revision
    assert load_bundle(kept).revision == live.revision
    assert not site.next.exists()


def test_links_are_pointed_elsewhere_in_one_step_and_releases_stay(tmp_path: Path, bundles: Bundles) -> None:
    site = Site(tmp_path, bundles, linked=True)
    site.count()

    result = site.canary("promote", "--format", "json")

    assert json.loads(result.output)["promoted"] is True
    assert os.readlink(site.live) == "releases-8"
    assert not site.next.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"policies", "releases-7", "releases-8", "state"}


@pytest.mark.parametrize(
    ("kinds", "failed", "arguments", "reason"),
    [
        ((), 0, ("--min-requests", "2"), "1 requests were judged, and `--min-requests` asks for 2"),
        (("newly_allowed",), 0, (), "for 1 requests the candidate permits what the live bundle does not"),
        (("wider", "other_places"), 0, (), "for 2 requests the candidate permits what"),
        ((), 3, (), "3 requests could not be judged"),
    ],
)
def test_what_speaks_against_a_promotion_is_said_and_nothing_moves(
    site: Site, kinds: tuple[Kind, ...], failed: int, arguments: tuple[str, ...], reason: str
) -> None:
    site.count(*kinds, failed=failed)
    before = load_bundle(site.live).revision

    result = site.canary("promote", *arguments)

    assert result.exit_code == 1
    assert f"not promoted: {reason}" in result.output
    assert load_bundle(site.live).revision == before
    assert site.next.exists()


def test_more_may_be_permitted_on_purpose_and_less_needs_no_word(site: Site) -> None:
    site.count("newly_refused", "narrower", "newly_allowed")

    assert site.canary("promote").exit_code == 1
    assert site.canary("promote", "--accept-newly-allowed").exit_code == 0


def test_a_serial_that_does_not_grow_is_not_promoted(site: Site) -> None:
    (site.next / "bundle.yaml").write_text((site.live / "bundle.yaml").read_text() + "# other\n")
    site.count()

    result = site.canary("promote")

    assert result.exit_code == 1
    assert "is not above the live one's" in result.output


def test_a_candidate_that_does_not_load_is_not_promoted_and_can_be_dropped(site: Site) -> None:
    (site.next / "routes.yaml").write_text("routes: nonsense\n")

    refused, dropped = site.canary("promote"), site.canary("drop")

    assert refused.exit_code == 3
    assert "routes.yaml:1" in refused.output
    assert (dropped.exit_code, dropped.output) == (
        0, f"dropped: the candidate is in {site.root}/next.dropped-broken\n",
    )  # fmt: skip


def test_a_candidate_whose_claims_fail_is_not_promoted(site: Site) -> None:
    (site.next / "claims.yaml").write_text("- id: no-copies\n  basis: a test\n  never: [cache]\n")

    result = site.canary("promote")

    assert result.exit_code == 1
    assert "no-copies" in result.output


def test_a_dropped_candidate_is_moved_aside_and_a_second_one_beside_it(site: Site) -> None:
    revision = load_bundle(site.next).revision.removeprefix("sha256:")[:12]

    first = site.canary("drop", "--format", "json")
    candidate(site.live, site.next)
    second = site.canary("drop")
    third = site.canary("drop")

    assert json.loads(first.output)["moved_to"] == f"{site.root}/next.dropped-{revision}"
    assert second.output == f"dropped: the candidate is in {site.root}/next.dropped-{revision}.2\n"
    assert (third.exit_code, third.output) == (3, f"error: there is no candidate at `{site.next}`\n")


def test_a_command_without_a_candidate_says_how_to_name_one(tmp_path: Path) -> None:
    result = CliRunner().invoke(policy, ["canary", "status"], catch_exceptions=False)

    assert (result.exit_code, result.output) == (
        3, "error: no candidate is named; set DOUANE_SHADOW_POLICIES or give `--shadow DIR`\n",
    )  # fmt: skip


def test_a_candidate_that_nobody_trusted_signed_is_not_promoted_where_keys_are_trusted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = create_key(site.root / "signer.pem")
    (site.root / "trusted.pem").write_bytes(key.public.pem())
    monkeypatch.setenv("DOUANE_POLICY_TRUSTED_KEYS", str(site.root / "trusted.pem"))
    site.count()

    unsigned = site.canary("promote")
    signed = CliRunner().invoke(policy, ["sign", str(site.next), "--key", str(site.root / "signer.pem")])
    promoted = site.canary("promote")

    assert unsigned.exit_code == 1
    assert "not promoted: the gateway would not take it" in unsigned.output
    assert (signed.exit_code, promoted.exit_code) == (0, 0), signed.output + promoted.output
