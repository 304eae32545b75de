"""The request of the bench: a system message and a question, about 600 bytes; new each time, or the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SYSTEM: Final = (
    "You are the help desk of a freight forwarder. Answer in two sentences, name the form that is needed, "
    "and say what you are not sure of. Do not give legal advice."
)
QUESTION: Final = (
    "A customer sends a parcel of machine parts from Oslo to Rotterdam. Which declaration is due, who files "
    "it, and by when? Reference "
)
MARK: Final = "@NUMBER@"


@dataclass(frozen=True, slots=True)
class Template:
    """An HTTP request with a place for a number, always 12 digits long, that makes its question a new one."""

    before: bytes
    after: bytes

    def numbered(self, number: int) -> bytes:
        return b"%b%012d%b" % (self.before, number, self.after)


def body(*, stream: bool = False, answer_tokens: int = 512) -> str:
    """The JSON text with `MARK` where the number stands."""
    tail = ',"stream":true' if stream else ""
    return (
        '{"model":"gpt-oss-20b","messages":[{"role":"system","content":"' + SYSTEM + '"},'
        '{"role":"user","content":"' + QUESTION + MARK + '"}],'
        f'"max_completion_tokens":{answer_tokens},"temperature":0{tail}}}'
    )


def template(key: str, *, stream: bool = False, answer_tokens: int = 512) -> Template:
    """The whole request, head included, to be sent over a kept-alive connection."""
    text = body(stream=stream, answer_tokens=answer_tokens)
    size = len(text) - len(MARK) + 12
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {size}\r\n\r\n"
    )
    before, after = (head + text).split(MARK)
    return Template(before.encode(), after.encode())
