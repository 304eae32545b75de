"""What lets a text carry less, or a place be shown more, without any rule, tenant or key having changed.

Detectors, redaction, marks of messages and private ranges are about texts and addresses, which no list of
labels can show. So what is less of them counts as newly allowing as a whole.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Final

from gateway.places import BACKEND_KINDS, IpNetwork
from gateway.policy.beside import Beside, words
from gateway.policy.bundle import Bundle
from gateway.policy.source.directory import Files
from gateway.policy.source.document import parse_document

DETECTORS: Final = "detectors.yaml"
LABELLING: Final = frozenset({"detect", "patterns"})  # of which a line less lets texts carry less


def weakenings(before: Bundle, after: Bundle, old: Files, new: Files) -> Iterator[Beside]:
    """Every such change, and what else has changed in the same places."""
    yield from marks(before, after)
    yield from ranges(before, after)
    yield from lines(old, new)
    yield from bounds(before, after)
    yield from phones(before, after)
    yield from redactions(before, after)


def marks(before: Bundle, after: Bundle) -> Iterator[Beside]:
    was, now = before.marked_from_bytes, after.marked_from_bytes
    if was != now:
        text = (
            f"messages of at least {now} bytes bring their labels along, before of at least {was}"
            if now and was
            else f"only messages of at least {now} bytes bring their labels along, before every one"
            if now
            else f"every message brings its labels along, before of at least {was} bytes"
        )
        yield Beside("bundle.yaml", text, loosens=now > was)


def ranges(before: Bundle, after: Bundle) -> Iterator[Beside]:
    """Addresses at which a place may be reached that it could not be before."""
    for place in sorted(before.places.keys() & after.places.keys()):
        was, now = before.places[place].private_range, after.places[place].private_range
        if set(was) != set(now):
            text = f"the place `{place}`: private range was `{networks(was)}`, is `{networks(now)}`"
            yield Beside("places.yaml", text, loosens=bool(was) and not covered(now, was))


def covered(these: tuple[IpNetwork, ...], by: tuple[IpNetwork, ...]) -> bool:
    """Whether these networks, of which there is one at least, hold no address that the others do not."""
    whole = [*collapsed(by, 4), *collapsed(by, 6)]
    return bool(these) and all(
        any(one.version == other.version and one.subnet_of(other) for other in whole)  # type: ignore[arg-type]
        for one in these
    )


def collapsed(several: tuple[IpNetwork, ...], version: int) -> list[IpNetwork]:
    """The networks of one version of IP, neighbours joined."""
    return list(ipaddress.collapse_addresses(one for one in several if one.version == version))  # type: ignore[type-var]


def networks(several: tuple[IpNetwork, ...]) -> str:
    return words(str(one) for one in several)


def lines(old: Files, new: Files) -> Iterator[Beside]:
    """Detectors only add labels: a line more allows nothing, a line less lets some text carry less. What a
    line of `redact` or `limits` means is told by `redactions` and `bounds`."""
    was, now = (lines_of(side) for side in (old, new))
    for _, line in sorted(now - was):
        yield Beside(DETECTORS, f"added: {line}")
    for key, line in sorted(was - now):
        loosens = key in LABELLING
        yield Beside(DETECTORS, f"gone: {line}{'; texts that it found carry less' * loosens}", loosens)


def lines_of(files: Files) -> frozenset[tuple[str, str]]:
    """Each entry of each list of the file in one line, other values with their key; after its key."""
    if DETECTORS not in files.content:
        return frozenset()
    data = parse_document(DETECTORS, files.content[DETECTORS]).data
    return frozenset(
        (key, f"`{key}: {json.dumps(entry, sort_keys=True)}`")
        for key, value in data.items()
        for entry in (value if isinstance(value, list) else [value])
    )


def bounds(before: Bundle, after: Bundle) -> Iterator[Beside]:
    """A longer text may be read now, and carry what is found in it rather than everything."""
    if before.detectors is None or after.detectors is None:
        return
    was, now = before.detectors.text_bytes_max, after.detectors.text_bytes_max
    if now > was:
        text = (
            f"texts of more than {was} up to {now} bytes are read, and no longer count as holding everything"
        )
        yield Beside(DETECTORS, text, loosens=True)


def phones(before: Bundle, after: Bundle) -> Iterator[Beside]:
    """National phone numbers are read as of the tenant's country."""
    if before.detectors is None or "phone" not in before.detectors.scanner.wanted:
        return
    for tenant in sorted(before.tenants.keys() & after.tenants.keys()):
        was, now = before.tenants[tenant].zone, after.tenants[tenant].zone
        if was != now:
            text = f"`{tenant}`: national phone numbers are found as dialled in `{now}`, before in `{was}`"
            yield Beside("tenants.yaml", text, loosens=True)


def redactions(before: Bundle, after: Bundle) -> Iterator[Beside]:
    """Kinds that a place is shown, and was not: because of `redact`, or of what is now said of the place."""
    if before.detectors is None:
        return
    for place in sorted(before.places.keys() & after.places.keys()):
        was, now = before.places[place], after.places[place]
        if was.kind in BACKEND_KINDS and now.kind in BACKEND_KINDS:
            kept = after.detectors.redacted_at(now) if after.detectors is not None else frozenset()
            if shown := before.detectors.redacted_at(was) - kept:
                text = f"the place `{place}` is sent `{words(shown)}` as it stands, before redacted"
                yield Beside(DETECTORS, text, loosens=True)
