"""`claims.yaml`: what may be written, what its author reads when it is wrong, and what breaks a claim."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.labels import Labels
from gateway.places import Action
from gateway.policy import prover
from gateway.policy.entrances import entrances_of, in_words
from gateway.policy.load import compile_files, load_bundle
from gateway.policy.permit import permit
from gateway.policy.problems import PolicyClaimsFailed, PolicyInvalid, Problem
from gateway.policy.proof import prove
from gateway.policy.prover import Prover, prove_apart
from gateway.policy.requests import Who
from gateway.policy.source.directory import Files
from gateway.policy.witness import Proof, Result
from tests.policy.bundles import (
    compiled,
    default_files,
    edited,
    every_facts,
    loaded_default,
    problems_of,
    write,
)

# Personal data of the EEA may go to the United Kingdom as well: one claim of the default bundle is not true.
TO_LONDON = (
    "residency/20-personal-data.yaml",
    "labels_any: [personal, health]}\n  unless: {place_in: EEA}",
    "labels_any: [personal, health]}\n  unless: {place_in: [EEA, GB]}",
)

# A second gateway, in Virginia, that may read what its operator's law may see.
VIRGINIA = """
  - id: gateway-virginia
    kind: gateway
    country: US
    operator: aws
"""


def with_claims(text: str, files: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """The default bundle (or these files) with no claims but these."""
    return {**(default_files() if files is None else files), "claims.yaml": text.encode()}


def proven(files: Mapping[str, bytes]) -> Proof:
    loaded = compiled(files)
    return prove(loaded.bundle, loaded.claims)


def only(text: str, files: Mapping[str, bytes] | None = None) -> Result:
    """What becomes of a single claim."""
    (result,) = proven(with_claims(text, files)).results
    return result


def test_every_claim_of_the_default_bundle_holds_and_is_about_something() -> None:
    proof = proven(default_files())

    assert proof.problems() == ()
    assert proof.holds
    assert len(proof.results) == len(loaded_default().claims) == 10
    assert all(result.classes > 0 for result in proof.results)
    assert all(result.claim.basis for result in proof.results)


def test_a_bundle_without_claims_loads() -> None:
    files = default_files()
    del files["claims.yaml"]

    assert compiled(files).claims == ()
    assert proven(files).holds


@pytest.mark.parametrize(
    ("old", "new", "broken"),
    [
        (
            "health]}\n  unless: {place_in: EEA}",
            "health]}\n  unless: {place_in: [EEA, US]}",
            ["personal-data-of-eea-tenants-never-leaves-the-eea"],
        ),
        (
            "unless: {place_in: [GB, EEA]}",
            "unless: {place_in: [GB, EEA, US]}",
            ["personal-data-of-uk-tenants-never-leaves-the-uk-and-the-eea"],
        ),
        (
            "labels_any: [health], purpose_in: [analytics]",
            "labels_any: [health], purpose_in: [care]",
            [
                "health-data-is-never-used-for-analytics",
                "what-may-not-leave-is-answered-on-the-premises",
            ],
        ),
    ],
)
def test_a_rule_that_says_less_breaks_just_the_claims_that_rely_on_it(
    old: str, new: str, broken: list[str]
) -> None:
    proof = proven(edited("residency/20-personal-data.yaml", old, new))

    assert [result.claim.id for result in proof.results if not result.holds] == broken


def test_what_breaks_a_never_is_shown_with_the_permit_that_lets_it() -> None:
    proof = proven(edited(*TO_LONDON))

    (result,) = [result for result in proof.results if not result.holds]
    witness = result.witness
    assert witness is not None
    assert (witness.who, witness.purpose, witness.model, witness.labels) == (
        Who("acme-de", "DE"), "care", "gpt-oss-120b", Labels("public", frozenset({"health"})),
    )  # fmt: skip
    assert (witness.action, witness.place, witness.entrance) == (Action.INFER, "bedrock-london", "gateway")
    (stands,) = witness.rules
    assert (stands.verdict.rule, stands.file, stands.line) == (
        "european-and-us-tenants-may-use-bedrock", "residency/90-permits.yaml", 10,
    )  # fmt: skip
    assert proven(edited(*TO_LONDON)).problems() == (
        Problem(
            "claims.yaml", 8, None,
            "the claim `personal-data-of-eea-tenants-never-leaves-the-eea` does not hold for tenant "
            "`acme-de` in `DE`, labels `public, health`, purpose `care`, model `gpt-oss-120b`, coming in at "
            "`gateway`: `infer` at `bedrock-london` is permitted by "
            "`european-and-us-tenants-may-use-bedrock` (residency/90-permits.yaml:10)",
            "correct the rule, or the claim if it promises too much",
        ),
    )  # fmt: skip


def test_what_breaks_an_always_is_shown_with_what_stands_against_it_at_each_place() -> None:
    result = only("- {id: c, basis: b, always: infer, when: {tenant_in: CH, labels_all: [health, personal]}}")

    witness = result.witness
    assert witness is not None
    assert (witness.who, witness.purpose, witness.labels) == (
        Who("", "CH"), "analytics", Labels("public", frozenset({"health", "personal"})),
    )  # fmt: skip
    assert (witness.place, witness.entrance) == (None, "gateway")
    assert {(one.action, one.place, one.verdict.rule) for one in witness.rules} == {
        (Action.INFER, place, "health-data-is-not-for-analytics")
        for place in [
            "gateway", "local-engine", "bedrock-frankfurt", "bedrock-ireland", "bedrock-stockholm",
            "bedrock-milan", "bedrock-london", "bedrock-virginia", "bedrock-ohio",
        ]
    }  # fmt: skip
    problem = result.problem()
    assert problem is not None
    assert "any tenant in `CH`, labels `public, health, personal`, purpose `analytics`" in problem.message
    assert (
        "`infer` at `gateway` is denied by `health-data-is-not-for-analytics` (residency/20"
        in problem.message
    )


def test_a_claim_about_a_tenant_or_country_that_has_no_rule_of_its_own_is_a_class_of_its_own() -> None:
    files = edited(
        "residency/90-permits.yaml", "tenant_in: [EEA, GB, US]", "tenant_in: [EEA, GB, US, nhs-gb]"
    )

    assert only(
        "- {id: c, basis: b, never: [infer], when: {tenant_in: JP}, outside: {place_in: DE}}", files
    ).holds
    assert not only(
        "- {id: c, basis: b, never: [infer], when: {tenant_in: FR}, outside: {place_in: DE}}", files
    ).holds
    broken = only("- {id: c, basis: b, never: [infer], when: {tenant_in: demo}, at: {place_in: IE}}", files)
    assert broken.witness is not None
    assert broken.witness.who == Who("demo", "DE")


def test_a_request_is_served_only_where_its_entrance_may_read_it() -> None:
    files = default_files()
    files["places.yaml"] += VIRGINIA.encode()
    files["residency/91-virginia.yaml"] = (
        b"- {id: virginia, permit: [infer], when: {place_in: gateway-virginia}}"
    )
    secret = "- {{id: c, basis: b, always: infer, when: {{purpose_in: care{0}}}{1}}}"

    at_any = only(secret.format("", ""), files)
    at_ours = only(secret.format("", ", entering_at: {place_in: DE}"), files)
    not_secret = only(secret.format(", labels_at_most: confidential, tenant_in: US", ""), files)

    assert at_any.witness is not None
    assert (at_any.witness.entrance, at_any.witness.labels.sensitivity) == ("gateway-virginia", "internal")
    assert {one.place for one in at_any.witness.rules} == {"gateway-virginia"}
    assert at_ours.holds
    assert not_secret.holds
    assert at_any.classes == 2 * at_ours.classes


def test_a_request_that_cannot_be_recorded_is_not_served() -> None:
    files = edited(
        "residency/90-permits.yaml", "permit: [infer, cache, log, record]", "permit: [infer, cache, log]"
    )
    result = only("- {id: c, basis: b, always: infer, when: {labels_at_most: public}}", files)

    assert result.witness is not None
    assert {(one.action, one.verdict.rule) for one in result.witness.rules} == {
        (Action.RECORD, "default-deny")
    }
    assert only("- {id: c, basis: b, always: log, when: {labels_at_most: internal}}", files).holds


def test_what_may_not_leave_needs_a_backend_of_its_own() -> None:
    text = """
- id: c
  basis: b
  always: infer
  when: {purpose_in: general}
  denied_at: {operator_under: us-cloud-act}
"""
    assert only(text).holds
    no_engine = edited("places.yaml", "models: {gpt-oss-20b: gpt-oss-20b, gpt-oss-120b: gpt-oss-120b}",
                       "models: {gpt-oss-20b: gpt-oss-20b}")  # fmt: skip
    result = only(text, no_engine)
    assert result.witness is not None
    # Nothing serves the larger model but clouds, and those may not serve tenants elsewhere.
    assert (result.witness.who, result.witness.model) == (Who("", "AD"), "gpt-oss-120b")
    assert result.witness.labels == Labels("public", frozenset())
    assert {one.verdict.rule for one in result.witness.rules} == {"default-deny"}


def test_what_no_rule_tells_apart_is_told_apart_by_the_backends_that_serve_it() -> None:
    """Both models are alike to every rule; the one that comes second is on no machine of ours."""
    both = "models: {gpt-oss-20b: gpt-oss-20b, gpt-oss-120b: gpt-oss-120b}"
    files = edited("places.yaml", both, "models: {gpt-oss-120b: gpt-oss-120b}")

    broken = only(
        "- {id: c, basis: b, always: infer, when: {tenant_in: JP, purpose_in: care}}", files
    ).witness

    assert broken is not None
    assert (broken.model, broken.labels) == ("gpt-oss-20b", Labels("public", frozenset()))


def test_what_is_denied_outside_some_places_is_what_may_not_leave_them() -> None:
    text = "- {{id: c, basis: b, always: infer, at_least_one: {{place_in: FR}}, {}, when: {{tenant_in: US}}}}"

    leaving = only(text.format("denied_outside: {operator_under: us-cloud-act}")).witness
    staying = only(text.format("denied_outside: {attested: on-premises}")).witness
    beyond_reach = only(text.format("denied_at: {operator_under: us-cloud-act}")).witness
    anywhere = only(text.format("denied_outside: {place_in: [DE, US, GB, IE, SE, IT]}")).witness

    assert leaving is not None  # health data for analytics: nobody answers it, so it does not leave either
    assert (leaving.purpose, leaving.labels.names()) == ("analytics", ("public", "health"))
    assert staying is not None
    assert staying.labels == Labels("secret", frozenset())
    assert beyond_reach is not None
    assert beyond_reach.labels == Labels("secret", frozenset())
    assert anywhere is not None
    assert anywhere.labels == Labels("public", frozenset())


def test_an_entrance_is_a_place_where_something_may_never_happen() -> None:
    files = default_files()
    files["places.yaml"] += VIRGINIA.encode()
    files["residency/91-virginia.yaml"] = (
        b"- {id: virginia, permit: [infer], when: {place_in: gateway-virginia}}"
    )
    text = "- {{id: c, basis: b, never: [infer], when: {{sensitivity_at_least: {0}}}, at: {{place_in: {1}}}}}"

    broken = only(text.format("confidential", "gateway-virginia"), files).witness

    assert broken is not None
    assert (broken.who, broken.place) == (Who("globex-us", "US"), "gateway-virginia")
    assert only(text.format("secret", "gateway-virginia"), files).holds


def test_labels_at_most_is_an_upper_bound_on_both_scale_and_categories() -> None:
    def least(when: str) -> Labels | None:
        found = only(f"- {{id: c, basis: b, never: [log], when: {{{when}}}}}").witness
        return None if found is None else found.labels

    assert least("labels_at_most: internal") == Labels("public", frozenset())
    assert least("labels_at_most: [personal], labels_any: [personal]") == Labels(
        "public", frozenset({"personal"})
    )
    assert least("labels_at_most: [internal], sensitivity_at_least: internal") == Labels(
        "internal", frozenset()
    )
    assert least("labels_at_most: [secret], sensitivity_at_least: confidential") is None


ABOVE = "what it asks for lies above `labels_at_most`; raise that, or ask for less"

# The lines of a claim after its id and basis, divided by `|`; message; hint.
WRONG = [
    (
        "never: [infer] | always: infer",
        "`c` must say `never` or `always`",
        "write one of `never: [...]` and `always: ...`",
    ),
    (
        "when: {labels_any: [health]}",
        "`c` must say `never` or `always`",
        "write one of `never: [...]` and `always: ...`",
    ),
    ("never: [infer] | at_least_one: {place_in: DE}", "`at_least_one` belongs to `always`", "remove it"),
    ("never: [infer] | denied_at: {place_in: DE}", "`denied_at` belongs to `always`", "remove it"),
    ("never: [infer] | denied_outside: {place_in: DE}", "`denied_outside` belongs to `always`", "remove it"),
    ("never: [infer] | entering_at: {place_in: DE}", "`entering_at` belongs to `always`", "remove it"),
    ("always: infer | outside: {place_in: DE}", "`outside` belongs to `never`", "remove it"),
    ("always: infer | at: {place_in: DE}", "`at` belongs to `never`", "remove it"),
    ("always: log | entering_at: {place_in: DE}", "`entering_at` belongs to `always: infer`", "remove it"),
    (
        "always: infer | entering_at: {place_in: FR}",
        "no gateway meets `entering_at` of `c`",
        "name the place or zone of one",
    ),
    ("never: [infer] | whenn: {tenant_in: DE}", "unknown key `whenn`", "did you mean `when`?"),
    (
        "never: [infer] | when: {place_in: DE}",
        "unknown key `place_in`",
        "use one of `labels_all, labels_any, labels_at_most, model_in, purpose_in, sensitivity_at_least, "
        "tenant_in`",
    ),
    (
        "never: [infer] | outside: {tenant_in: DE}",
        "unknown key `tenant_in`",
        "use one of `attested, operator_under, place_in`",
    ),
    ("never: [think]", "`think` is not a value of `0`", "use one of `cache, infer, log, record`"),
    (
        "never: [infer] | when: {labels_any: [persona]}",
        "`persona` is not a known category",
        "did you mean `personal`?",
    ),
    (
        "never: [infer] | when: {labels_any: [secret]}",
        "`secret` is not a known category",
        "`secret` is a sensitivity; write `sensitivity_at_least: secret`",
    ),
    (
        "never: [infer] | when: {labels_at_most: [pubic]}",
        "`pubic` is not a known label",
        "did you mean `public`?",
    ),
    ("never: [infer] | when: {tenant_in: UK}", "`UK` is not a known zone or tenant", "did you mean `GB`?"),
    (
        "never: [infer] | when: {model_in: gpt-oss-20}",
        "`gpt-oss-20` is not a known model",
        "did you mean `gpt-oss-20b`?",
    ),
    ("never: [infer] | when: {purpose_in: car}", "`car` is not a known purpose", "did you mean `care`?"),
    (
        "never: [infer] | at: {place_in: bedrock-dublin}",
        "`bedrock-dublin` is not a known zone or place",
        "did you mean `bedrock-milan`?",
    ),
    (
        "never: [infer] | at: {operator_under: us-cloud}",
        "`us-cloud` is not a known regime",
        "did you mean `us-cloud-act`?",
    ),
    (
        "never: [infer] | outside: {attested: premises}",
        "`premises` is not a known attestation",
        "did you mean `on-premises`?",
    ),
    ("never: [infer] | outside: {}", "`outside` is empty", "name a condition, or remove `outside`"),
    ("never: [infer] | outside:", "`outside` has no value", "give it one, or remove the key"),
    ("never: []", "`never` is empty", "name at least one, or remove the key"),
    (
        "never: [infer] | when: {labels_any: [health], labels_at_most: [secret, personal]}",
        "no labels meet `when` of `c`",
        ABOVE,
    ),
    (
        "never: [infer] | when: {sensitivity_at_least: secret, labels_at_most: [internal]}",
        "no labels meet `when` of `c`",
        ABOVE,
    ),
    (
        "never: [infer] | when: {labels_all: [health, personal], labels_at_most: [personal]}",
        "no labels meet `when` of `c`",
        ABOVE,
    ),
]


@pytest.mark.parametrize(("lines", "message", "hint"), WRONG, ids=[lines for lines, _, _ in WRONG])
def test_a_claim_that_cannot_be_meant_is_said_with_line_and_hint(lines: str, message: str, hint: str) -> None:
    written = ["- id: c", "  basis: b", *(f"  {line}" for line in lines.split(" | "))]

    (problem,) = problems_of(with_claims("\n".join(written)))

    assert (problem.file, problem.message, problem.hint) == ("claims.yaml", message, hint)
    # Where it says nothing, or two things, the whole claim is wrong; else its last line.
    assert problem.line == (1 if "must say" in message else len(written))


def test_a_claim_needs_a_basis_and_an_id_of_its_own() -> None:
    claim = "- id: c\n  basis: b\n  never: [cache]\n  when: {labels_all: [health]}\n"

    assert [p.text() for p in problems_of(with_claims("- {id: c, never: [cache]}"))] == [
        "claims.yaml:1:3: the key `basis` is missing; add `basis: ...`"
    ]
    assert [p.text() for p in problems_of(with_claims(claim + claim))] == [
        "claims.yaml:5:7: `c` is already a claim, at claims.yaml:1; give each claim its own id"
    ]
    assert [p.text() for p in problems_of(with_claims("[]"))] == [
        "claims.yaml:1:1: `claims.yaml` is empty; name at least one, or remove the key"
    ]


def test_a_bundle_whose_claims_fail_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(PolicyClaimsFailed) as raised:
        load_bundle(write(with_claims("- {id: c, basis: b, never: [cache]}"), tmp_path))

    (problem,) = raised.value.problems
    assert (problem.file, problem.line) == ("claims.yaml", 1)
    assert "`cache` at `store-memory` is permitted by `our-premises-serve-every-tenant`" in problem.message
    assert str(raised.value) == problem.text()


def test_a_proof_runs_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This one could not prove anything; the other one reads the very bytes that were given."""
    monkeypatch.setattr(prover, "prove", None)
    monkeypatch.chdir(tmp_path)  # the package is found all the same

    assert prove_apart(Files(default_files()), 60.0) == ()
    assert prove_apart(Files(edited(*TO_LONDON)), 60.0) == proven(edited(*TO_LONDON)).problems()


def test_a_revision_is_proven_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def apart(files: Files, timeout_s: float) -> tuple[Problem, ...]:
        asked.append(files.revision)
        return ()

    monkeypatch.setattr(prover, "prove_apart", apart)
    one, other = Files(default_files()), Files(edited(*TO_LONDON))
    without = Files({name: content for name, content in default_files().items() if name != "claims.yaml"})
    prove_again = Prover()

    for files in (one, other, one, without, other):
        assert prove_again(files, compile_files(files)) == ()

    assert asked == [one.revision, other.revision]


def test_what_fails_once_fails_again_from_memory() -> None:
    files = Files(edited(*TO_LONDON))
    again = Prover()

    assert again(files, compile_files(files)) == again(files, compile_files(files)) != ()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (subprocess.TimeoutExpired("python", 60), "the claims were not proven within 60 s"),
        (
            subprocess.CalledProcessError(-9, "python", b"", b"a line\nthe last line\n"),
            "the claims could not be proven, exit status -9: the last line",
        ),
        (OSError("no such file"), "the claims could not be proven: no such file"),
        (b"", "the claims could not be proven: Expecting value: line 1 column 1 (char 0)"),
        (b'{"revision": "sha256:0"}', "the claims could not be proven: 'problems'"),
        (b'{"revision": "sha256:0", "problems": []}', "the claims of another revision were proven"),
    ],
)
def test_what_could_not_be_proven_does_not_load(
    answer: Exception | bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        if isinstance(answer, Exception):
            raise answer
        return subprocess.CompletedProcess([], 0, answer, b"")

    monkeypatch.setattr(subprocess, "run", run)

    with pytest.raises(PolicyInvalid) as raised:
        prove_apart(Files(default_files()), 60.0)

    (problem,) = raised.value.problems
    assert (problem.file, problem.message) == ("claims.yaml", message)


def test_a_prover_that_is_not_given_the_time_says_so() -> None:
    with pytest.raises(PolicyInvalid, match="not proven within 0 s"):
        prove_apart(Files(default_files()), 0.01)


def test_each_entrance_lists_what_it_cannot_serve_in_few_groups() -> None:
    files = default_files()
    files["places.yaml"] += VIRGINIA.encode()
    files["residency/91-virginia.yaml"] = (
        b"- {id: virginia, permit: [infer], when: {place_in: gateway-virginia}}"
    )
    bundle = compiled(files).bundle

    ours, virginia = entrances_of(bundle)

    assert (ours.place, virginia.place, virginia.country) == ("gateway", "gateway-virginia", "US")
    assert [group.wire()["labels_from"] for group in ours.unserved] == [[["public", "health"]]]
    (group,) = ours.unserved
    assert (group.purposes, group.rules) == (("analytics",), ("health-data-is-not-for-analytics",))
    assert in_words(group.whos, bundle) == "everyone"
    listed = {
        (in_words(group.whos, bundle), group.purposes): (
            [labels.names() for labels in group.labels_from], group.rules
        )
        for group in virginia.unserved
    }  # fmt: skip
    most = ("care", "customer-support", "general")
    local = [("internal",), ("public", "health"), ("public", "personal")]
    assert listed == {
        ("EEA, GB", ("analytics", *most)): (local, ("work-of-eea-tenants-stays-in-the-eea",)),
        ("everyone but EEA, GB", most): ([("secret",)], ("secret-stays-on-the-premises",)),
        ("everyone but EEA, GB", ("analytics",)): (
            [("secret",), ("public", "health")],
            ("secret-stays-on-the-premises",),
        ),
    }


def test_what_an_entrance_cannot_serve_is_just_what_permit_denies() -> None:
    """Every request of every tenant of the bundle, against the groups."""
    files = default_files()
    files["places.yaml"] += VIRGINIA.encode()
    files["residency/91-virginia.yaml"] = (
        b"- {id: virginia, permit: [infer], when: {place_in: gateway-virginia}}"
    )
    bundle = compiled(files).bundle

    for entrance in entrances_of(bundle):
        for facts in every_facts(bundle, bundle.tenants):
            permitted = permit(facts, bundle)
            served = (
                entrance.place in permitted.entrances
                and permitted.recordable
                and bool(permitted.places[Action.INFER])
            )
            listed = any(
                Who(facts.tenant, facts.zone) in group.whos
                and facts.purpose in group.purposes
                and facts.model in group.models
                and any(bundle.vocabulary.within(least, facts.labels) for least in group.labels_from)
                for group in entrance.unserved
            )
            assert listed is not served


def test_the_proof_as_json_has_everything() -> None:
    said = json.loads(json.dumps(proven(edited(*TO_LONDON)).wire()))

    assert said["holds"] is False
    assert [claim["id"] for claim in said["claims"] if not claim["holds"]] == [
        "personal-data-of-eea-tenants-never-leaves-the-eea"
    ]
    assert said["claims"][0] == {
        "id": "personal-data-of-eea-tenants-never-leaves-the-eea",
        "basis": "GDPR Art. 44",
        "file": "claims.yaml",
        "line": 8,
        "holds": False,
        "classes": said["claims"][0]["classes"],
        "witness": {
            "tenant": "acme-de",
            "zone": "DE",
            "purpose": "care",
            "model": "gpt-oss-120b",
            "labels": ["public", "health"],
            "action": "infer",
            "place": "bedrock-london",
            "entrance": "gateway",
            "rules": [
                {
                    "action": "infer",
                    "place": "bedrock-london",
                    "allowed": True,
                    "rule": "european-and-us-tenants-may-use-bedrock",
                    "basis": None,
                    "file": "residency/90-permits.yaml",
                    "line": 10,
                }
            ],
        },
    }
