"""What the audit says of a bundle that is offered: in the words of `douane policy diff`, bounded, apart."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.policy import policy
from gateway.policy.source.directory import Files
from gateway.policy.summary import SHOWN_MAX, TEXT_MAX, Offered, Summary, describe, describe_here
from tests.policy_signing.signing import NO_CLOUD, bundle, write

WIDER = (b"health]}\n  unless: {place_in: EEA}", b"health]}\n  unless: {place_in: [EEA, GB]}")
BEFORE = bundle()


def wider(serial: int) -> Files:
    files = dict(bundle(serial).content)
    name = "residency/20-personal-data.yaml"
    assert files[name].count(WIDER[0]) == 1
    return Files({**files, name: files[name].replace(*WIDER)})


def summary(offered: Files) -> Summary:
    found = describe_here(BEFORE, offered).summary
    assert found is not None
    return found


def test_what_is_newly_allowed_is_told_in_the_words_of_the_diff(tmp_path: Path) -> None:
    found = describe(BEFORE, wider(2))
    write(BEFORE, tmp_path / "old")
    write(wider(2), tmp_path / "new")
    shown = CliRunner().invoke(policy, ["diff", str(tmp_path / "old"), str(tmp_path / "new")]).output
    words = " ".join(shown.split())

    assert found.serial == 2
    assert found.summary is not None
    assert (found.summary.newly_allowed, found.summary.newly_denied) == (2, 0)
    (first, second, *others) = found.summary.said
    assert first.startswith("newly allowed: `infer` at `bedrock-london`; EEA; purpose care")
    for text in (first, second):
        assert all(part in words for part in text.removeprefix("newly allowed: ").split("; "))
    assert others == [
        "also changed: residency/20-personal-data.yaml: the rule "
        "`personal-data-of-eea-tenants-stays-in-the-eea` says something else: `unless`"
    ]


def test_a_bundle_that_only_forbids_more_says_so_and_is_bounded() -> None:
    found = summary(bundle(2, NO_CLOUD))

    assert found.newly_allowed == 0
    assert found.newly_denied == 12
    denied = [text for text in found.said if text.startswith("newly denied: ")]
    assert len(denied) == SHOWN_MAX
    assert all(len(text) <= TEXT_MAX for text in found.said)


def test_a_bundle_that_changes_nothing_has_nothing_to_say() -> None:
    assert summary(bundle(2)) == Summary(0, 0, 0, ())


def test_a_loosening_that_cannot_be_listed_counts_as_newly_allowed() -> None:
    content = bundle(2).content
    found = summary(Files({name: content[name] for name in content if name != "detectors.yaml"}))

    assert found.newly_allowed
    assert any("(counts as newly allowed)" in text for text in found.said)


def test_at_a_start_there_is_nothing_to_compare_with() -> None:
    assert describe_here(None, bundle(7)) == Offered(7, None)


@pytest.mark.parametrize(
    ("name", "content", "serial"),
    [
        ("routes.yaml", b"{", 2),
        ("bundle.yaml", b"{", None),
        ("bundle.yaml", b"serial: 99999999999999999999", None),
        ("bundle.yaml", b"\xff\xfe", None),
        ("tenants.yaml", b"\xff\xfe", 2),
    ],
)
def test_of_a_bundle_that_does_not_compile_only_the_serial_is_told(
    name: str, content: bytes, serial: int | None
) -> None:
    assert describe_here(BEFORE, bundle(2, {name: content})) == Offered(serial, None)


def test_long_names_and_what_is_no_text_fit_a_record() -> None:
    files = dict(bundle(2).content)
    name = "x" * 3000
    files["residency/50.yaml"] = (
        f'- {{id: "{name}", basis: "\\ud800", forbid: [infer], when: {{place_in: US}}}}'.encode()
    )
    found = describe_here(BEFORE, Files(files))

    for text in found.summary.said if found.summary else ():
        assert len(text) <= TEXT_MAX
        text.encode()


def test_a_comparison_that_takes_too_long_is_ended_and_said_to_be() -> None:
    assert describe(BEFORE, wider(2), timeout_s=0.001) == Offered(
        None,
        Summary(
            None,
            None,
            None,
            ("the two bundles were not compared: it took longer than 0 s; run `douane policy diff OLD NEW`",),
        ),
    )
    assert describe(None, wider(2), timeout_s=0.001) == Offered(None, None)


def test_a_comparison_that_breaks_is_said_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        raise subprocess.CalledProcessError(137, "python")

    monkeypatch.setattr("subprocess.run", broken)
    found = describe(BEFORE, wider(2)).summary
    assert found is not None
    assert "the comparison ended with status 137" in found.said[0]
