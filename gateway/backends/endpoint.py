"""Where a Bedrock backend really connects to."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from gateway.backends.http import require_safe
from gateway.places import Place


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A base URL without a path. `emulated` marks a stand-in, which every answer from it then says too.

    Only the composition root makes one that differs from the place's own host; nothing in the environment
    can. Raises ValueError for plain http beyond loopback.
    """

    url: str
    emulated: bool = False

    def __post_init__(self) -> None:
        require_safe(self.url, "endpoint url")
        if urlsplit(self.url).path.strip("/") or urlsplit(self.url).query:
            raise ValueError("`endpoint url` must have no path; give scheme, host and port only")

    @property
    def host(self) -> str:
        """Host, with the port when it is not the scheme's own: what the signature covers."""
        return urlsplit(self.url).netloc

    def operation(self, model_id: str, operation: str) -> str:
        """URL of an operation. The `:` of a model id is `%3A` on the wire."""
        return f"{self.url.rstrip('/')}/model/{quote(model_id, safe='')}/{operation}"


def endpoint_of(place: Place) -> Endpoint:
    """The endpoint that follows from the place's region. Raises ValueError for a place without a host."""
    if not place.host:
        raise ValueError(f"place `{place.id}` has no host; a bedrock place derives it from its region")
    return Endpoint(f"https://{place.host}")
