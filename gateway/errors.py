"""Every failure that a caller can read, as one closed tree.

    DouaneError
    ├── InvalidRequest            400  the request itself is wrong
    │   ├── MalformedBody         400  not JSON, or not the shape of a chat request
    │   ├── UnknownParameter      400  a field that the API does not have
    │   ├── UnsupportedParameter  400  a field that no permitted backend can honour
    │   ├── UnknownLabel          400  a label outside the bundle's vocabulary
    │   └── ContextLengthExceeded 400  prompt and answer do not fit the model
    ├── Unauthenticated           401
    ├── ResidencyDenied           403  no configured backend is permitted for these labels
    ├── ModelNotAllowed           403  the key may not use this model
    ├── NotFound                  404  unknown path, model or receipt
    │   └── ModelNotFound         404
    ├── MethodNotAllowed          405
    ├── RequestTimeout            408  the client did not send its request in time
    ├── BodyTooLarge              413
    ├── UnsupportedEncoding       415  a compressed or non-JSON body
    ├── HeadersTooLarge           431
    ├── RateLimited               429  the caller's own limit
    │   └── BudgetExceeded        429
    ├── PermittedBackendSaturated 429  the only permitted backends are full
    ├── UpstreamRefused           400  the backend refused the request as invalid
    ├── UpstreamMisconfigured     502  the backend refused *us*: credentials, model access, region
    ├── StreamBroken              502  a backend's answer ended before it was complete
    ├── PermittedBackendUnavailable 503  a backend is permitted, but down or full
    ├── RecordUnavailable         503  the audit record cannot be written, so nothing is processed
    ├── ShuttingDown              503
    └── InternalError             500  a bug; the text carries only the request id

Messages are lowercase, name in backticks what was wrong, and say how to fix it.
They never repeat a caller's content: no prompt, no header value, no body excerpt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class DouaneError(Exception):
    """Base of every error that reaches a caller."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.details = dict(details) if details else {}

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape; `details` holds Douane's own fields (rule, basis, …)."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if self.details:
            error["douane"] = self.details
        return {"error": error}


class InvalidRequest(DouaneError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class MalformedBody(InvalidRequest):
    code = "malformed_body"


class UnknownParameter(InvalidRequest):
    code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class UnknownLabel(InvalidRequest):
    code = "unknown_label"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class Unauthenticated(DouaneError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ResidencyDenied(DouaneError):
    status = 403
    type = "permission_error"
    code = "residency_denied"


class ModelNotAllowed(DouaneError):
    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class TenantErased(DouaneError):
    status = 403
    type = "permission_error"
    code = "tenant_erased"


class NotFound(DouaneError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(DouaneError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimeout(DouaneError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class BodyTooLarge(DouaneError):
    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class UnsupportedEncoding(DouaneError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_encoding"


class HeadersTooLarge(DouaneError):
    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class RateLimited(DouaneError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class BudgetExceeded(RateLimited):
    type = "insufficient_quota"
    code = "insufficient_quota"


class PermittedBackendSaturated(DouaneError):
    status = 429
    type = "rate_limit_error"
    code = "permitted_backend_saturated"


class UpstreamRefused(DouaneError):
    status = 400
    type = "invalid_request_error"
    code = "upstream_refused"


class UpstreamMisconfigured(DouaneError):
    status = 502
    code = "upstream_misconfigured"


class StreamBroken(DouaneError):
    status = 502
    code = "stream_broken"


class PermittedBackendUnavailable(DouaneError):
    status = 503
    code = "permitted_backend_unavailable"


class RecordUnavailable(DouaneError):
    status = 503
    code = "record_unavailable"


class KeysUnavailable(DouaneError):
    status = 503
    code = "keys_unavailable"


class ShuttingDown(DouaneError):
    status = 503
    code = "shutting_down"


class InternalError(DouaneError):
    status = 500
    code = "internal_error"


def bug(request_id: str) -> InternalError:
    """The one text for everything unforeseen: it says nothing but the request id."""
    return InternalError(f"an internal error occurred; report it with the request id `{request_id}`")
