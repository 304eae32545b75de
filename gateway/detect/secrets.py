"""Keys and passwords: by the prefixes that issuers give them, by their form, or by what they are called."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Final

from gateway.detect.kinds import Found

PEM: Final = r"-----BEGIN [A-Z0-9 ]{0,24}PRIVATE KEY"
PEM_END: Final = b"-----END"
PEM_END_TAIL: Final = re.compile(rb"-----END [A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?-----")
PEM_BODY: Final = re.compile(rb"(?:[A-Za-z0-9+/=\s\\:,\-.]){0,16384}")

AWS: Final = r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"
AWS_AT: Final = re.compile(AWS.encode())

# Each prefix with what follows it.
TOKENS: Final = (
    (r"gh[pousr]_", r"[A-Za-z0-9]{36,255}"),
    (r"github_pat_", r"[A-Za-z0-9_]{40,255}"),
    (r"glpat-", r"[A-Za-z0-9_\-]{20,255}"),
    (r"xox[abeoprs]-", r"[A-Za-z0-9\-]{10,255}"),
    (r"hooks\.slack\.com/services/", r"[A-Za-z0-9/]{20,255}"),
    (r"sk-", r"[A-Za-z0-9_\-]{20,255}"),
    (r"[sr]k_(?:live|test)_", r"[A-Za-z0-9]{16,255}"),
    (r"AIza", r"[A-Za-z0-9_\-]{35}"),
    (r"npm_", r"[A-Za-z0-9]{36}"),
    (r"hf_", r"[A-Za-z0-9]{30,64}"),
    (r"[Bb]earer ", r"[A-Za-z0-9_\-.=+/]{20,4096}"),
)
TOKEN: Final = r"\b(?:" + "|".join(prefix for prefix, _ in TOKENS) + ")"
TOKEN_AT: Final = re.compile(("(?:" + "|".join(f"{a}(?:{b})" for a, b in TOKENS) + ")").encode())
TOKEN_VARIED_MIN: Final = 8  # different characters: `sk-xxxxxxxxxxxxxxxxxxxxxxxx` is an example

JWT: Final = r"\beyJ"
JWT_PART_BYTES_MAX: Final = 8192
JWT_PART: Final = re.compile(rb"[A-Za-z0-9_\-]{8,%d}" % JWT_PART_BYTES_MAX)

ASSIGNED: Final = (
    r"(?i:passw(?:or)?d|passwd|pwd|passphrase|passwort|kennwort|mot de passe|contrase\xf1a|wachtwoord|"
    r"secret|token|api[_\- ]?key|access[_\-]?key|auth[_\-]?key|account[_\-]?key|"
    r"private[_\-]?key|credentials?)"
    r"[\"'\\*`]{0,3}[ \t]{0,4}(?::=|=>|[:=]|is )"
)
ASSIGNED_AT: Final = re.compile(ASSIGNED.encode("latin-1"))
VALUE: Final = re.compile(rb"[ \t\"'\\`*]{0,6}([^\s\"'\\`,;<>(){}\[\]$]{8,200})(?![(\[{])")
VALUE_WORD: Final = re.compile(
    rb"(?i)^(?:https?://|/|\*|x+$|\.\.\.|your|my_|example|change|placeholder|redacted|null$|none$|undefined$|"
    rb"true$|false$|process\.|os\.|env\.|config|settings)"
)
ENTROPY_MIN_BITS: Final = 2.6  # a character


def find_pem(data: bytes, start: int, end: int, unclosed: list[int]) -> Found:
    """A private key, to the end of its block; without one, to the end of what looks like its body.

    `unclosed` remembers where no end was found, so that it is not looked for again.
    """
    close = -1 if unclosed else data.find(PEM_END, end)
    tail = PEM_END_TAIL.match(data, close) if close >= 0 else None
    if tail is not None:
        return Found(start, tail.end(), "private-key")
    if close < 0:
        unclosed.append(end)
    body = PEM_BODY.match(data, end)
    return Found(start, body.end() if body else end, "private-key")


def find_aws_key(data: bytes, start: int) -> Found | None:
    key = AWS_AT.match(data, start)
    return Found(start, key.end(), "aws-key") if key is not None else None


def find_token(data: bytes, start: int) -> Found | None:
    token = TOKEN_AT.match(data, start)
    if token is None or len(set(token.group())) < TOKEN_VARIED_MIN:
        return None
    if token.group()[:1] in b"Bb" and token.group()[6:7] == b" ":
        if not varied(token.group()[7:]):
            return None
        return Found(start + 7, token.end(), "api-token")
    if re.search(rb"[0-9A-Z]", token.group().partition(b"-")[2] or token.group()[4:]) is None:
        return None  # `sk-learn-contrib-documentation` is no key
    return Found(start, token.end(), "api-token")


def find_jwt(data: bytes, start: int) -> tuple[Found | None, int]:
    """A JSON Web Token, and how far the text was read for it."""
    end, parts = start, 0
    while parts < 3 and (part := JWT_PART.match(data, end)) is not None:
        end, parts = part.end(), parts + 1
        if data[end : end + 1] != b"." or parts == 3:
            break
        end += 1
    if parts < 2 or (parts == 2 and data[end - 1 : end] != b"."):
        return None, end
    return Found(start, end, "jwt"), end


def find_assigned(data: bytes, start: int) -> Found | None:
    """What is assigned to a name such as `password`, if it looks like one."""
    name = ASSIGNED_AT.match(data, start)
    value = VALUE.match(data, name.end()) if name is not None else None
    if value is None:
        return None
    written = value.group(1).rstrip(b".!?:*") if value.group(1)[-1:] in b".:*" else value.group(1)
    if len(written) < 8 or VALUE_WORD.match(written) or not varied(written):
        return None
    return Found(value.start(1), value.start(1) + len(written), "password")


def varied(value: bytes) -> bool:
    """Whether it looks drawn rather than written: a digit beside a letter or sign, none too often."""
    digits = len(value) - len(value.translate(None, b"0123456789"))
    if digits == 0 or digits == len(value):
        return False
    counts = Counter(value)
    entropy_bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return entropy_bits >= ENTROPY_MIN_BITS
