"""Where a Redis is, read from its URL; nothing else on the machine can redirect it."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection

from gateway.hidden import Hidden

SCHEMES = ("redis", "rediss")
PORT = 6379


class StoreMisconfigured(ValueError):
    """The store cannot work as configured, and waiting will not help; the text never holds a credential."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    db: int
    tls: bool
    ca_file: Path | None
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)

    @property
    def id(self) -> str:
        """Names the store without its credentials; also what log lines show."""
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"

    def require_readable_ca(self) -> None:
        """Raises `StoreMisconfigured` when the CA file cannot be read."""
        try:
            ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise StoreMisconfigured(
                f"the CA file `{self.ca_file}` of the Redis URL cannot be used ({error.strerror}); "
                f"name a file in PEM format"
            ) from None

    def connection(self) -> AbstractConnection:
        """A connection of redis-py that is not connected yet. Certificates and names are always verified.

        It neither times out nor tries again by itself: when to give up is the wire's and the link's.
        """
        common: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "protocol": 2,
            "socket_timeout": None,
            "driver_info": None,
        }
        if not self.tls:
            return Connection(**common)
        ca_file = str(self.ca_file) if self.ca_file else None
        return SSLConnection(
            **common, ssl_cert_reqs="required", ssl_check_hostname=True, ssl_ca_certs=ca_file
        )


def parse_url(url: str) -> Address:
    """`redis[s]://[user:password@]host[:port][/db][?ca_file=PATH]`. Raises `StoreMisconfigured`."""
    bare, username, password = without_credentials(url)
    parts = urlsplit(bare)
    if parts.scheme not in SCHEMES:
        raise StoreMisconfigured("the Redis URL must begin with `redis://` or `rediss://` (TLS)")
    try:
        port = parts.port or PORT
    except ValueError:
        raise StoreMisconfigured("the port of the Redis URL is not a number from 1 to 65535") from None
    if not parts.hostname:
        raise StoreMisconfigured("the Redis URL names no host; write `redis://host:6379/0`")
    database = parts.path.strip("/") or "0"
    if not database.isdecimal():
        raise StoreMisconfigured("the path of the Redis URL must be the number of a database, such as `/0`")
    options = parse_qs(parts.query, keep_blank_values=True)
    tls = parts.scheme == "rediss"
    unknown = sorted(options.keys() - {"ca_file"})
    if unknown:
        raise StoreMisconfigured(
            f"the Redis URL has an option `{unknown[0]}` that does not exist; `ca_file` is the only one"
        )
    if options and not tls:
        raise StoreMisconfigured("`ca_file` in the Redis URL needs TLS; write `rediss://`")
    return Address(
        host=parts.hostname,
        port=port,
        db=int(database),
        tls=tls,
        ca_file=Path(options["ca_file"][0]) if options else None,
        username=Hidden(unquote(username)) if username else None,
        password=Hidden(unquote(password)) if password else None,
    )


def without_credentials(url: str) -> tuple[str, Hidden, Hidden]:
    """The URL without user and password, and these, still quoted: taken out before anything can fail."""
    scheme, colon, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    credentials, _, host = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    return f"{scheme}{colon}{host}{rest[len(authority) :]}", Hidden(username), Hidden(password)
