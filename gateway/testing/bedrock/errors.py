"""An error as an AWS rest-json service answers it."""

from __future__ import annotations

from typing import Any

import orjson

# What AWS puts behind the code in `x-amzn-ErrorType`.
NAMESPACE = "http://internal.amazon.com/coral/com.amazon.bedrock/"


class AwsError(Exception):
    """A refusal with its HTTP status, its code and AWS's own text.

    `fields` are further members of the error's shape, for example `originalStatusCode`.
    """

    def __init__(self, code: str, status: int, message: str, **fields: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.status = status
        self.message = message
        self.fields = fields

    def body(self) -> bytes:
        return orjson.dumps({"message": self.message, **self.fields})


def validation(message: str) -> AwsError:
    return AwsError("ValidationException", 400, message)
