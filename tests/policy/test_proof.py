"""The proof of claims: it agrees with brute force, and what it finds is the smallest there is."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.labels import Labels, Vocabulary
from gateway.policy.claims import Claim, Never
from gateway.policy.proof import prove
from gateway.policy.witness import Result
from tests.policy.brute_force import Broken, BruteForce
from tests.policy.made_up import bundles, claims

BUNDLES = 500


def as_broken(result: Result) -> Broken | None:
    """The witness of a proof in the words of the brute force."""
    found = result.witness
    if found is None:
        return None
    rules = frozenset((one.action, one.place, one.verdict.rule) for one in found.rules)
    return Broken(
        found.who.tenant, found.who.zone, found.purpose, found.model, found.labels,
        found.action, found.place, found.entrance, rules,
    )  # fmt: skip


def least_of(claim: Claim, vocabulary: Vocabulary) -> Labels | None:
    """The least labels that a claim without `labels_any` is about; None of one with it."""
    if claim.facts.labels_any is not None:
        return None
    return Labels(
        claim.facts.sensitivity_at_least or vocabulary.scale[0], claim.facts.labels_all or frozenset()
    )


def kind(claim: Claim) -> str:
    return "never" if isinstance(claim.says, Never) else f"always {claim.says.action}"


def test_the_proof_agrees_with_brute_force_on_500_made_up_bundles() -> None:
    """Which claims hold, the smallest request that breaks each other one, and the rules that decide there."""
    seen: Counter[tuple[str, bool]] = Counter()
    beyond: Counter[str] = Counter()
    bundles_seen = 0

    @settings(
        max_examples=BUNDLES, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def agrees(data: st.DataObject) -> None:
        nonlocal bundles_seen
        bundle = data.draw(bundles(labels_in_permits=data.draw(st.booleans())))
        said = data.draw(claims(bundle))
        every = BruteForce(bundle)
        proof = prove(bundle, said)
        assert [as_broken(result) for result in proof.results] == [every.smallest(claim) for claim in said]
        bundles_seen += 1
        for claim, witness in ((result.claim, result.witness) for result in proof.results):
            seen[kind(claim), witness is None] += 1
            # Broken by requests that carry something, and not by those that carry less.
            beyond[kind(claim)] += witness is not None and witness.labels != least_of(
                claim, bundle.vocabulary
            )

    agrees()

    assert bundles_seen >= BUNDLES
    assert beyond["always infer"] >= 20, beyond
    assert beyond["never"] >= 5, beyond
    assert all(
        seen[kind, holds] >= 20
        for kind in ("never", "always infer", "always record")
        for holds in (True, False)
    ), seen
