"""Runs the server: loads the model, listens, and ends promptly when told to."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import click
import torch
import uvicorn

from local_engine.chat import Service
from local_engine.checkpoint import Checkpoint, open_checkpoint
from local_engine.engine import Engine
from local_engine.errors import SetupError
from local_engine.harmony.tokens import VOCABULARY_SIZE
from local_engine.reference import ReferenceModel
from local_engine.server import create_app
from local_engine.vocabulary import load_vocabulary

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GRACE_S = 5
BACKLOG = 128
SMALL_MODEL_BYTES = 1 << 30
DEFAULT_MODEL_NAME = "gpt-oss-20b"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How to serve. `models` empty means the released model of that shape, else `gpt-oss-20b`."""

    model: Path
    secret: str
    host: str = "127.0.0.1"
    port: int = 8081
    models: tuple[str, ...] = ()
    dtype: Literal["fp32", "bf16"] = "bf16"
    max_waiting: int = 8
    max_context_tokens: int | None = None
    vocabulary: Path | None = None
    threads: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False


def load_service(options: ServeOptions) -> Service:
    """Opens the checkpoint and makes the engine, not yet started. Raises `SetupError`."""
    checkpoint = open_checkpoint(options.model)
    if checkpoint.config.vocab_size != VOCABULARY_SIZE:
        raise SetupError(
            f"`vocab_size` is `{checkpoint.config.vocab_size}`: only a model with all {VOCABULARY_SIZE} "
            "tokens can speak harmony; make one with `--preset demo`"
        )
    if (threads := options.threads or default_threads(checkpoint)) is not None:
        torch.set_num_threads(threads)
    longest = checkpoint.config.max_context_tokens
    engine = Engine(
        ReferenceModel(checkpoint, DTYPES[options.dtype]),
        max_context_tokens=min(longest, options.max_context_tokens or longest),
        max_waiting=options.max_waiting,
    )
    vocabulary = load_vocabulary(options.model, options.vocabulary)
    return Service(engine, vocabulary, served_names(options, checkpoint), checkpoint.fingerprint)


def default_threads(checkpoint: Checkpoint) -> int | None:
    """One for a small model, whose operations are too short to share; None leaves the choice to torch."""
    return 1 if checkpoint.nbytes < SMALL_MODEL_BYTES else None


def served_names(options: ServeOptions, checkpoint: Checkpoint) -> tuple[str, ...]:
    """The model ids to answer to."""
    return options.models or (checkpoint.config.released_name or DEFAULT_MODEL_NAME,)


def serve(service: Service, options: ServeOptions) -> None:
    """Serves until SIGTERM or SIGINT. Raises `SetupError` when it may not or cannot listen."""
    check_exposure(options)
    config = uvicorn.Config(
        create_app(service, options.secret),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_S,
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
        _Server(config, service.engine).run(sockets=[listener])
    finally:
        service.engine.close()
        listener.close()


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
        raise SetupError(
            f"cannot listen on `{host}:{port}`: {error.strerror}; choose another `--port`"
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
    """uvicorn, except that a signal first stops the engine, so that streams end with an error event instead
    of holding the shutdown up, and that a signalled end is an ordinary one."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

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
        self._engine.stop()
        super().handle_exit(sig, frame)
