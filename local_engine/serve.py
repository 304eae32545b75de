"""Runs the server: listens, drains when told to, and ends when the device is lost."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click
import uvicorn
from prometheus_client import CollectorRegistry

from local_engine.checkpoint import Checkpoint
from local_engine.engine import Engine
from local_engine.errors import SetupError
from local_engine.metrics import Metrics
from local_engine.replay import Replay
from local_engine.server import create_app
from local_engine.service import Service
from local_engine.structure.request import Structures
from local_engine.vocabulary import load_vocabulary

EXIT_LOST = 4
"""The exit status after the device is lost: whoever supervises the process should start it anew."""
GRACE_S = 30.0
ENDING_S = 5
"""How long the last bytes of answers may take to leave once the engine has ended them, and how long a step
that is under way may take to end."""
BACKLOG = 128
NOT_OUR_ADDRESS = (errno.EADDRNOTAVAIL, socket.EAI_NONAME, socket.EAI_AGAIN)
DEFAULT_MODEL_NAME = "gpt-oss-20b"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve. `models` empty means the released model of that shape, else `gpt-oss-20b`.

    `grace_s` is how long running answers may take to end after SIGTERM.
    """

    secret: str
    host: str = "127.0.0.1"
    port: int = 8081
    models: tuple[str, ...] = ()
    vocabulary: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    grace_s: float = GRACE_S


def service_of(checkpoint: Checkpoint, engine: Engine, options: ServeOptions) -> Service:
    """What requests need beside the engine. Raises `SetupError` for a vocabulary that is not there."""
    vocabulary = load_vocabulary(checkpoint.path, options.vocabulary)
    return Service(
        engine=engine,
        vocabulary=vocabulary,
        structures=Structures(vocabulary),
        replay=Replay(vocabulary),
        metrics=Metrics(CollectorRegistry(), engine.load),
        models=options.models or (checkpoint.config.released_name or DEFAULT_MODEL_NAME,),
        fingerprint=checkpoint.fingerprint,
    )


def serve(service: Service, options: ServeOptions) -> None:
    """Serves until it is told to end. Raises `SetupError` when it may not or cannot listen.

    SIGTERM or SIGINT drains: nothing new is taken, and what runs has `grace_s` to end; a second signal ends
    it at once. When the device is lost the process exits with `EXIT_LOST`.
    """
    check_exposure(options)
    config = uvicorn.Config(
        create_app(service, options.secret),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        timeout_graceful_shutdown=ENDING_S,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    try:
        config.load()
    except OSError:
        raise SetupError(
            "`--tls-cert` and `--tls-key` must be readable pem files that belong together"
        ) from None
    listener = listen(options.host, options.port)
    service.engine.start()
    scheme = "https" if options.tls_cert else "http"
    host, port = listener.getsockname()[:2]
    click.echo(
        f"local_engine: {', '.join(service.models)} ({service.fingerprint}) on {scheme}://{host}:{port}"
    )
    try:
        _Server(config, service.engine, options.grace_s).run(sockets=[listener])
    finally:
        service.engine.close(ENDING_S)
        listener.close()
    if service.engine.load().lost:
        click.echo("error: the device is lost; start the engine anew", err=True)
        sys.exit(EXIT_LOST)


def check_exposure(options: ServeOptions) -> None:
    """Raises `SetupError` when the secret would cross a network in the clear."""
    if (options.tls_cert is None) != (options.tls_key is None):
        raise SetupError("give both `--tls-cert` and `--tls-key`, or neither")
    if options.tls_cert is None and not options.behind_proxy and not _is_loopback(options.host):
        raise SetupError(
            f"`{options.host}` is reachable from outside: give `--tls-cert` and `--tls-key`, or say "
            "`--behind-proxy` when something in front encrypts"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises `SetupError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        option = "--host" if error.errno in NOT_OUR_ADDRESS else "--port"
        raise SetupError(
            f"cannot listen on `{host}:{port}`: {error.strerror}; choose another `{option}`"
        ) from None
    return listener


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(uvicorn.Server):
    """uvicorn, except that the first signal only drains the engine: the server goes on saying that it takes
    nothing new until what runs has ended. A signalled end is an ordinary one."""

    def __init__(self, config: uvicorn.Config, engine: Engine, grace_s: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._grace_s = grace_s
        self._latest_s: float | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again = self._latest_s is not None
        grace_s = 0.0 if again else self._grace_s
        self._engine.stop(grace_s)
        # The engine ends at its deadline by itself; later than this it is stuck.
        self._latest_s = time.monotonic() + grace_s + ENDING_S
        self.should_exit = again

    async def on_tick(self, counter: int) -> bool:
        load = self._engine.load()
        drained = load.stopping and load.running + load.waiting == 0
        late = self._latest_s is not None and time.monotonic() >= self._latest_s
        self.should_exit = self.should_exit or drained or late or load.lost
        return await super().on_tick(counter)
