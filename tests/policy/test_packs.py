"""Packs: what ships, how a bundle adopts one, and what its author reads when that cannot be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner, Result

from gateway.cli.policy import policy
from gateway.policy.library import adopting, library, pack_called, shipped
from gateway.policy.lint import lint
from gateway.policy.load import compile_files, load_bundle
from gateway.policy.problems import PolicyInvalid
from gateway.policy.proof import prove
from gateway.policy.rules import Effect
from gateway.policy.runner import run_cases
from gateway.policy.source.directory import Files, read_directory
from tests.policy.bundles import POLICIES, compiled, default_files, problems_of, write

NAMES = ("air-gapped", "gdpr", "operator-law")

PACK = (
    b"{apiVersion: douane/pack/v1, name: own, version: 3, title: t, notice: n, needs: {categories: [health]}}"
)
RULE = b"- {id: own-rule, basis: b, forbid: [infer], when: {labels_any: [health], purpose_in: [analytics]}}"
CASE = b"""
- name: n
  request: {tenant: ourselves, model: gpt-oss-20b}
  expect: {infer: {permitted: [local-engine]}}
"""
ATTESTATION = b"""
  processing-agreement: {means: as in GDPR Art. 28(3), source: own-statement}

operators:
"""
OF_SELF = b"attestations: []      # a rented machine"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments], prog_name="douane policy")


def with_pack(changed: Mapping[str, bytes] = MappingProxyType({})) -> dict[str, bytes]:
    """The default bundle with a pack of its own, and with these files."""
    pack = {"adopted/own/pack.yaml": PACK, "adopted/own/residency/rules.yaml": RULE}
    return {**default_files(), **pack, **changed}


def ready_for(pack: str) -> dict[str, bytes]:
    """The default bundle with all the words that a pack needs."""
    files = default_files()
    if pack == "gdpr":
        zones = files["zones.yaml"].replace(b"\noperators:\n", ATTESTATION)
        files["zones.yaml"] = zones.replace(
            OF_SELF, b"attestations: [processing-agreement]  # a rented machine"
        )
    return files


def test_three_packs_ship() -> None:
    assert library() == POLICIES / "packs"
    assert tuple(shipped()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_pack_proves_itself_on_its_example(name: str) -> None:
    """A whole bundle that loads, whose examples meet each rule of the pack, and in which no line is idle."""
    files = read_directory(library() / name)
    loaded = compile_files(files)
    run_of_it = run_cases(loaded.bundle, loaded.cases)

    assert load_bundle(library() / name).revision == files.revision
    assert (run_of_it.failures(), run_of_it.unexercised) == ((), ())
    assert prove(loaded.bundle, loaded.claims).holds
    assert lint(files, loaded) == ()
    assert [pack.name for pack in loaded.packs] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_and_claim_of_a_pack_has_its_ground_and_the_pack_says_what_it_is_not(name: str) -> None:
    loaded = compile_files(read_directory(library() / name))
    rules = [rule for rule in loaded.bundle.rules if rule.file.startswith("adopted/")]

    assert rules
    for rule in rules:
        assert rule.basis
        assert len(rule.description) > 30
        assert (rule.effect, rule.id.startswith(f"{name}-")) == (Effect.FORBID, True)
    assert [claim.id for claim in loaded.claims if not claim.id.startswith(f"{name}-")] == []
    assert loaded.claims
    (pack,) = loaded.packs
    assert pack.notice.startswith("An engineering aid, not legal advice")


@pytest.mark.parametrize("name", NAMES)
def test_each_rule_of_a_pack_upholds_a_claim_of_it(name: str) -> None:
    """Without any one rule, some claim of the pack no longer holds over its example."""
    files = dict(read_directory(library() / name).content)
    (file,) = [one for one in files if one.startswith("adopted/") and "/residency/" in one]
    rules = files[file].decode().split("\n- id: ")
    for number, rule in enumerate(rules[1:], 1):
        without = "\n- id: ".join([*rules[:number], *rules[number + 1 :]])
        content = {one: text for one, text in files.items() if not one.startswith("tests/")}
        content["tests/any.yaml"] = b"""
- name: any
  request: {tenant: T, model: gpt-oss-20b}
  expect: {record: {permitted: [audit]}}
""".replace(b"tenant: T", f"tenant: {first_tenant(files)}".encode())
        loaded = compiled({**content, file: without.encode()})
        assert not prove(loaded.bundle, loaded.claims).holds, rule.splitlines()[0]


def first_tenant(files: Mapping[str, bytes]) -> str:
    return files["tenants.yaml"].decode().split("id: ")[1].split(",")[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_a_pack_name_their_schemas(name: str) -> None:
    for file, content in read_directory(library() / name).content.items():
        folder, _, base = file.rpartition("/")
        kind = base if "/" not in file or folder == f"adopted/{name}" else f"{folder.rpartition('/')[2]}.yaml"
        up = "../" * (file.count("/") + (0 if file.startswith("adopted/") else 2))
        schema = f"{up}schema/{kind.removesuffix('.yaml')}.json"
        assert content.decode().splitlines()[0] == f"# yaml-language-server: $schema={schema}"


@pytest.mark.parametrize("name", NAMES)
def test_what_the_default_bundle_denies_it_denies_with_a_pack_too(name: str, tmp_path: Path) -> None:
    old, new = write(default_files(), tmp_path / "old"), write(ready_for(name), tmp_path / "new")
    assert run("add", name, new).exit_code == 1  # examples of the default bundle rely on clouds

    said = json.loads(run("diff", old, new, "--format", "json").output)

    assert said["newly_allowed"] == said["newly_allowed_of_what_callers_send"] == []
    assert said["newly_denied"]
    assert read_directory(new).packs() == (name,)


def test_adding_a_pack_copies_it_and_says_what_no_longer_holds(tmp_path: Path) -> None:
    bundle = write(ready_for("gdpr"), tmp_path)
    before = read_directory(bundle).revision

    text = run("add", "gdpr", bundle)

    assert text.exit_code == 1
    lines = text.output.splitlines()
    assert [line for line in lines if line.startswith("wrote ")] == [
        f"wrote {bundle}/{name}" for name in pack_called("gdpr").files
    ]
    assert "FAIL  personal data of a German tenant stays in the EEA, which London is not" in lines
    assert "16 claims hold, 0 do not" in lines
    assert lines[-1] == "`gdpr` is adopted, but the bundle does not load until these hold"
    loaded = compile_files(read_directory(bundle))
    assert loaded.bundle.revision != before
    assert [pack.name for pack in loaded.packs] == ["gdpr"]
    # The bundle's own rules are named first.
    assert [rule.file.startswith("adopted/") for rule in loaded.bundle.rules] == [False] * 11 + [True] * 5
    again = run("add", "gdpr", bundle)
    assert (again.exit_code, again.stderr) == (
        3,
        "adopted/gdpr/: the pack `gdpr` is already adopted; to take another version of it, "
        "remove `adopted/gdpr/` first\n",
    )


def test_a_pack_that_the_bundle_fits_is_adopted_with_0(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    content = dict(read_directory(library() / "air-gapped").content)
    write(content, bundle)
    for name in [name for name in content if name.startswith("adopted/")]:
        (bundle / name).unlink()
    for folder in ("adopted/air-gapped/residency", "adopted/air-gapped"):
        (bundle / folder).rmdir()
    (bundle / "tests/air-gapped.yaml").write_bytes(CASE)

    said = json.loads(run("add", "air-gapped", bundle, "--format", "json").output)

    assert (said["adopted"], said["version"], said["loads"]) == ("air-gapped", 1, True)
    assert load_bundle(bundle).rules[-1].id == "air-gapped-no-operator-under-foreign-law"


def test_a_pack_that_needs_a_word_which_the_bundle_lacks_is_not_written(tmp_path: Path) -> None:
    bundle = write(default_files(), tmp_path)

    result = run("add", "gdpr", bundle)

    line = pack_called("gdpr").files["adopted/gdpr/pack.yaml"].decode().splitlines()
    at = next(number for number, text in enumerate(line, 1) if "- processing-agreement" in text)
    assert result.exit_code == 3
    assert result.stderr == (
        f"adopted/gdpr/pack.yaml:{at}:7: the pack `gdpr` needs the attestation `processing-agreement`, which "
        "this bundle does not have; add it to `attestations` in zones.yaml\n"
    )
    assert not (bundle / "adopted").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "gdp", POLICIES), "gdp: there is no pack `gdp`; did you mean `gdpr`?"),
        (
            ("add", "gdpr", "/nowhere"),
            ".: there is no directory `/nowhere`; name the directory of the bundle",
        ),
    ],
)
def test_what_cannot_be_added_is_invalid_input(arguments: tuple[str | Path, ...], message: str) -> None:
    result = run(*arguments)

    assert (result.exit_code, result.stderr.strip()) == (3, message)


def test_packs_lists_what_each_needs_and_where_its_example_is() -> None:
    text, said = run("packs").output, json.loads(run("packs", "--format", "json").output)

    assert [pack["name"] for pack in said["packs"]] == list(NAMES)
    gdpr = said["packs"][1]
    assert gdpr["needs"] == {
        "categories": ["personal", "health"],
        "purposes": ["analytics"],
        "zones": ["EEA"],
        "attestations": ["processing-agreement"],
    }
    assert gdpr["example"] == str(POLICIES / "packs" / "gdpr")
    for pack in said["packs"]:
        assert f"{pack['name']} (version 1): {pack['title']}\n" in text
        assert pack["notice"] in text


def test_check_names_the_adopted_packs(tmp_path: Path) -> None:
    bundle = write(with_pack(), tmp_path)

    assert "adopted packs: own (version 3)" in run("check", bundle).output.splitlines()
    assert json.loads(run("check", bundle, "--format", "json").output)["packs"] == ["own"]


def test_a_pack_is_part_of_the_revision() -> None:
    one, other = Files(with_pack()), Files(with_pack({"adopted/own/residency/rules.yaml": RULE + b"\n"}))

    assert len({one.revision, other.revision, Files(default_files()).revision}) == 3


def test_a_claim_of_a_pack_is_proven_over_the_bundle_that_adopts_it() -> None:
    claims = b"- {id: own-claim, basis: b, never: [infer], when: {labels_any: [health], purpose_in: [care]}}"
    loaded = compiled(with_pack({"adopted/own/claims.yaml": claims}))

    (broken,) = [result for result in prove(loaded.bundle, loaded.claims).results if not result.holds]
    assert (broken.claim.file, broken.claim.line) == ("adopted/own/claims.yaml", 1)


PERMIT = b"- {id: own-permit, permit: [infer]}"


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        (
            "adopted/own/residency/rules.yaml", PERMIT,
            "`own-permit` permits, but a pack can only forbid",
            "what a bundle permits stands in its own `residency/`",
        ),
        (
            "adopted/own/residency/rules.yaml", RULE.replace(b"own-rule", b"rule"),
            "`rule` is of the pack `own`, and does not say so", "begin its id with `own-`",
        ),
        (
            "adopted/own/claims.yaml", b"- {id: mine, basis: b, never: [cache], at: {place_in: US}}",
            "`mine` is of the pack `own`, and does not say so", "begin its id with `own-`",
        ),
        (
            "adopted/own/pack.yaml", PACK.replace(b"health", b"helth"),
            "the pack `own` needs the category `helth`, which this bundle does not have",
            "add it to `categories` in bundle.yaml",
        ),
        (
            "adopted/own/pack.yaml", PACK.replace(b"name: own", b"name: other"),
            "the pack `other` lies in `adopted/own/`", "rename the folder to `other`",
        ),
        (
            "adopted/own/pack.yaml", PACK.replace(b"categories", b"category"),
            "unknown key `category`", "did you mean `categories`?",
        ),
        (
            "adopted/own/pack.yaml", PACK.replace(b"notice: n, ", b""),
            "the key `notice` is missing", "add `notice: ...`",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_pack_is_said_with_its_file(
    name: str, content: bytes, message: str, hint: str
) -> None:
    (problem,) = problems_of(with_pack({name: content}))

    assert (problem.file, problem.line, problem.message, problem.hint) == (name, 1, message, hint)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("adopted/own/rules.yaml", "unknown file `adopted/own/rules.yaml`", "did you mean `claims.yaml`?"),
        ("adopted/own/tests/x.yaml", "unknown folder `adopted/own/tests`", "use one of `residency`"),
        (
            "adopted/own/residency/x.yml",
            "unknown file `adopted/own/residency/x.yml`",
            "its name must end in `.yaml`",
        ),
        ("adopted/stray.yaml", "unknown file `adopted/stray.yaml`", "a pack is a folder with a `pack.yaml`"),
        (
            "packs/own/pack.yaml",
            "the pack `own` is not adopted where it lies",
            "a pack in force lies in `adopted/own/`; move it there",
        ),
        ("adoptd/own/pack.yaml", "unknown folder `adoptd`", "did you mean `adopted`?"),
    ],
)  # fmt: skip
def test_nothing_of_a_pack_is_overlooked(tmp_path: Path, name: str, message: str, hint: str) -> None:
    bundle = write(with_pack({name: b"x: 1"}), tmp_path)

    with pytest.raises(PolicyInvalid) as raised:
        read_directory(bundle)

    (problem,) = raised.value.problems
    assert (problem.message, problem.hint) == (message, hint)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("adopted/own/pack.yaml", "`pack.yaml` of the pack `own` is missing"),
        ("adopted/own/residency/rules.yaml", "`residency/` of the pack `own` is missing"),
    ],
)
def test_a_pack_that_is_not_whole_is_refused(tmp_path: Path, gone: str, message: str) -> None:
    files = with_pack()
    del files[gone]

    with pytest.raises(PolicyInvalid) as raised:
        read_directory(write(files, tmp_path))

    assert [problem.message for problem in raised.value.problems] == [message]


def test_a_pack_cannot_take_the_name_of_a_rule_that_the_bundle_has() -> None:
    (problem,) = problems_of(with_pack({"residency/95-own.yaml": RULE}))

    assert problem.message == "`own-rule` is already a rule, at residency/95-own.yaml:1"


def test_adopting_twice_is_refused_before_anything_is_read() -> None:
    files = adopting(Files(default_files()), pack_called("operator-law"))

    with pytest.raises(PolicyInvalid, match="already adopted"):
        adopting(files, pack_called("operator-law"))
