"""Finds the fenced code blocks of the documents, with what each one asks to have done to it.

A directive is an HTML comment on the line before the fence, so that a reader of the page does not see it:

    <!-- docs-test: shell -->                 run from the root of the tree; exit 0
    <!-- docs-test: demo, prints choices -->  the same against `douane serve --demo`; prints "choices"
    <!-- docs-test: demo, as printed -->      the same, and `make run` prints this very block
    <!-- docs-test: shell, exits 2 -->        another exit status
    <!-- docs-test: policy routes.yaml -->    takes this file's place in the default bundle, which must load
    <!-- docs-test: not run: why -->          said to nobody but the next author

A YAML list of residency rules or of policy cases needs no directive: it shows what it is. Blocks in other
languages (output, JSON, diagrams) are for reading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKED = ("bash", "sh", "shell", "console", "python", "yaml")
DIRECTIVE = re.compile(r"^\s*<!-- docs-test: (?P<text>.+?) -->\s*$")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
KINDS = ("shell", "demo", "policy", "not run")
OPTION = re.compile(r"^(?P<name>prints|exits) (?P<value>.+)$")


class DirectiveInvalid(Exception):
    """A directive that nobody can carry out; the text says which and where."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """One fenced block: `kind` is one of KINDS, or "" when it carries no directive."""

    file: str
    line: int
    language: str
    text: str
    kind: str
    target: str = ""  # the policy file, or the reason for not running
    prints: str = ""
    exits: int = 0
    as_printed: bool = False

    @property
    def where(self) -> str:
        """What a failing test is called."""
        return f"{self.file}:{self.line}"


def documents() -> list[Path]:
    """What tells a reader how to do things: the README and docs/, but not the decisions."""
    pages = [p for p in (ROOT / "docs").rglob("*.md") if "decisions" not in p.parts]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(pages)]


def parse_directive(text: str, where: str) -> dict[str, str | int | bool]:
    """Fields of Snippet. Raises DirectiveInvalid."""
    if text.startswith("not run: "):
        return {"kind": "not run", "target": text.removeprefix("not run: ")}
    kind, *options = (part.strip() for part in text.split(","))
    kind, _, target = kind.partition(" ")
    if kind not in KINDS or (kind == "policy") != bool(target):
        raise DirectiveInvalid(f"{where}: `{text}` is none of {', '.join(KINDS)}; see tests/docs/snippets.py")
    fields: dict[str, str | int | bool] = {"kind": kind, "target": target}
    for option in options:
        if option == "as printed":
            fields["as_printed"] = True
            continue
        match = OPTION.match(option)
        if match is None:
            raise DirectiveInvalid(
                f"{where}: `{option}` is none of `prints TEXT`, `exits STATUS`, `as printed`"
            )
        fields[match["name"]] = int(match["value"]) if match["name"] == "exits" else match["value"]
    return fields


def shown_kind(language: str, text: str) -> dict[str, str | int | bool]:
    """What a YAML block without a directive shows itself to be."""
    if language == "yaml" and re.search(r"^ *(forbid|permit):", text, re.MULTILINE):
        return {"kind": "policy", "target": "residency/from-a-document.yaml"}
    if language == "yaml" and re.search(r"^ *expect:", text, re.MULTILINE):
        return {"kind": "policy", "target": "tests/from-a-document.yaml"}
    return {"kind": ""}


def snippets_of(name: str, text: str) -> list[Snippet]:
    """Every fenced block of one document, in its order. Raises DirectiveInvalid."""
    found: list[Snippet] = []
    directive = ""
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        fence = FENCE.match(line)
        if fence is None:
            match = DIRECTIVE.match(line)
            directive = match["text"] if match else directive if not line.strip() else ""
            continue
        body: list[str] = []
        for _, inner in lines:
            if inner.strip() == "```":
                break
            body.append(inner.removeprefix(fence["indent"]))
        block = "\n".join(body) + "\n"
        where = f"{name}:{number}"
        fields = parse_directive(directive, where) if directive else shown_kind(fence["language"], block)
        found.append(Snippet(name, number, fence["language"], block, **fields))  # type: ignore[arg-type]
        directive = ""
    return found


def all_snippets() -> list[Snippet]:
    """Every block of every document."""
    return [
        snippet
        for page in documents()
        for snippet in snippets_of(page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8"))
    ]
