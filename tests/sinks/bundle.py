"""The default bundle with sinks: a content log and a collector of traces, on the premises and abroad."""

from __future__ import annotations

from pathlib import Path

from tests.integration.bundle import bundle_with_keys, edit, without_examples

CONTENT_LOG = "content-log"
COLLECTOR = "collector"
ABROAD = "collector-abroad"  # may record what is public

PLACES = """\

  - id: content-log
    kind: log
    country: DE
    operator: self
    attested: [on-premises]

  - id: collector
    kind: trace
    country: DE
    operator: self
    attested: [on-premises]

  - id: collector-abroad
    kind: trace
    country: US
    operator: self

  - id: log-abroad
    kind: log
    country: US
    operator: self
"""

RULES = """\
- id: what-is-public-may-be-recorded-abroad
  description: Who asked for what is public.
  permit: [record, log]
  when: {place_in: [collector-abroad, log-abroad]}

- id: what-is-not-public-may-not-be-recorded-abroad
  basis: the tests'
  description: Not even that there was a request.
  forbid: [record]
  when: {sensitivity_at_least: internal, place_in: [collector-abroad, log-abroad]}

- id: what-is-financial-is-not-read-here
  basis: the tests'
  description: The gateway is not to read it; the content log could keep it.
  forbid: [infer]
  when: {labels_any: [financial], place_in: [gateway]}
"""


def bundle_with_sinks(directory: Path) -> Path:
    """A copy of the default bundle with the tests' keys, places of sinks, and rules for those abroad."""
    bundle_with_keys(directory)
    without_examples(directory)
    places = directory / "places.yaml"
    places.write_text(places.read_text() + PLACES)
    (directory / "residency" / "80-sinks.yaml").write_text(RULES)
    return directory


def forbid_log(directory: Path) -> None:
    """From the next load on no content may be written down anywhere."""
    edit(
        directory / "residency" / "90-permits.yaml",
        "permit: [infer, cache, log, record]",
        "permit: [infer, cache, record]",
    )


def permit_log(directory: Path) -> None:
    """Takes `forbid_log` back."""
    edit(
        directory / "residency" / "90-permits.yaml",
        "permit: [infer, cache, record]",
        "permit: [infer, cache, log, record]",
    )


def forbid_record(directory: Path, place: str) -> None:
    """From the next load on not even metadata may be written down at this place."""
    rule = (
        f"- id: nothing-at-{place}\n  basis: the tests'\n  description: Nothing is written there.\n"
        f"  forbid: [record]\n  when: {{place_in: [{place}]}}\n"
    )
    (directory / "residency" / "70-nothing.yaml").write_text(rule)
