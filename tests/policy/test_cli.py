"""`douane policy`: what it prints, and how it ends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cedarpy
import pytest
from click.testing import CliRunner, Result

from gateway.cli.policy import policy
from tests.policy.bundles import POLICIES, default_files, edited, loaded_default, write


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments], prog_name="douane policy")


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    return write(
        edited(
            "tests/secrecy.yaml", "denied: {logs: confidential-content-is-not-logged}", "permitted: [logs]"
        ),
        tmp_path / "failing",
    )


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return write(edited("places.yaml", "kind: engine", "kind: engin"), tmp_path / "broken")


def request_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "request.yaml"
    path.write_text(text)
    return path


def test_check_of_a_good_bundle_ends_with_0_and_names_its_revision() -> None:
    text, as_json = run("check", POLICIES), run("check", POLICIES, "--format", "json")

    bundle = loaded_default().bundle
    assert text.exit_code == as_json.exit_code == 0
    assert text.output.splitlines() == [
        f"{bundle.revision} (serial 1)",
        "11 rules, 14 places, 4 tenants, 144 classes; more labels never permit more",
        f"{len(loaded_default().cases)} examples passed, 0 failed",
        "10 claims hold, 0 do not",
    ]
    said = json.loads(as_json.output)
    assert (said["valid"], said["revision"], said["rules"], said["classes"]) == (
        True,
        bundle.revision,
        11,
        144,
    )
    assert said["tests"]["passed"] is True


def test_test_prints_one_line_for_each_example() -> None:
    result = run("test", POLICIES)

    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:-1] == [f"pass  {case.name}" for case in loaded_default().cases]


@pytest.mark.parametrize("command", ["check", "test"])
def test_a_failing_example_ends_with_1_and_shows_the_rule_and_the_values(command: str, failing: Path) -> None:
    text, as_json = run(command, failing), run(command, failing, "--format", "json")

    assert text.exit_code == as_json.exit_code == 1
    assert "FAIL  confidential content is not logged, but the request is recorded\n" in text.output
    assert "`confidential-content-is-not-logged` denies it (tenant `acme-de` in `DE`" in text.output
    said = json.loads(as_json.output)
    said = said["tests"] if command == "check" else said
    assert [case["name"] for case in said["cases"] if not case["passed"]] == [
        "confidential content is not logged, but the request is recorded"
    ]


@pytest.fixture
def to_london(tmp_path: Path) -> Path:
    """Personal data of the EEA may go to London as well, which one claim says that it never does."""
    old, new = "health]}\n  unless: {place_in: EEA}", "health]}\n  unless: {place_in: [EEA, GB]}"
    return write(edited("residency/20-personal-data.yaml", old, new), tmp_path / "to-london")


def test_prove_of_a_good_bundle_ends_with_0_and_shows_every_claim_and_entrance() -> None:
    text, as_json = run("prove", POLICIES), run("prove", POLICIES, "--format", "json")

    assert text.exit_code == as_json.exit_code == 0
    lines = text.output.splitlines()
    claims = loaded_default().claims
    assert [line.split()[:2] for line in lines[: len(claims)]] == [["holds", claim.id] for claim in claims]
    assert lines[len(claims)].startswith("10 claims hold, 0 do not; 192 classes of requests in ")
    assert lines[len(claims) + 1 :] == [
        "entrance gateway (DE) cannot serve:",
        "  everyone; purpose analytics; any model",
        "       from the labels public, health: health-data-is-not-for-analytics",
    ]
    said = json.loads(as_json.output)
    assert (said["holds"], said["classes"]) == (True, 192)
    assert said["revision"] == loaded_default().bundle.revision
    assert [(claim["id"], claim["holds"], claim["witness"]) for claim in said["claims"]] == [
        (claim.id, True, None) for claim in claims
    ]
    assert said["seconds"] < 10
    (entrance,) = said["entrances"]
    assert (entrance["place"], entrance["country"]) == ("gateway", "DE")
    (group,) = entrance["cannot_serve"]
    assert len(group.pop("zones")) == len(loaded_default().bundle.geography.zones)
    assert group == {
        "tenants": ["acme-de", "demo", "globex-us", "nhs-gb"],
        "purposes": ["analytics"],
        "models": ["gpt-oss-120b", "gpt-oss-20b"],
        "labels_from": [["public", "health"]],
        "rules": ["health-data-is-not-for-analytics"],
    }


@pytest.mark.parametrize("command", ["prove", "check"])
def test_a_claim_that_fails_ends_with_1_and_shows_the_smallest_request_and_the_rule(
    command: str, to_london: Path
) -> None:
    text, as_json = run(command, to_london), run(command, to_london, "--format", "json")

    assert text.exit_code == as_json.exit_code == 1
    name = "personal-data-of-eea-tenants-never-leaves-the-eea"
    at = next(i for i, line in enumerate(text.output.splitlines()) if line.startswith(f"FAILS  {name} ("))
    assert text.output.splitlines()[at + 1 : at + 3] == [
        "       claims.yaml:8: broken by tenant `acme-de` in `DE`, labels `public, health`, purpose `care`, "
        "model `gpt-oss-120b`, coming in at `gateway`",
        "       `infer` at `bedrock-london` is permitted by `european-and-us-tenants-may-use-bedrock` "
        "(residency/90-permits.yaml:10)",
    ]
    assert "9 claims hold, 1 do not" in text.output
    failed = [claim for claim in json.loads(as_json.output)["claims"] if not claim["holds"]]
    assert [(claim["id"], claim["witness"]["place"]) for claim in failed] == [(name, "bedrock-london")]


def test_prove_of_a_bundle_without_claims_says_so(tmp_path: Path) -> None:
    files = default_files()
    del files["claims.yaml"]

    result = run("prove", write(files, tmp_path / "none"))

    assert result.exit_code == 0
    assert result.output.splitlines()[0] == "no claims; write some in `claims.yaml`"


@pytest.mark.parametrize("command", ["check", "test", "prove", "export", "explain"])
def test_an_invalid_bundle_ends_with_3_and_shows_file_line_and_what_to_write(
    command: str, broken: Path, tmp_path: Path
) -> None:
    request = request_file(tmp_path, "{tenant: demo, model: gpt-oss-20b}")
    options: dict[str, list[str | Path]] = {"export": ["--cedar"], "explain": ["--request", request]}
    more = options.get(command, [])
    line = (broken / "places.yaml").read_text().split("kind: engin\n")[0].count("\n") + 1

    text = run(command, broken, *more)
    as_json = run(command, broken, *more, "--format", "json")

    assert text.exit_code == as_json.exit_code == 3
    said = f"places.yaml:{line}:11: `engin` is not a value of `kind`; did you mean `engine`?\n"
    assert text.stderr == said
    assert text.stdout == ""
    assert json.loads(as_json.output) == {
        "valid": False,
        "problems": [
            {
                "file": "places.yaml",
                "line": line,
                "column": 11,
                "message": "`engin` is not a value of `kind`",
                "hint": "did you mean `engine`?",
            }
        ],
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "/nowhere/at/all"],
        ["nonsense"],
        ["check", POLICIES, "--fromat", "json"],
        ["check", POLICIES, "--format", "xml"],
        ["explain", POLICIES],
        ["explain", POLICIES, "--request", "/nowhere.yaml"],
        ["export", POLICIES],
    ],
)
def test_invalid_input_ends_with_3_never_with_2_which_means_denied(arguments: list[str | Path]) -> None:
    assert run(*arguments).exit_code == 3


def test_explain_of_a_permitted_request_ends_with_0(tmp_path: Path) -> None:
    request = request_file(tmp_path, "tenant: demo\nmodel: openai/gpt-oss-20b\nlabels: personal\n")

    result = run("explain", POLICIES, "--request", request)

    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:2] == [
        "permitted",
        "tenant demo (DE), purpose general, model gpt-oss-20b, labels public, personal",
    ]
    at = lines.index(
        "infer  bedrock-london    no  personal-data-of-eea-tenants-stays-in-the-eea (GDPR Art. 44)"
    )
    assert lines[at + 1 : at + 4] == [
        "         when tenant_in EEA: saw demo, DE, EEA, EU",
        "         when labels_any health, personal: saw personal",
        "         unless place_in EEA: saw bedrock-london, GB",
    ]
    assert "infer  local-engine      yes our-premises-serve-every-tenant" in lines
    assert "nearest alternative" not in result.output


def test_a_request_is_also_read_from_standard_input() -> None:
    arguments = ["explain", str(POLICIES), "--request", "-", "--format", "json"]

    result = CliRunner().invoke(policy, arguments, input="{tenant: demo, model: gpt-oss-20b}")

    assert result.exit_code == 0
    assert json.loads(result.output)["facts"]["tenant"] == "demo"


def test_explain_of_a_denied_request_ends_with_2_and_names_the_nearest_alternative(tmp_path: Path) -> None:
    request = request_file(
        tmp_path, '{"tenant": "demo", "model": "gpt-oss-20b", "labels": ["health"], "purpose": "analytics"}'
    )

    text = run("explain", POLICIES, "--request", request)
    as_json = run("explain", POLICIES, "--request", request, "--format", "json")

    assert text.exit_code == as_json.exit_code == 2
    assert text.output.splitlines()[0] == "denied"
    assert text.output.splitlines()[-1].startswith("nearest alternative: for the purpose `care`")
    said = json.loads(as_json.output)
    assert said["permitted"] is False
    assert said["facts"]["labels"] == ["public", "health"]
    assert {one["rule"] for one in said["candidates"] if one["action"] == "infer"} == {
        "health-data-is-not-for-analytics",
        "personal-data-of-eea-tenants-stays-in-the-eea",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{tenant: demo, model: gpt-oss-20b, label: personal}",
            "unknown key `label`; did you mean `labels`?",
        ),
        ("{tenant: demo, model: gpt-oss-20b, labels: [persona]}", "`persona` is not a label of this bundle"),
        ("{tenant: nobody, model: gpt-oss-20b}", "`nobody` is not a known tenant"),
        ("{tenant: demo}", "the key `model` is missing"),
        ("- demo", "`request.yaml`"),
        ("tenant: [", "not YAML"),
    ],
)
def test_an_invalid_request_file_ends_with_3(tmp_path: Path, text: str, message: str) -> None:
    result = run("explain", POLICIES, "--request", request_file(tmp_path, text))

    assert result.exit_code == 3
    assert message.strip("`") in result.stderr


def test_export_writes_cedar_that_cedar_reads(tmp_path: Path) -> None:
    printed = run("export", POLICIES, "--cedar")
    as_json = json.loads(run("export", POLICIES, "--cedar", "--format", "json").output)
    written = run("export", POLICIES, "--cedar", "--out", tmp_path / "out")

    assert printed.exit_code == written.exit_code == 0
    assert as_json["policies"] == printed.output == (tmp_path / "out/policies.cedar").read_text()
    entities = (tmp_path / "out/entities.json").read_text()
    assert as_json["entities"] == json.loads(entities)
    schema = cedarpy.Schema.from_str((tmp_path / "out/schema.cedarschema").read_text())
    assert cedarpy.validate_policies(printed.output, schema).validation_passed
    # With a schema, Cedar counts its four actions as entities too.
    assert len(cedarpy.Entities.from_json_str(entities, schema=schema)) == len(as_json["entities"]) + 4


def test_new_key_shows_a_key_once_with_the_hash_that_tenants_yaml_takes() -> None:
    first = json.loads(run("new-key", "--format", "json", "--id", "batch").output)
    second = json.loads(run("new-key", "--format", "json").output)
    text = run("new-key").output

    assert first["sha256"] == hashlib.sha256(first["key"].encode()).hexdigest()
    assert first["id"] == "batch"
    assert first["key"] != second["key"]
    assert len(first["key"]) >= 43
    key = text.splitlines()[0].removeprefix("key, shown this once: ")
    assert text.splitlines()[2:] == [
        "      - id: main",
        f"        sha256: {hashlib.sha256(key.encode()).hexdigest()}",
    ]


def test_schema_writes_what_is_checked_in(tmp_path: Path) -> None:
    written = json.loads(run("schema", "--out", tmp_path, "--format", "json").output)["written"]

    assert {Path(name).name for name in written} == {path.name for path in (POLICIES / "schema").iterdir()}
    printed = json.loads(run("schema").output)
    for name in written:
        fresh = Path(name).read_text()
        assert fresh == (POLICIES / "schema" / Path(name).name).read_text()
        assert printed[Path(name).name] == json.loads(fresh)
