"""The page on the audit names every kind of record and every word that the check may say."""

from __future__ import annotations

import re
import typing
from pathlib import Path

from gateway.audit import witnesses
from gateway.audit.alterations import find_alterations
from gateway.audit.chain import CHAIN_FIELDS
from gateway.audit.records import Record
from gateway.audit.verify import limits

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
SOURCE = "".join(
    Path(one.__code__.co_filename).read_text() for one in (find_alterations, witnesses.hear_anchors)
)


def table(heading: str) -> list[str]:
    """The first column of the table with this first heading."""
    body = PAGE.split(f"| {heading} |")[1].split("\n\n")[0]
    return re.findall(r"^\| `(\w+)`", body, re.MULTILINE)


def test_the_chains_own_fields_are_all_described() -> None:
    assert set(table("field")) == CHAIN_FIELDS


def test_every_kind_of_record_is_named() -> None:
    (row,) = re.findall(r"^\| `kind` \| (.*) \|$", PAGE, re.MULTILINE)

    assert re.findall(r"`(\w+)`", row) == [kind.kind for kind in typing.get_args(Record)]


def test_every_word_for_an_alteration_is_explained() -> None:
    used = set(re.findall(r'[_ (](?:finding|Finding|at)\([^"]*"(\w+)"', SOURCE))

    assert used == {
        "edited", "dropped", "reordered", "duplicated", "inserted",
        "forged", "unsigned", "cut", "rewritten", "missing",
    }  # fmt: skip
    assert set(table("code")) == used


def test_the_page_is_as_honest_about_the_limits_as_the_command() -> None:
    def listed(heading: str) -> tuple[str, ...]:
        section = PAGE.split(f"### What it cannot find {heading}\n")[1].split("\n###")[0]
        return tuple(re.findall(r"^- (.*)[,.]$", section, re.MULTILINE))

    assert listed("alone") == limits(keyed=False, anchored=False)
    assert listed("with the key") == limits(keyed=True, anchored=False)
    assert listed("with key and anchors") == limits(keyed=True, anchored=True)
