"""A checkpoint: where a chain stood at one moment, signed, so that nobody without the key can write it anew.

It stands in the chain as a record of its own, right after the record that it names, and is worth as much
outside: a copy that somebody else keeps is an anchor for everything before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gateway.receipts.jwk import PublicKey
from gateway.receipts.jws import Malformed, open_signed, open_unverified

CHECKPOINT_TYPE: Final = "douane-checkpoint+jws"
VERSION: Final = 1


@dataclass(frozen=True)
class Checkpoint:
    """Record `sequence` of `replica` has this `hash`, and is the last one at `time` (UTC, the host's clock).

    `within` is a promise: at most so many records follow before the next checkpoint.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    replica: str
    sequence: int
    hash: str
    time: str
    within: int

    def claims(self) -> dict[str, Any]:
        return {**asdict(self), "v": VERSION}


_ADAPTER: Final = TypeAdapter(Checkpoint)


def verify_checkpoint(jws: str, pinned: Mapping[str, PublicKey]) -> Checkpoint:
    """What one of the `pinned` keys has signed. Raises `jws.Malformed` or `jws.NotGenuine`."""
    return _read(open_signed(jws, CHECKPOINT_TYPE, pinned).claims)


def read_checkpoint(jws: str) -> Checkpoint:
    """What nobody has vouched for. Raises `jws.Malformed` or `jws.NotGenuine`."""
    return _read(open_unverified(jws, CHECKPOINT_TYPE).claims)


def _read(claims: dict[str, Any]) -> Checkpoint:
    version = claims.pop("v", None)
    if type(version) is not int or version != VERSION:
        raise Malformed(f"its `v` is not {VERSION}; check it with a douane that knows its version")
    try:
        return _ADAPTER.validate_json(orjson.dumps(claims))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Malformed(f"its claim `{where}` is wrong: {first['msg'].lower()}") from None
