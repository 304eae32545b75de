"""Signatures of bundles: a statement about one revision, signed by whoever vouches for it. No I/O.

`signatures/*.jws` are compact JWS whose content is detached in the sense that matters: the statement names
the bundle by the hash over all of its files, and holds nothing of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from gateway.receipts.jwk import PublicKey
from gateway.receipts.jws import Malformed, NotGenuine, header_of, open_signed, open_unverified
from gateway.receipts.jws import sign as jws_of
from gateway.receipts.signer import SigningKey

TYPE: Final = "douane-policy+jws"
VERSION: Final = 1
QUOTED_MAX: Final = 200
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_REVISION: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_KID: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signer says: this revision, with this serial, is the policy. `signed_at` is the signer's clock,
    and nothing is decided by it."""

    policy_revision: str
    serial: int
    signed_at: str


class Standing(StrEnum):
    """What a signature is worth for one bundle."""

    GOOD = "good"
    MALFORMED = "malformed"
    FOREIGN_KEY = "foreign_key"
    ALTERED = "altered"
    OTHER_BUNDLE = "other_bundle"
    OTHER_SERIAL = "other_serial"


@dataclass(frozen=True, slots=True)
class Judged:
    """One signature file. `kid` and `statement` are those of the text, None where it is malformed; only of a
    good one, or one of another bundle or serial, did a trusted key vouch for them. `said` is the judgement in
    words."""

    file: str
    standing: Standing
    said: str
    kid: str | None = None
    statement: Statement | None = None

    @property
    def good(self) -> bool:
        return self.standing is Standing.GOOD


def sign(statement: Statement, key: SigningKey) -> str:
    """The compact JWS over a statement."""
    claims = {"v": VERSION, **asdict(statement)}
    return jws_of(header_of(key.kid, TYPE), claims, key.private)


def judge(
    file: str, content: bytes, trusted: Mapping[str, PublicKey], revision: str, serial: int | None
) -> Judged:
    """What the signature in `file` is worth for the bundle with this revision and serial (None: not known
    yet). `trusted` are the keys that are believed, by thumbprint."""
    try:
        jws = content.decode("ascii").strip()
        opened = open_unverified(jws, TYPE)
        kid = opened.kid
        if not _KID.fullmatch(kid):
            raise Malformed("its `kid` is not the thumbprint of a key")
        statement = read_statement(opened.claims)
    except UnicodeDecodeError:
        return Judged(file, Standing.MALFORMED, "it is no signature: it is not a compact JWS")
    except (Malformed, NotGenuine) as error:
        return Judged(file, Standing.MALFORMED, f"it is no signature of a policy: {plain(str(error))}")
    if kid not in trusted:
        said = f"it is by the key `{kid}`, which is not among the trusted ones"
        return Judged(file, Standing.FOREIGN_KEY, said, kid, statement)
    try:
        open_signed(jws, TYPE, trusted)
    except NotGenuine:
        said = f"it does not fit: it was altered, or not made by `{kid}`"
        return Judged(file, Standing.ALTERED, said, kid, statement)
    if statement.policy_revision != revision:
        said = (
            f"`{kid}` signed another content, `{statement.policy_revision}` (serial {statement.serial}), "
            f"and this is `{revision}`"
        )
        return Judged(file, Standing.OTHER_BUNDLE, said, kid, statement)
    if serial is not None and statement.serial != serial:
        said = f"`{kid}` signed it with serial {statement.serial}, and `bundle.yaml` says {serial}"
        return Judged(file, Standing.OTHER_SERIAL, said, kid, statement)
    return Judged(file, Standing.GOOD, f"signed by `{kid}` at {statement.signed_at}", kid, statement)


def plain(text: str) -> str:
    """What may quote a file that anybody may have written: short, and nothing that steers a terminal."""
    return "".join(one if one.isprintable() else "?" for one in text[:QUOTED_MAX])


def read_statement(claims: Mapping[str, Any]) -> Statement:
    """Raises Malformed for anything but a statement of this version."""
    claims = dict(claims)
    version = claims.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise Malformed(f"its `v` is not {VERSION}; check it with a douane that knows its version")
    if set(claims) != {"policy_revision", "serial", "signed_at"}:
        raise Malformed("its payload has other members than `v`, `policy_revision`, `serial`, `signed_at`")
    try:
        statement = TypeAdapter(Statement).validate_json(json.dumps(claims), strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Malformed(f"its `{where}` is wrong: {first['msg'].lower()}") from None
    if not _REVISION.fullmatch(statement.policy_revision):
        raise Malformed("its `policy_revision` is not `sha256:` and 64 hexadecimal digits")
    if not _TIME.fullmatch(statement.signed_at):
        raise Malformed("its `signed_at` is not a UTC time in seconds")
    return statement
