"""Names what in the environment claims to say where traces go, so that a start can refuse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

UNSET = "unset it: traces go to `trace_url` and nowhere else, and no variable of OpenTelemetry's is read"


def forbidden_otel_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """One message for each variable that OpenTelemetry's SDK would obey and the gateway does not.

    It is refused all the same: whoever set it expects an effect (another address, another header, no traces
    at all) that does not exist. Values are never repeated: a header may hold a secret.
    """
    return (
        f"`{name}` is set; {UNSET}" for name in sorted(environ) if name.startswith("OTEL_") and environ[name]
    )
