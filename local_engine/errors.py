"""Everything that can go wrong on purpose, as one closed tree.

    EngineError                      base; `str(error)` is safe to show to a client
      SetupError                     the process must not start (exit 3)
        ConfigError                  a `config.json` this engine cannot run exactly
        CheckpointError              weights missing, misnamed, misshapen
        VocabularyError              no usable vocabulary, or not the one gpt-oss was trained with
      RequestError                   one request is refused; carries an OpenAI-shaped error
        Refused          400..415    the request itself is wrong, or asks for what is not supported
        Busy             429         the waiting queue is full; `retry_after_s`
        Stopping         503         the engine is shutting down
        Fault            500         the model failed; the cause is in the log as a type and a place
      DeviceLost                     the device answers no more; the process must end (exit 4)

INVARIANT: no message of a `RequestError` ever contains text that a client sent, except the name of an
unknown top-level parameter; prompts do not leak through errors.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of every deliberate failure."""


class SetupError(EngineError):
    """The process cannot start with what it was given."""


class ConfigError(SetupError):
    """A model configuration that cannot be run exactly."""


class CheckpointError(SetupError):
    """A checkpoint that does not hold exactly the tensors its configuration calls for."""


class VocabularyError(SetupError):
    """No vocabulary, or one that is not o200k_harmony."""


class RequestError(EngineError):
    """A refusal in OpenAI's shape.

    `status` is the HTTP status, `kind` OpenAI's `type`, `code` the machine-readable reason, `param` the
    request field concerned, `retry_after_s` whole seconds for the `Retry-After` header.
    """

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body OpenAI's clients expect."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class Refused(RequestError):
    """The request is wrong or unsupported; repeating it unchanged will not help."""


class Busy(RequestError):
    """The queue is full; the same request may succeed after `retry_after_s`."""

    status = 429
    kind = "rate_limit_error"
    code = "engine_busy"


class Stopping(RequestError):
    """The engine is shutting down."""

    status = 503
    kind = "server_error"
    code = "engine_stopping"


class Fault(RequestError):
    """The engine itself failed."""

    status = 500
    kind = "server_error"
    code = "engine_fault"


class DeviceLost(EngineError):
    """An error of the device after which nothing on it works any more."""
