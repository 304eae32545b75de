"""One line of the content log: who asked, in clear; what was asked and answered, sealed; digests of both.

    {"v":1,"detail":"content","time":…,"request":…,"tenant":…,…,"request_hmac":…,"answer_hmac":…,"sealed":…}

`sealed` is base64 of AES-256-GCM under the tenant's key over `{"request":…,"answer":…}` or, of a stream,
`{"request":…,"events":[…]}`. Everything before it in the line is what the seal is bound to: a line that was
changed, or whose content was moved to another line, does not open.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.audit.chain import time_text
from gateway.errors import KeysUnavailable, TenantErased
from gateway.keys.keyring import Keyring, Unsealable
from gateway.openai import UNREAD
from gateway.sinks.detail import Detail
from gateway.sinks.story import Story

FORMAT: Final = 1
PURPOSE: Final = b"content-log\n"


class EntryInvalid(ValueError):
    """A line that is no entry, or whose content does not open; never says what was inside."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An entry as it was written. `content` is None where only its digests were permitted."""

    head: dict[str, Any]
    content: dict[str, Any] | None


def line_of(story: Story, detail: Detail, keys: Keyring) -> bytes:
    """The line, with its end. `detail` is not `nothing`: then there is no line."""
    head = orjson.dumps(head_of(story, detail, keys))
    if detail is not Detail.CONTENT:
        return head + b"\n"
    sealed = base64.b64encode(keys.seal(story.tenant, PURPOSE + head, content_of(story)))
    return b'%b,"sealed":"%b"}\n' % (head[:-1], sealed)


def head_of(story: Story, detail: Detail, keys: Keyring) -> dict[str, Any]:
    """What `record` permits: ids, words of the bundle's, codes, numbers and keyed digests."""
    return {
        "v": FORMAT,
        "detail": detail,
        "time": time_text(story.ended_at),
        "request": story.request,
        "receipt": story.receipt,
        "tenant": story.tenant,
        "key": story.key,
        "zone": story.facts.zone,
        "purpose": story.facts.purpose,
        "model": story.facts.model,
        "labels": story.facts.labels.names(),
        "revision": story.revision,
        "serial": story.serial,
        "outcome": story.outcome,
        "status": story.status,
        "code": story.code,
        "cache": story.cache,
        "usage": story.usage.wire() if story.usage is not None else None,
        # As in the audit, so that the two can be laid side by side.
        "request_hmac": keys.commit(story.tenant, story.body),
        "answer_hmac": keys.commit(story.tenant, story.answer_sha256.encode()),
    }


def content_of(story: Story) -> bytes:
    """What was asked, as far as it was read for its labels, and what was delivered.

    It is written anew from what was read: of a name that stands twice in an object, only the last one was.
    """
    sent = orjson.loads(story.body)
    asked = orjson.dumps({name: value for name, value in sent.items() if name not in UNREAD})
    if not story.delivered:
        return b'{"request":%b,"answer":null}' % asked
    if story.stream:
        return b'{"request":%b,"events":[%b]}' % (asked, b",".join(story.delivered))
    return b'{"request":%b,"answer":%b}' % (asked, b"".join(story.delivered))


def open_line(line: bytes, keys: Keyring) -> Opened:
    """The entry of a line, its content opened. Raises `EntryInvalid`."""
    try:
        entry = orjson.loads(line)
        if entry["v"] != FORMAT:
            raise EntryInvalid(f"it has version `{entry['v']}`; this `douane` reads version {FORMAT}")
        head = {name: value for name, value in entry.items() if name != "sealed"}
        if (entry["detail"] == Detail.CONTENT) != ("sealed" in entry):
            raise EntryInvalid("its content was taken out, or put in")
        if "sealed" not in entry:
            return Opened(head, None)
        sealed = base64.b64decode(entry["sealed"], validate=True)
        opened = keys.open_(entry["tenant"], PURPOSE + orjson.dumps(head), sealed)
        return Opened(head, orjson.loads(opened))
    except Unsealable:
        raise EntryInvalid(
            "its content does not open: the line was changed, or the master key is another one"
        ) from None
    except TenantErased:
        raise EntryInvalid("its content does not open: its tenant's key was destroyed") from None
    except KeysUnavailable as error:
        raise EntryInvalid(f"its content cannot be opened now: {error.__cause__ or error}") from None
    except (orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, AttributeError):
        raise EntryInvalid("it is no entry of a content log") from None
