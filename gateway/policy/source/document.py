"""One YAML file as plain values, with the line and column of every one of them.

Only what a policy needs of YAML: mappings with text keys, lists and plain scalars. Anchors, aliases, tags,
merge keys and repeated keys are refused. Scalars are read as YAML 1.2's core schema reads them, so `NO` is
Norway and `on` is a word; only `true` and `false` are booleans.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from gateway.policy.problems import PolicyInvalid, Problem

DEPTH_MAX: Final = 24
TEXT_TAGS: Final = frozenset({"tag:yaml.org,2002:str", "!"})
INTEGER: Final = re.compile(r"[-+]?[0-9]{1,18}")
FLOAT: Final = re.compile(
    r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]{1,3})?|[0-9]{1,18}[eE][-+]?[0-9]{1,3})"
)
WORDS: Final[Mapping[str, bool | None]] = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
}

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """The values of a file. `keys` says where a key of a mapping stands, `values` where a value does."""

    file: str
    data: Any
    keys: Mapping[Path, Mark]
    values: Mapping[Path, Mark]

    def mark(self, path: Path, *, key: bool = False) -> Mark:
        """Where the value (or the key) at `path` stands, or the nearest thing around it that exists."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Mark(1, 1))

    def problem(self, path: Path, message: str, hint: str, *, key: bool = False) -> Problem:
        """A problem with the value (or the key) at `path`."""
        mark = self.mark(path, key=key)
        return Problem(self.file, mark.line, mark.column, message, hint)


class Refused(Exception):
    """YAML that a policy may not use."""

    def __init__(self, mark: yaml.Mark, message: str, hint: str) -> None:
        super().__init__(message)
        self.mark, self.message, self.hint = mark, message, hint


class NodeLoader(yaml.SafeLoader):
    """Composes nodes only: no values are constructed, and no scalar is given a type."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (declared so by the base class)

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise Refused(event.start_mark, "anchors and aliases are not supported", "write the value out")
        if self.depth >= DEPTH_MAX:
            raise Refused(event.start_mark, f"nested more than {DEPTH_MAX} deep", "write it flatter")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def parse_document(file: str, content: bytes) -> Document:
    """The document in these bytes. Raises PolicyInvalid."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PolicyInvalid([Problem(file, line, None, "not UTF-8", "save the file as UTF-8")]) from None
    loader = None
    try:
        loader = NodeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise PolicyInvalid([Problem(file, 1, None, "the file is empty", "see docs/policies.md")])
        keys: dict[Path, Mark] = {}
        values: dict[Path, Mark] = {}
        data = value_of(node, (), keys, values)
    except Refused as error:
        raise PolicyInvalid([at(file, error.mark, error.message, error.hint)]) from None
    except yaml.MarkedYAMLError as error:
        said = " ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        raise PolicyInvalid(
            [at(file, mark, f"not YAML: {said}", "check the indentation and quotes")]
        ) from None
    except yaml.YAMLError as error:
        said = str(error).splitlines()[0].lower()
        raise PolicyInvalid([Problem(file, 0, None, f"not YAML: {said}", "remove the character")]) from None
    finally:
        if loader is not None:
            loader.dispose()
    return Document(file, data, keys, values)


def value_of(node: yaml.Node, path: Path, keys: dict[Path, Mark], values: dict[Path, Mark]) -> Any:
    """The plain value of a node; notes where it stands."""
    values[path] = mark_of(node.start_mark)
    if isinstance(node, yaml.ScalarNode):
        if node.tag not in TEXT_TAGS:
            raise Refused(node.start_mark, f"the tag `{node.tag}` is not supported", "remove it")
        return scalar(node.value) if node.style is None and node.tag != "!" else node.value
    if isinstance(node, yaml.SequenceNode):
        if node.tag != "tag:yaml.org,2002:seq":
            raise Refused(node.start_mark, f"the tag `{node.tag}` is not supported", "remove it")
        return [value_of(item, (*path, index), keys, values) for index, item in enumerate(node.value)]
    if node.tag != "tag:yaml.org,2002:map":
        raise Refused(node.start_mark, f"the tag `{node.tag}` is not supported", "remove it")
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in TEXT_TAGS:
            raise Refused(key_node.start_mark, "a key must be a word", "write a plain key")
        key = key_node.value
        if key in found:
            raise Refused(key_node.start_mark, f"the key `{key}` appears twice", "keep one of them")
        keys[(*path, key)] = mark_of(key_node.start_mark)
        found[key] = value_of(value_node, (*path, key), keys, values)
    return found


def scalar(text: str) -> str | int | float | bool | None:
    """A plain scalar, as YAML 1.2's core schema reads it.

    Octal and hexadecimal numbers, infinity, NaN and whole numbers of more than 18 digits stay text: nothing
    in a policy is one, and a hash that happens to have no letter must not become a number.
    """
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    return text


def mark_of(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def at(file: str, mark: yaml.Mark | None, message: str, hint: str) -> Problem:
    """A problem at a mark of the YAML reader."""
    if mark is None:
        return Problem(file, 0, None, message, hint)
    return Problem(file, mark.line + 1, mark.column + 1, message, hint)
