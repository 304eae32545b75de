"""`detectors.yaml`: what it may say, and where it says what does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.detect.rules import DetectorRules
from gateway.policy.load import compile_files
from gateway.policy.problems import PolicyInvalid
from gateway.policy.source.directory import Files, read_directory

POLICIES = read_directory(Path(__file__).parents[2] / "policies")


def compiled(detectors: str | None) -> DetectorRules | None:
    """The detectors of the default bundle with this file, or without one."""
    content = {name: data for name, data in POLICIES.content.items() if name != "detectors.yaml"}
    if detectors is not None:
        content["detectors.yaml"] = detectors.encode()
    return compile_files(Files(content)).bundle.detectors


def refused(detectors: str) -> list[str]:
    with pytest.raises(PolicyInvalid) as raised:
        compiled(detectors)
    return [problem.text() for problem in raised.value.problems]


def test_a_bundle_without_the_file_detects_nothing() -> None:
    assert compiled(None) is None


def test_the_file_is_part_of_the_revision() -> None:
    content = {**POLICIES.content, "detectors.yaml": POLICIES.content["detectors.yaml"] + b"\n"}

    assert Files(content).revision != POLICIES.revision


def test_the_default_bundle_labels_every_kind() -> None:
    bundle = compile_files(POLICIES).bundle
    assert bundle.detectors is not None
    labels = {
        kind: bundle.detectors.labels_of([kind], bundle.vocabulary)
        for kind in ("email", "us-ssn", "iban", "jwt")
    }

    assert {kind: one.names() if one else None for kind, one in labels.items()} == {
        "email": ("public", "personal"),
        "us-ssn": ("public", "personal"),
        "iban": ("public", "financial", "personal"),
        "jwt": ("confidential",),
    }
    assert bundle.detectors.everything("demo") == bundle.detectors.labels.keys()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "detect:\n- {kinds: [ibam], labels: [financial]}",
            "detectors.yaml:2:12: `ibam` is not a known kind; did you mean `iban`?",
        ),
        (
            "detect:\n- {kinds: [iban], labels: [finance]}",
            "detectors.yaml:2:28: `finance` is not a known label; did you mean `financial`?",
        ),
        (
            "patterns:\n- {id: a, tenants: [acme], pattern: x, labels: [personal]}",
            "detectors.yaml:2:21: `acme` is not a known tenant; did you mean `acme-de`?",
        ),
        (
            "redact:\n- {kinds: [iban], outside: {attested: on-premise}}",
            "detectors.yaml:2:39: `on-premise` is not a known attestation; did you mean `on-premises`?",
        ),
        (
            "redact:\n- {kinds: [customer]}",
            "detectors.yaml:2:12: `customer` is not a known kind or pattern; use one of",
        ),
        ("redact:\n- {kinds: [iban], at: {}}", "detectors.yaml:2:19: `at` is empty; name a condition"),
        ("detekt: []", "detectors.yaml:1:1: unknown key `detekt`; did you mean `detect`?"),
        (
            "patterns:\n- {id: iban, pattern: x, labels: [personal]}",
            "detectors.yaml:2:8: `iban` is already a built-in kind; give the pattern another id",
        ),
        (
            "patterns:\n- {id: a, pattern: '(?=x)', labels: [personal]}",
            "detectors.yaml:2:20: RE2 does not take the pattern: invalid perl operator: (?=; write it in RE2",
        ),
        (
            "patterns:\n- {id: a, pattern: '[a-z]*', labels: [personal]}",
            "detectors.yaml:2:20: the pattern matches the empty text, and so every text; ask for",
        ),
        (
            "patterns:\n- {id: a, pattern: '(?:[a-z]{1,50}[0-9]{1,50}){90}', labels: [personal]}",
            "detectors.yaml:2:20: ",
        ),
        ("limits: {inline_bytes: -1}", "detectors.yaml:1:24: `inline_bytes`: "),
    ],
)
def test_what_does_not_exist_is_refused_with_its_line_and_what_to_write(text: str, problem: str) -> None:
    [said] = refused(text)

    assert said.startswith(problem)


def test_a_pattern_is_its_tenants_alone_and_reads_digits_of_every_script() -> None:
    rules = compiled(
        "patterns:\n- {id: number, tenants: [demo], pattern: 'KD-[0-9]{4}', labels: [personal]}\n"
        "- {id: name, pattern: '(?i)müller', labels: [personal]}"
    )
    assert rules is not None
    text = "Frau MÜLLER, KD-\u0661\u0662\u0663\u0664"

    def found(tenant: str) -> list[tuple[str, str]]:
        return [(one.kind, text[one.start : one.end]) for one in rules.find(text, tenant, "DE")]

    assert found("demo") == [("name", "MÜLLER"), ("number", "KD-\u0661\u0662\u0663\u0664")]
    assert found("acme-de") == [("name", "MÜLLER")]
    assert rules.everything("acme-de") == {"name"}
    assert [one.kind for one in rules.find("\ud800 Müller", "demo", "DE")] == ["name"]
