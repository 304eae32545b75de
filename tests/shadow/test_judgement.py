"""What a candidate says of a request is what it would do in force; how two judgements differ."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from gateway.facts import Facts
from gateway.labels import Labels
from gateway.places import Action
from gateway.policy.permit import permit
from gateway.routing.health import FAILURES_TO_OPEN, BackendState
from gateway.shadow.disagreement import Disagreement, disagreement
from gateway.shadow.judgement import NOTHING, Asked, Here, Judgement, grants_of, judge
from gateway.shadow.tally import GROUPS_MAX, Tally, added_up
from tests.integration.bundle import DEMO, DEMO_KEYS
from tests.shadow.bundles import Bundles

ASKED = Asked(f"Bearer {DEMO}", "gpt-oss-20b", None, frozenset(), (), {}, "affinity")
NEEDED = ((Action.RECORD, "audit-files"), (Action.INFER, "gateway"))


def here(bundles: Bundles, **changes: object) -> Here:
    places = bundles.live.places
    given = Here(DEMO_KEYS, places.keys(), places.keys(), NEEDED, {}, 0.0)
    return replace(given, **changes)  # type: ignore[arg-type]


def test_a_candidate_is_asked_what_permit_and_plan_would_say(bundles: Bundles) -> None:
    """Over every set of labels that the header can hold."""
    words = bundles.live.vocabulary
    for sensitivity, personal, health in product(words.scale, (False, True), (False, True)):
        named = [sensitivity, *(["personal"] if personal else []), *(["health"] if health else [])]
        judged = judge(replace(ASKED, declared=", ".join(named)), bundles.live, here(bundles))

        facts = Facts("demo", "DE", "general", "gpt-oss-20b", words.from_names(named))
        permitted = permit(facts, bundles.live)
        served = all(permitted.allows(action, place) for action, place in NEEDED)
        if not served or not permitted.places[Action.INFER]:
            assert judged.refused == "residency_denied"
            continue
        assert (judged.refused, judged.labels) == (None, facts.labels.names())
        assert judged.grants == grants_of(permitted, bundles.live.places.keys())
        assert judged.first in permitted.places[Action.INFER]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (replace(ASKED, authorization=None), "invalid_api_key"),
        (replace(ASKED, authorization="Bearer nobody's"), "invalid_api_key"),
        (replace(ASKED, model="gpt-5"), "model_not_found"),
        (replace(ASKED, declared="top-secret"), "unknown_label"),
    ],
)
def test_what_a_bundle_does_not_know_is_a_refusal_with_the_clients_code(
    bundles: Bundles, asked: Asked, code: str
) -> None:
    assert judge(asked, bundles.live, here(bundles)) == Judgement(code)


def test_labels_that_the_conversation_brought_and_detectors_found_join(bundles: Bundles) -> None:
    asked = replace(ASKED, past=frozenset({"confidential"}), detected=("email",))

    judged = judge(asked, bundles.live, here(bundles))

    assert judged.labels == ("confidential", "personal")


def test_a_place_that_is_down_is_not_the_first_one(bundles: Bundles) -> None:
    first = judge(ASKED, bundles.live, here(bundles)).first
    assert first is not None
    down = {first: BackendState(failures=FAILURES_TO_OPEN, open_until_s=60.0)}

    other = judge(ASKED, bundles.live, here(bundles, states=down))

    assert other.first not in (None, first)
    assert other.grants == judge(ASKED, bundles.live, here(bundles)).grants


LIVE = Judgement(
    None, "r1", "gpt-oss-20b", "DE", ("public",),
    frozenset({("infer", "here"), ("infer", "paris"), ("cache", "store")}), "here",
)  # fmt: skip
REFUSED = Judgement("residency_denied", "r2", "gpt-oss-20b", "DE", ("public",))


@pytest.mark.parametrize(
    ("live", "candidate", "kind"),
    [
        (LIVE, LIVE, None),
        (REFUSED, REFUSED, None),
        (LIVE, replace(LIVE, rule="another"), None),
        (LIVE, REFUSED, "newly_refused"),
        (REFUSED, LIVE, "newly_allowed"),
        (REFUSED, replace(REFUSED, rule="another"), "other_refusal"),
        (LIVE, replace(LIVE, grants=LIVE.grants | {("infer", "virginia")}), "wider"),
        (LIVE, replace(LIVE, grants=LIVE.grants | {("log", "logs")}), "wider"),
        (LIVE, replace(LIVE, grants=LIVE.grants - {("cache", "store")}), "narrower"),
        (LIVE, replace(LIVE, grants=LIVE.grants - {("cache", "store")} | {("log", "x")}), "other_places"),
        (LIVE, replace(LIVE, first="paris"), "other_first"),
        (LIVE, replace(LIVE, labels=("internal",)), "other_labels"),
    ],
)
def test_each_difference_has_one_word(live: Judgement, candidate: Judgement, kind: str | None) -> None:
    found = disagreement(live, candidate)

    assert (found.kind if found else None) == kind


def test_a_disagreement_says_both_sides_and_what_is_gained_and_lost() -> None:
    candidate = replace(
        LIVE, grants=LIVE.grants - {("cache", "store")} | {("infer", "virginia")}, first="paris"
    )

    assert disagreement(LIVE, candidate) == Disagreement(
        "other_places", "gpt-oss-20b", "DE", ("public",), "here", "r1", "paris", "r1",
        ("infer at virginia",), ("cache at store",),
    )  # fmt: skip
    assert REFUSED.grants == NOTHING


def test_a_tally_groups_counts_and_stays_bounded() -> None:
    tally = Tally("sha256:a", "sha256:b", 8)
    same = disagreement(LIVE, REFUSED)
    for number in range(3):
        tally.add(same, f"2026-01-01T00:00:0{number}.000000Z", f"req_{number}", listed=True)
    for number in range(GROUPS_MAX + 5):
        tally.add(disagreement(LIVE, replace(REFUSED, rule=f"r{number + 10}")), "t", None, listed=True)
    tally.add(same, "t", None, listed=False)
    tally.add(None, "t", None, listed=True)

    assert tally.judged == 3 + GROUPS_MAX + 5 + 2
    assert tally.kinds == {"newly_refused": 3 + GROUPS_MAX + 5 + 1}
    assert len(tally.groups) == GROUPS_MAX
    assert tally.unlisted == 6 + 1
    assert same is not None
    group = tally.groups[same]
    assert (group.count, group.first, group.last, group.request) == (
        3, "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:02.000000Z", "req_0",
    )  # fmt: skip


def test_the_counts_of_workers_add_up_and_others_are_left_out() -> None:
    one, two = Tally("sha256:a", "sha256:b", 8), Tally("sha256:a", "sha256:b", 8)
    stale = Tally("sha256:older", "sha256:b", 8)
    for tally, count in ((one, 1), (two, 2), (stale, 4)):
        for _ in range(count):
            tally.add(disagreement(LIVE, REFUSED), f"t{count}", None, listed=True)
    two.add(None, "t", None, listed=True)

    total = added_up([one.saved(), two.saved(), stale.saved()], "sha256:a", "sha256:b", 8)

    assert (total.judged, total.disagreements, total.kinds) == (4, 3, {"newly_refused": 3})
    (group,) = total.groups
    assert (group.count, group.first, group.last) == (3, "t1", "t2")


def test_labels_are_those_of_the_bundle_that_knows_them() -> None:
    assert Labels("public", frozenset()).names() == ("public",)
