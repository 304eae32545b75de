"""`douane policy diff` and `lint` on real bundles: what a reviewer reads, and how they end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli.policy import policy
from gateway.policy.compare import Difference, compare
from gateway.policy.source.directory import Files, read_directory
from tests.policy.bundles import POLICIES, compiled, default_files, edited, write

DEFAULT_TENANT = "      default: [internal]\n"
SCALE = "[public, internal, confidential, secret]"
ON_ANALYTICS = "labels_any: [health], purpose_in: [analytics]}"
UNREADABLE = "labels of the conversation unreadable"
ANY_CASE = b"""
- name: NAME
  request: {tenant: demo, model: gpt-oss-20b}
  expect: {record: {permitted: [audit-files]}}
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments], prog_name="douane policy")


def difference(new: Mapping[str, bytes], old: Mapping[str, bytes] | None = None) -> Difference:
    before, after = Files(default_files() if old is None else old), Files(new)
    return compare(compiled(before.content), compiled(after.content), before, after)


def with_any_examples(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """These files with one example that holds whatever else they say."""
    return {name: text for name, text in files.items() if not name.startswith("tests/")} | {
        "tests/any.yaml": ANY_CASE
    }


def allowed(found: Difference) -> list[tuple[str, tuple[str, ...]]]:
    """What the rules newly allow: actions and places."""
    return sorted({(group.action.value, group.places) for group in found.allowed})


def sent(found: Difference) -> set[tuple[str, str, str]]:
    """Which callers newly may, with what they send."""
    return {(group.tenant, group.key, group.sent.value) for group in found.sent_allowed}


def listed(found: Difference) -> list[str]:
    return [f"{one.file}: {one.text}" for one in found.beside if "serial" not in one.text]


def test_a_bundle_does_not_differ_from_itself() -> None:
    found = difference(default_files())

    assert not found.newly_allows
    assert (found.allowed, found.denied) == ((), ())
    assert (found.sent_allowed, found.sent_denied) == ((), ())
    assert (found.entrances, found.beside) == ((), ())


def test_a_wider_rule_is_shown_with_the_smallest_request_and_both_rules() -> None:
    old, new = "health]}\n  unless: {place_in: EEA}", "health]}\n  unless: {place_in: [EEA, GB]}"
    found = difference(edited("residency/20-personal-data.yaml", old, new))

    assert found.newly_allows
    assert allowed(found) == [("infer", ("bedrock-london",))]
    assert found.denied == ()
    assert found.sent_allowed == ()
    wire: dict[str, Any] = json.loads(json.dumps(found.wire()))["newly_allowed"][0]
    assert len(wire.pop("zones")) == 30
    assert wire == {
        "action": "infer",
        "places": ["bedrock-london"],
        "tenants": ["acme-de", "demo"],
        "purposes": ["care", "customer-support", "general"],
        "models": ["gpt-oss-120b", "gpt-oss-20b"],
        "labels_from": [["public", "health"], ["public", "personal"]],
        "labels_to": [["public", "financial", "health", "personal"]],
        "smallest": {
            "tenant": "acme-de",
            "zone": "DE",
            "other_zone": None,
            "purpose": "care",
            "model": "gpt-oss-120b",
            "labels": ["public", "health"],
            "place_moved": False,
            "before": {
                "action": "infer",
                "place": "bedrock-london",
                "allowed": False,
                "rule": "personal-data-of-eea-tenants-stays-in-the-eea",
                "basis": "GDPR Art. 44",
                "file": "residency/20-personal-data.yaml",
                "line": 4,
            },
            "after": {
                "action": "infer",
                "place": "bedrock-london",
                "allowed": True,
                "rule": "european-and-us-tenants-may-use-bedrock",
                "basis": None,
                "file": "residency/90-permits.yaml",
                "line": 10,
            },
        },
    }


def test_the_way_back_is_denied_and_ends_with_0(tmp_path: Path) -> None:
    old, new = "health]}\n  unless: {place_in: EEA}", "health]}\n  unless: {place_in: [EEA, GB]}"
    wider = write(edited("residency/20-personal-data.yaml", old, new), tmp_path)

    there, back = run("diff", POLICIES, wider), run("diff", wider, POLICIES)

    assert (there.exit_code, back.exit_code) == (1, 0)
    assert there.output.splitlines()[-1] == "something is newly allowed"
    assert back.output.splitlines()[-1] == "nothing is newly allowed; something is newly denied"
    at = back.output.splitlines().index("newly denied:")
    assert back.output.splitlines()[at + 5 : at + 7] == [
        "      before: permitted by `european-and-us-tenants-may-use-bedrock` (residency/90-permits.yaml:10)",
        "      after: denied by `personal-data-of-eea-tenants-stays-in-the-eea` "
        "(residency/20-personal-data.yaml:4; GDPR Art. 44)",
    ]


def test_a_place_of_the_same_name_in_another_country_is_another_place() -> None:
    """No rule tells Germany and France apart, and yet the logs are now somewhere else."""
    old, new = "id: logs\n    kind: log\n    country: DE", "id: logs\n    kind: log\n    country: FR"
    found = difference(edited("places.yaml", old, new))

    assert allowed(found) == [("log", ("logs",)), ("record", ("logs",))]
    assert {group.smallest.moved for group in (*found.allowed, *found.denied)} == {True}
    assert listed(found) == ["places.yaml: the place `logs`: country was `DE`, is `FR`"]


@pytest.mark.parametrize(
    ("name", "old", "new", "places"),
    [
        ("places.yaml", "    country: DE\n    operator: self\n    attested: [on-premises]\n    models",
         "    country: DE\n    operator: aws\n    models", None),
        ("places.yaml", "  - id: metrics\n", "  - id: meters\n", [("record", ("meters",))]),
        ("bundle.yaml", "analytics]", "analytics, training]", "all"),
        ("bundle.yaml", "financial]", "financial, biometric]", "all"),
        ("tenants.yaml", "  - id: globex-us\n", "  - id: initech-us\n", "all"),
    ],
)  # fmt: skip
def test_what_is_new_counts_for_what_it_is_permitted(
    name: str, old: str, new: str, places: list[tuple[str, tuple[str, ...]]] | str | None
) -> None:
    files = edited(name, old, new)
    files = with_any_examples(files)
    found = difference(files)

    if places is None:
        # The engine is no longer ours: it may still answer public questions of these tenants, elsewhere run.
        assert all("local-engine" in group.places and group.smallest.moved for group in found.allowed)
    elif places == "all":
        assert {group.smallest.before.verdict.rule for group in found.allowed} <= {
            "unknown-purpose", "unknown-label", "unknown-tenant",
        }  # fmt: skip
        assert {action for action, _ in allowed(found)} == {"infer", "cache", "log", "record"}
    else:
        assert allowed(found) == places
    assert found.newly_allows


@pytest.mark.parametrize(
    ("old", "new", "who"),
    [
        (  # a lower default: for what declares nothing, and for what declares less than the old one
            DEFAULT_TENANT, "      default: [public]\n",
            {("acme-de", key, how) for key in ("", "reporting") for how in ("declared", "nothing declared")},
        ),
        (  # a lower ceiling: for what is taken for it
            "      ceiling: [confidential, personal, financial]\n", "      ceiling: [internal]\n", None,
        ),
        (  # a key's floor is gone: its declarations stand alone
            "        labels: {always: [health, personal]}\n", "", {("nhs-gb", "ward", "declared")},
        ),
        (  # a ward that declares nothing is no longer taken for the worst
            "        labels: {always: [health, personal]}\n",
            "        labels: {always: [health, personal], default: [public]}\n",
            {("nhs-gb", "ward", "nothing declared")},
        ),
        (  # what a key may ask for
            "    models: [gpt-oss-20b]\n", "",
            {("globex-us", key, how)
             for key in ("", "main") for how in ("declared", "nothing declared")}
            | {("globex-us", key, UNREADABLE) for key in ("", "main")},
        ),
    ],
)  # fmt: skip
def test_what_callers_send_may_go_further_though_no_rule_changed(
    old: str, new: str, who: set[tuple[str, str, str]] | None
) -> None:
    files = edited("tenants.yaml", old, new)
    if who is None:  # the help desk's floor would lie above such a ceiling
        files["tenants.yaml"] = files["tenants.yaml"].replace(b"        labels: {always: [personal]}\n", b"")
        who = {("acme-de", key, UNREADABLE) for key in ("", "helpdesk", "reporting")}
    found = difference(with_any_examples(files))

    assert found.allowed == ()
    assert found.newly_allows
    assert sent(found) == who


def test_higher_labels_of_a_caller_allow_nothing_new() -> None:
    files = edited("tenants.yaml", DEFAULT_TENANT, "      default: [confidential]\n")
    found = difference(with_any_examples(files))

    assert not found.newly_allows
    assert found.sent_denied


def test_an_alias_that_stands_for_another_model_changes_what_callers_ask_for() -> None:
    old = edited("residency/30-region.yaml", "# From internal", "# from internal")
    old["residency/05-large.yaml"] = (
        b"- {id: no-large-abroad, basis: b, forbid: [infer], when: {model_in: gpt-oss-120b, place_in: US}}"
    )
    new = dict(old)
    new["routes.yaml"] = old["routes.yaml"].replace(
        b"openai/gpt-oss-120b: gpt-oss-120b", b"openai/gpt-oss-120b: gpt-oss-20b"
    )
    found = difference(new, old)

    assert found.allowed == ()
    assert {(group.models, group.smallest.asked) for group in found.sent_allowed} == {
        (("openai/gpt-oss-120b",), "openai/gpt-oss-120b")
    }
    assert (
        "the alias `openai/gpt-oss-120b` stands for `gpt-oss-20b`, before `gpt-oss-120b`" in listed(found)[-1]
    )


def test_another_order_of_the_scale_counts_as_a_whole() -> None:
    files = edited("bundle.yaml", SCALE, "[public, confidential, internal, secret]")
    only = {name: text for name, text in with_any_examples(files).items() if name != "claims.yaml"}
    only["tenants.yaml"] = only["tenants.yaml"].replace(b"ceiling: [confidential,", b"ceiling: [internal,")
    found = difference(only)

    assert [one.text for one in found.beside if one.loosens] == [
        "the scale is in another order, so that the higher of two words is another: "
        "`public < internal < confidential < secret`, then `public < confidential < internal < secret`"
    ]
    assert found.newly_allows


def test_routes_are_listed_and_widen_nothing() -> None:
    old = "      - [{place: bedrock-ireland}, {place: bedrock-frankfurt}]\n"
    new = "      - [{place: bedrock-ireland}]\n"
    found = difference(edited("routes.yaml", old, new))

    assert not found.newly_allows
    assert listed(found) == [
        "routes.yaml: the route `tenants-of-the-united-kingdom` tries `local-engine, then bedrock-london, "
        "then bedrock-ireland`, before `local-engine, then bedrock-london, then bedrock-ireland or "
        "bedrock-frankfurt`"
    ]


def test_a_claim_and_an_example_that_are_gone_are_listed() -> None:
    files = default_files()
    del files["claims.yaml"], files["tests/secrecy.yaml"]
    found = difference(files)

    assert not found.newly_allows
    gone = [text for text in listed(found) if text.endswith("is gone: nothing proves it any longer")]
    assert len(gone) == 10
    assert len(listed(found)) == 10 + default_files()["tests/secrecy.yaml"].decode().count("- name:")


def test_an_entrance_that_can_serve_less_is_shown(tmp_path: Path) -> None:
    wider = ON_ANALYTICS.replace("health", "health, financial")
    files = edited("residency/20-personal-data.yaml", ON_ANALYTICS, wider)

    output = run("diff", POLICIES, write(files, tmp_path)).output

    at = output.splitlines().index("entrance gateway (DE) cannot serve the same as before:")
    assert output.splitlines()[at + 1 : at + 3] == [
        "  - everyone; purpose analytics; any model; from the labels public, health: "
        "health-data-is-not-for-analytics",
        "  + everyone; purpose analytics; any model; from the labels public, financial; or public, health: "
        "health-data-is-not-for-analytics",
    ]


@pytest.mark.parametrize(
    ("old", "new", "loosens"),
    [
        (b"detect: [{kinds: iban, labels: financial}]", b"", [True]),
        (b"", b"detect: [{kinds: iban, labels: financial}]", [False]),
        (b"limits: {inline_bytes: 5}", b"limits: {inline_bytes: 6}", [False, False]),
    ],
)
def test_a_detector_less_counts_as_newly_allowing_and_one_more_does_not(
    old: bytes, new: bytes, loosens: list[bool]
) -> None:
    files = [Files({"detectors.yaml": text} if text else {}) for text in (old, new)]
    loaded = compiled(default_files())
    found = compare(loaded, loaded, *files)

    assert [one.loosens for one in found.beside] == loosens
    assert found.newly_allows is any(loosens)


def with_lines(old: Mapping[str, bytes], *edits: tuple[str, str, str]) -> dict[str, bytes]:
    """These files with passages replaced; each must be there, and its first one is."""
    files = dict(old)
    for name, one, other in edits:
        text = files[name].decode()
        assert one in text, f"{name} has no {one!r}"
        files[name] = text.replace(one, other, 1).encode()
    return files


TAINT = ("bundle.yaml", "serial: 1 ", "taint: {messages_of_at_least_bytes: 24}\nserial: 1 ")
MORE_TAINT = ("bundle.yaml", "serial: 1 ", "taint: {messages_of_at_least_bytes: 48}\nserial: 1 ")
PRIVATE = (
    "places.yaml",
    "    region: eu-central-1\n",
    "    region: eu-central-1\n    private_range: [10.20.0.0/16]\n",
)
WIDE = ("places.yaml", PRIVATE[1], f"{PRIVATE[1]}    private_range: [10.20.0.0/16, 10.0.0.0/8]\n")
OTHER_IP = ("places.yaml", PRIVATE[1], f"{PRIVATE[1]}    private_range: ['fd00::/8']\n")
REDACT = (
    "detectors.yaml",
    "detect:\n",
    "redact: [{kinds: email, outside: {attested: on-premises}}]\ndetect:\n",
)
READ_MORE = ("detectors.yaml", "detect:\n", "limits: {text_bytes_max: 2097152}\ndetect:\n")
READ_LESS = ("detectors.yaml", "detect:\n", "limits: {text_bytes_max: 2048}\ndetect:\n")
ATTESTED = ("zones.yaml", "    operators: [self]\n", "    operators: [self, aws]\n")
IN_OUR_ROOMS = ("places.yaml", PRIVATE[1], f"{PRIVATE[1]}    attested: [on-premises]\n")
MARKS = "bundle.yaml: {} bytes bring their labels along, before {}"
RANGE = "places.yaml: the place `bedrock-frankfurt`: private range was `{}`, is `{}`"
LONG = (
    "detectors.yaml: texts of more than 1048576 up to 2097152 bytes are read, "
    "and no longer count as holding everything"
)
SHOWN = "detectors.yaml: the place `bedrock-frankfurt` is sent `email` as it stands, before redacted"
DIALLED = "tenants.yaml: `demo`: national phone numbers are found as dialled in `AT`, before in `DE`"

Edits = tuple[tuple[str, str, str], ...]


@pytest.mark.parametrize(
    ("old", "new", "loosening"),
    [
        ((), (TAINT,), MARKS.format("only messages of at least 24", "every one")),
        ((TAINT,), (MORE_TAINT,), MARKS.format("messages of at least 48", "of at least 24")),
        ((PRIVATE,), (), RANGE.format("10.20.0.0/16", "none")),
        ((PRIVATE,), (WIDE,), RANGE.format("10.20.0.0/16", "10.0.0.0/8, 10.20.0.0/16")),
        ((PRIVATE,), (OTHER_IP,), RANGE.format("10.20.0.0/16", "fd00::/8")),
        ((), (READ_MORE,), LONG),
        ((REDACT, ATTESTED), (REDACT, ATTESTED, IN_OUR_ROOMS), SHOWN),
        ((), (("tenants.yaml", "zone: DE", "zone: AT"),), DIALLED),
    ],
    ids=["taint", "more-taint", "range", "wider", "other-ip", "longer-texts", "shown-by-place", "phones"],
)
def test_what_lets_texts_carry_less_or_go_elsewhere_counts_as_a_whole(
    old: Edits, new: Edits, loosening: str
) -> None:
    files = default_files()
    one, other = with_lines(files, *old), with_lines(files, *new)
    found, back = difference(other, one), difference(one, other)

    loosens = [f"{one.file}: {one.text}" for one in found.beside if one.loosens]
    assert loosens == [loosening]
    assert found.newly_allows
    if new != (OTHER_IP,) and loosening != DIALLED:  # which lose something both ways
        assert [one for one in back.beside if one.loosens] == []


def test_a_redaction_less_counts_for_each_place_that_it_was_for() -> None:
    files = default_files()
    found = difference(files, with_lines(files, REDACT))

    clouds = ["frankfurt", "ireland", "london", "milan", "ohio", "stockholm", "virginia"]
    assert [one.text for one in found.beside if one.loosens] == [
        f"the place `bedrock-{cloud}` is sent `email` as it stands, before redacted" for cloud in clouds
    ]
    assert not difference(with_lines(files, REDACT), files).newly_allows
    assert not difference(with_lines(files, READ_LESS), files).newly_allows


def test_a_private_range_written_as_one_network_allows_nothing_new() -> None:
    halves = (*PRIVATE[:2], f"{PRIVATE[1]}    private_range: [10.20.0.0/17, 10.20.128.0/17]\n")
    files = default_files()

    assert not difference(with_lines(files, PRIVATE), with_lines(files, halves)).newly_allows


def test_a_known_key_that_becomes_somebody_elses_counts_as_a_whole() -> None:
    hashes = [
        line.split()[-1]
        for line in default_files()["tenants.yaml"].decode().split("\n")
        if "sha256: " in line
    ]
    helpdesk, reporting, *_ = hashes
    swapped = default_files()["tenants.yaml"].decode().replace(helpdesk, "X").replace(reporting, helpdesk)
    found = difference(default_files() | {"tenants.yaml": swapped.replace("X", reporting).encode()})

    assert sorted(one.text for one in found.beside if one.loosens) == [
        "whoever holds the key `helpdesk` of `acme-de` now is `reporting` of `acme-de`",
        "whoever holds the key `reporting` of `acme-de` now is `helpdesk` of `acme-de`",
    ]
    assert not difference(edited("tenants.yaml", helpdesk, "0" * 64)).newly_allows


def test_an_example_that_expects_something_else_and_the_numbers_of_a_route_are_listed() -> None:
    expects = edited(
        "tests/secrecy.yaml",
        "cache:\n      exactly: [store-memory, store-redis]",
        "record: {permitted: [logs]}",
    )
    route = with_lines(
        default_files(), ("routes.yaml", "attempts_max: 3", "attempts_max: 4\n    hedge_after_s: 2")
    )

    assert listed(difference(expects)) == [
        "tests/secrecy.yaml: the example `secret data is answered on the premises alone` "
        "asks or expects something else"
    ]
    assert listed(difference(route)) == [
        "routes.yaml: the route `tenants-of-the-united-states`: `attempts_max` was `3`, is `4`",
        "routes.yaml: the route `tenants-of-the-united-states`: `hedge_after_s` was `left out`, is `2.0`",
    ]


def test_a_pack_that_is_gone_or_of_another_version_is_listed() -> None:
    adopted = dict(read_directory(POLICIES / "packs" / "gdpr").content)
    name = "adopted/gdpr/pack.yaml"
    without = {file: text for file, text in adopted.items() if not file.startswith("adopted/")}
    without["tests/gdpr.yaml"] = ANY_CASE.replace(b"audit-files", b"audit").replace(b"demo", b"clinic-de")
    later = adopted | {name: adopted[name].replace(b"version: 1", b"version: 2")}

    assert f"{name}: the pack is of version 2, before of 1" in listed(difference(later, adopted))
    assert "adopted/: the pack `gdpr` is gone" in listed(difference(without, adopted))


@pytest.mark.parametrize("sides", [("broken", "good"), ("good", "broken")])
def test_a_bundle_that_does_not_load_ends_with_3_and_is_named(sides: tuple[str, str], tmp_path: Path) -> None:
    write(default_files(), tmp_path / "good")
    write(edited("places.yaml", "kind: engine", "kind: engin"), tmp_path / "broken")

    result = run("diff", *(tmp_path / side for side in sides))

    assert result.exit_code == 3
    assert result.stderr.startswith(f"{tmp_path}/broken/places.yaml:")


def test_lint_ends_with_1_when_a_line_does_nothing_and_check_only_warns(tmp_path: Path) -> None:
    idle = write(edited("bundle.yaml", "financial]", "financial, biometric]"), tmp_path)
    clean, found = run("lint", POLICIES), run("lint", idle)

    assert (clean.exit_code, clean.output) == (0, "clean: every line does something\n")
    assert found.exit_code == 1
    assert found.output.splitlines() == [
        "bundle.yaml:8:45: `biometric` changes nothing: no rule mentions it; write the rule that it is for, "
        "or remove the word [label-changes-nothing]",
        "1 findings",
    ]
    said = json.loads(run("lint", idle, "--format", "json").output)
    assert (said["clean"], [one["kind"] for one in said["findings"]]) == (False, ["label-changes-nothing"])
    check = run("check", idle)
    assert check.exit_code == 0
    assert check.output.splitlines()[-1].startswith("warning: bundle.yaml:8:45: `biometric` changes nothing")
    assert len(json.loads(run("check", idle, "--format", "json").output)["warnings"]) == 1
