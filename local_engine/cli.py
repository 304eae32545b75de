"""The commands `serve`, `make-checkpoint` and `inspect`. Exit 0 is success, 3 an unusable setup."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import click

from local_engine.errors import SetupError

SECRET_VARIABLE = "DOUANE_ENGINE_SECRET"  # noqa: S105 - the name, not the secret
PRESET_NAMES = ("demo", "tiny", "20b-shape", "120b-shape")


def _exits_3(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except SetupError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(3)

    return wrapped


@click.group()
def main() -> None:
    """A small gpt-oss inference engine."""


@main.command()
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Checkpoint directory.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8081, show_default=True, help="0 takes any free port.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help=f"File with the bearer secret; else the environment variable {SECRET_VARIABLE}.",
)
@click.option("--served-model-name", "names", multiple=True, help="Model id to answer to; may repeat.")
@click.option("--dtype", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--max-waiting", type=click.IntRange(0), default=8, show_default=True, help="Queue length.")
@click.option("--max-context-tokens", type=click.IntRange(1), help="Default: all the model was scaled for.")
@click.option("--vocabulary", type=click.Path(path_type=Path), help="An o200k_base.tiktoken to use.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: one for a small model.")
@click.option("--tls-cert", type=click.Path(path_type=Path))
@click.option("--tls-key", type=click.Path(path_type=Path))
@click.option(
    "--behind-proxy", is_flag=True, help="Something in front encrypts; allow plain HTTP beyond loopback."
)
@_exits_3
def serve(
    model: Path,
    host: str,
    port: int,
    secret_file: Path | None,
    names: tuple[str, ...],
    dtype: Literal["bf16", "fp32"],
    max_waiting: int,
    max_context_tokens: int | None,
    vocabulary: Path | None,
    threads: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
) -> None:
    """Serve a checkpoint over OpenAI's chat completions API."""
    from local_engine import serve as server

    options = server.ServeOptions(
        model=model,
        secret=read_secret(secret_file),
        host=host,
        port=port,
        models=names,
        dtype=dtype,
        max_waiting=max_waiting,
        max_context_tokens=max_context_tokens,
        vocabulary=vocabulary,
        threads=threads,
        tls_cert=tls_cert,
        tls_key=tls_key,
        behind_proxy=behind_proxy,
    )
    server.check_exposure(options)
    server.serve(server.load_service(options), options)


@main.command("make-checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--preset", type=click.Choice(PRESET_NAMES), default="demo", show_default=True)
@click.option("--format", "format_", type=click.Choice(["hf", "original"]), default="hf", show_default=True)
@click.option("--seed", default=0, show_default=True)
@_exits_3
def make(out: Path, preset: str, format_: Literal["hf", "original"], seed: int) -> None:
    """Write a checkpoint: a tiny trained demo, or random weights in another preset's shape."""
    from local_engine.make import make_checkpoint

    files = make_checkpoint(out, preset, format_, seed)
    weights = "a tiny model for demos" if preset == "demo" else f"random weights, seed {seed}"
    click.echo(f"wrote {len(files)} files to {out}: preset `{preset}`, {weights}, {format_} format")


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@_exits_3
def inspect(path: Path, output: str) -> None:
    """Say what a checkpoint is."""
    from local_engine.checkpoint import open_checkpoint
    from local_engine.inspection import inspect as describe

    found = describe(open_checkpoint(path))
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        click.echo(f"{key}: {json.dumps(value) if isinstance(value, dict) else value}")


def read_secret(file: Path | None) -> str:
    """The bearer secret from a file or the environment. Raises `SetupError` when there is none."""
    import os

    if file is None:
        secret = os.environ.get(SECRET_VARIABLE, "")
    else:
        try:
            secret = file.read_text(encoding="utf-8")
        except (OSError, ValueError):
            raise SetupError(f"`{file}` cannot be read: name a readable text file") from None
    secret = secret.strip()
    if not secret:
        raise SetupError(
            f"no secret: set `{SECRET_VARIABLE}` or `--secret-file`; callers send it as a bearer token"
        )
    if not secret.isascii() or any(letter.isspace() for letter in secret):
        raise SetupError("the secret must be one word of ascii letters: it travels in an http header")
    return secret
