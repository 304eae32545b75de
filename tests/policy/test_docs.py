"""docs/policies.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from click.testing import CliRunner

from gateway.cli.policy import policy
from gateway.policy.library import shipped
from gateway.policy.lint import Kind
from gateway.policy.permit import permit
from gateway.policy.runner import run_case
from gateway.policy.source.claims import OF_ALWAYS, OF_NEVER, ClaimEntry
from gateway.policy.source.directory import ADOPTED, SIGNATURES
from gateway.policy.source.residency import UnlessEntry, WhenEntry
from tests.policy.bundles import compiled, default_files, edited, loaded_default, problems_of, write

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "policies.md").read_text()
REVIEW = (DOCS / "policy-review.md").read_text()


def rows(heading: str, page: str = PAGE) -> list[list[str]]:
    """The cells of the first table after a heading."""
    lines = page.split(heading, 1)[1].splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_the_table_of_the_default_bundle_has_each_rule_in_order() -> None:
    named = [row[0].strip("`") for row in rows("## The default bundle, in one table")]

    assert named == [rule.id for rule in loaded_default().bundle.rules]


def test_the_table_of_conditions_is_the_whole_language() -> None:
    table = {row[0].strip("`"): row[2:] for row in rows("All the conditions there are.")}

    assert set(table) == set(WhenEntry.model_fields)
    assert {name for name, (_, unless) in table.items() if unless == "yes"} == set(UnlessEntry.model_fields)
    assert all(when == "yes" for when, _ in table.values())


def test_the_rule_that_is_shown_is_the_one_that_ships() -> None:
    shipped = default_files()["residency/20-personal-data.yaml"].decode()

    assert blocks("yaml")[0] in shipped


def test_the_permit_that_is_said_not_to_load_does_not_load() -> None:
    files = default_files()
    files["residency/95-more.yaml"] = blocks("yaml")[1].encode()
    files["tenants.yaml"] = files["tenants.yaml"].replace(b"zone: GB", b"zone: JP")

    (problem,) = problems_of(files)

    assert problem.message.startswith(
        "more labels would permit more: `internal-work-may-use-bedrock` permits"
    )


def test_the_example_that_is_shown_passes() -> None:
    files = default_files()
    files["tests/from-the-page.yaml"] = blocks("yaml")[2].encode()
    loaded = compiled(files)

    (case,) = [case for case in loaded.cases if case.file == "tests/from-the-page.yaml"]

    assert run_case(loaded.bundle, case).failures == ()
    assert permit(case.facts, loaded.bundle).recordable


def test_the_claims_that_are_shown_are_ones_that_ship() -> None:
    shipped = default_files()["claims.yaml"].decode()
    shown = [block for block in blocks("yaml") if "never:" in block or "always:" in block]

    assert len(shown) == 2
    assert [block for block in shown if block not in shipped] == []


def test_the_table_of_claims_is_the_whole_language() -> None:
    table = {
        key.strip(" `"): of.strip("`")
        for row in rows("There are two kinds of claim.")
        for key, of in keys(row)
    }

    assert set(table) == set(ClaimEntry.model_fields) - {"never", "always"}
    assert {key for key, of in table.items() if of == "never"} == set(OF_NEVER)
    assert {key for key, of in table.items() if of.startswith("always")} == set(OF_ALWAYS)


def keys(row: list[str]) -> list[tuple[str, str]]:
    """The keys of a row of the table of claims, each with what it belongs to."""
    return [(key, row[1]) for key in row[0].split(", ")]


def test_the_claim_that_is_shown_to_fail_fails_so(tmp_path: Path) -> None:
    old, new = "health]}\n  unless: {place_in: EEA}", "health]}\n  unless: {place_in: [EEA, GB]}"
    files = edited("residency/20-personal-data.yaml", old, new)
    (shown,) = [block for block in blocks("text") if block.startswith("FAILS")]

    printed = CliRunner().invoke(policy, ["prove", str(write(files, tmp_path))]).output

    assert shown in printed


def test_the_message_that_is_shown_is_the_one_that_is_printed() -> None:
    (problem,) = problems_of(edited("places.yaml", "kind: engine", "kind: engin"))

    assert f"{problem.text()}\n" in blocks("text")


def test_every_file_of_a_bundle_is_in_the_table_of_files() -> None:
    named = {row[0].strip("`") for row in rows("## The files")}

    found = {f"{name.split('/')[0]}/" if "/" in name else name for name in default_files()}
    assert named == found | {f"{ADOPTED}/", f"{SIGNATURES}/"}


def test_the_difference_that_is_shown_is_the_one_that_is_printed(tmp_path: Path) -> None:
    old, new = "health]}\n  unless: {place_in: EEA}", "health]}\n  unless: {place_in: [EEA, GB]}"
    files = edited("residency/20-personal-data.yaml", old, new)
    lowered = edited("tenants.yaml", "      default: [internal]\n", "      default: [public]\n")
    before = write(default_files(), tmp_path / "before")
    shown = blocks("text", REVIEW)[:2]

    printed = [
        CliRunner().invoke(policy, ["diff", str(before), str(write(after, tmp_path / name))]).output
        for name, after in (("to-london", files), ("lowered", lowered))
    ]

    assert [block for block, output in zip(shown, printed, strict=True) if block not in output] == []


def test_the_table_of_findings_has_every_kind_and_the_table_of_packs_every_pack() -> None:
    assert [row[0].strip("`") for row in rows("## What does nothing", REVIEW)] == [
        kind.value for kind in Kind
    ]
    packs = {row[0].strip("`") for row in rows("## Packs: rules that others have written", REVIEW)}
    assert packs == set(shipped())


def test_the_workflow_that_is_shown_is_yaml_and_asks_the_commands_that_there_are() -> None:
    (text,) = blocks("yaml", REVIEW)
    workflow = yaml.safe_load(text)

    scripts = [step["run"] for step in workflow["jobs"]["review"]["steps"] if "run" in step]
    asked = {match for script in scripts for match in re.findall(r"douane policy (\w+)", script)}
    assert asked == {"check", "lint", "diff"} <= set(policy.commands)
    assert all("${{" not in script for script in scripts if "gh pr comment" not in script)
