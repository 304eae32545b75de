"""What the documents tell a reader to type works as typed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.policy.load import compile_files
from gateway.policy.source.directory import read_directory
from tests.docs.snippets import CHECKED, ROOT, DirectiveInvalid, Snippet, all_snippets, documents, snippets_of
from tests.docs.stack import Stack, commands_environment, demo_stack

SNIPPETS = all_snippets()


def of_kind(kind: str) -> list[object]:
    """The snippets of one kind, each named by its file and line."""
    return [pytest.param(s, id=s.where) for s in SNIPPETS if s.kind == kind]


def run(snippet: Snippet, text: str, environment: dict[str, str]) -> str:
    """Runs a block in its language and checks what its directive says; gives its standard output."""
    shell = ["bash", "-euo", "pipefail", "-s"]
    interpreter = [sys.executable, "-"] if snippet.language == "python" else shell
    done = subprocess.run(interpreter, input=text, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == snippet.exits, f"{snippet.where}\n{done.stdout}\n{done.stderr}"
    assert snippet.prints in done.stdout, f"{snippet.where} printed\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One demo for all snippets that talk to it."""
    with demo_stack(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.mark.needs("curl", "make")
@pytest.mark.parametrize("snippet", of_kind("demo"))
def test_a_snippet_works_against_the_running_demo(snippet: Snippet, stack: Stack) -> None:
    run(snippet, stack.adapt(snippet.text), stack.environment())


@pytest.mark.needs("make")
def test_what_make_run_prints_is_what_the_readme_shows(stack: Stack) -> None:
    printed = stack.printed.read_text(encoding="utf-8")
    shown = [s for s in SNIPPETS if s.as_printed]

    assert {(s.file, s.language) for s in shown} == {("README.md", "bash"), ("README.md", "python")}
    assert [s.where for s in shown if stack.adapt(s.text) not in printed] == []


@pytest.mark.parametrize("snippet", of_kind("shell"))
def test_a_snippet_works_in_the_tree(snippet: Snippet) -> None:
    run(snippet, snippet.text, commands_environment())


@pytest.mark.parametrize("snippet", of_kind("policy"))
def test_a_policy_snippet_loads_within_the_default_bundle(snippet: Snippet, tmp_path: Path) -> None:
    bundle = shutil.copytree(ROOT / "policies", tmp_path / "bundle")
    for rule in re.findall(r"^- id: (\S+)$", snippet.text, re.MULTILINE):
        for file in (bundle / "residency").glob("*.yaml"):
            # A rule that a document shows stands in for the one of that name.
            block = rf"^- id: {re.escape(rule)}\n(?: .*\n|\n)*"
            kept = re.sub(block, "", file.read_text(), flags=re.MULTILINE)
            if "- id:" in kept:
                file.write_text(kept)
            else:
                file.unlink()
    (bundle / snippet.target).write_text(snippet.text)

    assert compile_files(read_directory(bundle)).bundle.rules


def test_every_block_that_could_be_checked_is_checked_or_says_why_not() -> None:
    assert [s.where for s in SNIPPETS if s.language in CHECKED and not s.kind] == []


def test_the_readme_has_something_to_run_of_every_kind() -> None:
    kinds = {s.kind for s in SNIPPETS if s.file == "README.md"}

    assert {"demo", "shell", "policy"} <= kinds
    assert {s.language for s in SNIPPETS if s.file == "README.md" and s.kind == "demo"} == {"bash", "python"}


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [p.relative_to(ROOT / "docs").as_posix() for p in documents() if (ROOT / "docs") in p.parents]

    assert [page for page in pages if page != "README.md" and f"({page})" not in index] == []


def test_a_block_takes_the_directive_before_it_and_no_other() -> None:
    directed = "<!-- docs-test: shell, exits 2, prints no -->\n```bash\nfalse\n```\n"
    text = directed + "\nprose\n\n```python\n1\n```\n"

    assert snippets_of("page.md", text) == [
        Snippet("page.md", 2, "bash", "false\n", "shell", prints="no", exits=2),
        Snippet("page.md", 8, "python", "1\n", ""),
    ]


@pytest.mark.parametrize("directive", ["shel", "policy", "shell routes.yaml", "shell, writes x"])
def test_a_directive_that_means_nothing_is_refused(directive: str) -> None:
    with pytest.raises(DirectiveInvalid, match=r"^page\.md:2: "):
        snippets_of("page.md", f"<!-- docs-test: {directive} -->\n```bash\ntrue\n```\n")
