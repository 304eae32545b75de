"""The commands `serve`, `chat`, `bench`, `make-checkpoint` and `inspect`.

Exit 0 is success, 2 a wrong command line, 3 an unusable setup: a model, a machine or a file that will not do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from local_engine.errors import EngineError, SetupError
from local_engine.scheduler import MAX_RUNNING, MAX_WAITING
from local_engine.starting import (
    GPU_RUNNING,
    Running,
    check_speaks,
    demo_model,
    device_of,
    engine_over,
    open_model,
    takes_running,
)

if TYPE_CHECKING:
    from local_engine.terminal import Voice

SECRET_VARIABLE = "DOUANE_ENGINE_SECRET"  # noqa: S105 - the name, not the secret
PRESET_NAMES = ("demo", "tiny", "20b-shape", "120b-shape")
MODEL_HELP = (
    "A checkpoint's folder, or the id of a model on the Hugging Face hub, like openai/gpt-oss-20b or "
    "openai/gpt-oss-20b@REVISION, which is fetched once and checked."
)
SECRET_HELP = f"File (mode 0600) with the bearer secret; else the environment variable {SECRET_VARIABLE}."

Command = Callable[..., None]


def _exits_3(command: Command) -> Command:
    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except EngineError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(3)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Runs gpt-oss on this machine.

    \b
    Try it:        python -m local_engine chat
    With a model:  python -m local_engine chat --model openai/gpt-oss-20b
    As a server:   python -m local_engine serve --model openai/gpt-oss-20b

    Exit status: 0 success, 2 a wrong command line, 3 an unusable setup, 4 the device was lost.
    """


@main.command()
@click.option("--model", required=True, help=MODEL_HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8081, show_default=True, help="0 takes any free port."
)
@click.option("--secret-file", type=click.Path(path_type=Path), help=SECRET_HELP)
@click.option("--served-model-name", "names", multiple=True, help="Model id to answer to; may repeat.")
@click.option(
    "--max-running",
    type=click.IntRange(1),
    help=f"Answers computed at once. Default: {MAX_RUNNING}, on a GPU {GPU_RUNNING}.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(0),
    default=MAX_WAITING,
    show_default=True,
    help="Answers that may wait for their turn; more are refused with a time to come back.",
)
@click.option("--vocabulary", type=click.Path(path_type=Path), help="An o200k_base.tiktoken to use.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain, pem.")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key, pem.")
@click.option(
    "--behind-proxy", is_flag=True, help="Something in front encrypts; allow plain HTTP beyond loopback."
)
@click.option(
    "--grace-s",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="How long running answers may take to end after SIGTERM; a second signal ends them.",
)
@takes_running
@_exits_3
def serve(
    model: str,
    host: str,
    port: int,
    secret_file: Path | None,
    names: tuple[str, ...],
    max_running: int | None,
    max_waiting: int,
    vocabulary: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    grace_s: float,
    running: Running,
) -> None:
    """Serve a model over OpenAI's API.

    Routes: /v1/chat/completions, /v1/completions, /v1/models, /health, /load, /metrics. Callers send the
    secret as a bearer token. SIGTERM lets running answers end.
    """
    from local_engine import serve as server

    running = running.at_once(max_running)
    options = server.ServeOptions(
        secret=read_secret(secret_file),
        host=host,
        port=port,
        models=names,
        vocabulary=vocabulary,
        tls_cert=tls_cert,
        tls_key=tls_key,
        behind_proxy=behind_proxy,
        grace_s=grace_s,
    )
    server.check_exposure(options)
    device_of(running)
    # An address that is taken should not cost a load first; it is taken for good behind it.
    server.listen(host, port).close()
    checkpoint = open_model(model)
    check_speaks(checkpoint)
    engine = engine_over(checkpoint, running, max_waiting=max_waiting)
    server.serve(server.service_of(checkpoint, engine, options), options)


@main.command()
@click.option("--model", help=f"{MODEL_HELP} Default: the demo model, made on first use.")
@click.option("--url", help="Talk to an engine that runs there instead, like http://127.0.0.1:8081.")
@click.option("--secret-file", type=click.Path(path_type=Path), help=f"With --url. {SECRET_HELP}")
@click.option("--vocabulary", type=click.Path(path_type=Path), help="An o200k_base.tiktoken to use.")
@click.option(
    "--effort",
    type=click.Choice(["low", "medium", "high"]),
    default="medium",
    show_default=True,
    help="How long to think before answering.",
)
@click.option("--instructions", help="What the model is told before the conversation.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 always takes the likeliest token.")
@click.option("--top-p", type=click.FloatRange(0, 1), help="Leaves out the unlikely rest of the tokens.")
@click.option("--seed", type=int, help="Makes answers repeatable.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer, reasoning included.")
@takes_running
@_exits_3
def chat(
    model: str | None,
    url: str | None,
    secret_file: Path | None,
    vocabulary: Path | None,
    effort: Literal["low", "medium", "high"],
    instructions: str | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    max_tokens: int | None,
    running: Running,
) -> None:
    """Talk to a model in this terminal.

    Reasoning is dim, the answer is not. /reset, /effort low|medium|high and /help are commands; Ctrl-C stops
    an answer, Ctrl-D leaves. Without a terminal, each line of the standard input is a turn.
    """
    from contextlib import ExitStack

    from rich.console import Console

    from local_engine.terminal import Chat, EngineVoice, reader

    if model is not None and url is not None:
        raise click.UsageError("--model runs a model here, --url talks to one elsewhere: give one of them")
    if secret_file is not None and url is None:
        raise click.UsageError("--secret-file belongs to --url")
    with ExitStack() as stack:
        voice: Voice
        if url is not None:
            from local_engine.remote import RemoteVoice

            voice = RemoteVoice(url, read_secret(secret_file))
            name = voice.model()
        else:
            from local_engine.replay import Replay
            from local_engine.vocabulary import load_vocabulary

            checkpoint = open_model(model if model is not None else str(demo_model()))
            check_speaks(checkpoint)
            name = checkpoint.config.released_name or "gpt-oss"
            tokenizer = load_vocabulary(checkpoint.path, vocabulary)
            engine = engine_over(checkpoint, running)
            engine.start()
            stack.callback(engine.close)
            voice = EngineVoice(engine, tokenizer, Replay(tokenizer))
        options = {
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "max_completion_tokens": max_tokens,
        }
        conversation = Chat(
            voice,
            name,
            Console(),
            instructions,
            effort,
            {key: value for key, value in options.items() if value is not None},
        )
        conversation.run(reader(sys.stdin, conversation.console))


@main.command()
@click.option("--model", required=True, help=MODEL_HELP)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    help="Answers at once; may repeat. Default: 1 4 16.",
)
@click.option(
    "--prompt-tokens", type=click.IntRange(1), default=256, show_default=True, help="Length of prompts."
)
@click.option(
    "--answer-tokens", type=click.IntRange(2), default=64, show_default=True, help="Length of answers."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@takes_running
@_exits_3
def bench(
    model: str,
    batches: tuple[int, ...],
    prompt_tokens: int,
    answer_tokens: int,
    as_json: bool,
    running: Running,
) -> None:
    """Measure a model's speed on this machine.

    Tokens a second when answering (at several batch sizes) and when reading a prompt, the bytes each token
    moves and the bandwidth that makes, beside the bandwidth of plain reading measured in the same run.
    """
    from local_engine.benchmark import benchmark, lines
    from local_engine.opening import DTYPES

    batches = batches or (1, 4, 16)
    length = max(prompt_tokens + answer_tokens, running.max_context_tokens or 0)
    running = replace(running.at_once(max(batches)), max_context_tokens=length)
    checkpoint = open_model(model)
    engine = engine_over(checkpoint, running)
    engine.start()
    try:
        found = benchmark(
            engine,
            checkpoint.config,
            DTYPES[running.dtype],
            device_of(running),
            batches=batches,
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            dense_experts=bool(checkpoint.dense),
            dense_int8=running.dense == "int8",
        )
    finally:
        engine.close()
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
        return
    for line in lines(found):
        click.echo(line)


@main.command("make-checkpoint")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(PRESET_NAMES),
    default="demo",
    show_default=True,
    help="demo speaks; tiny is for tests; the others have the released models' shapes, for speed.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["hf", "original"]),
    default="hf",
    show_default=True,
    help="Hugging Face's names, or those of the released `original/` folder.",
)
@click.option("--seed", default=0, show_default=True, help="Of the random weights.")
@click.option("--layers", type=click.IntRange(1), help="Only so many layers of a random preset.")
@click.option(
    "--vocabulary", type=click.Path(path_type=Path), help="An o200k_base.tiktoken; default: litellm's copy."
)
@_exits_3
def make(
    out: Path,
    preset: str,
    format_: Literal["hf", "original"],
    seed: int,
    layers: int | None,
    vocabulary: Path | None,
) -> None:
    """Write a checkpoint: a tiny trained demo, or random weights in another preset's shape."""
    from local_engine.make import make_checkpoint

    files = make_checkpoint(out, preset, format_, seed, layers=layers, ranks=vocabulary)
    weights = "a tiny model for demos" if preset == "demo" else f"random weights, seed {seed}"
    depth = "" if layers is None else f" cut to {layers} layers"
    click.echo(f"wrote {len(files)} files to {out}: preset `{preset}`{depth}, {weights}, {format_} format")


@main.command()
@click.argument("model")
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="A line a fact, or JSON.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bf16", "fp32"]),
    default="bf16",
    show_default=True,
    help="To sum up the memory for.",
)
@click.option("--dense", type=click.Choice(["int8"]), help="With dense matrices rounded, on the CPU.")
@click.option(
    "--context-tokens", type=click.IntRange(1), default=8192, show_default=True, help="Of each sequence."
)
@click.option("--running", type=click.IntRange(1), default=1, show_default=True, help="Sequences at once.")
@click.option("--verify", is_flag=True, help="Hash a fetched model's files again and compare.")
@_exits_3
def inspect(
    model: str,
    output: str,
    dtype: Literal["bf16", "fp32"],
    dense: Literal["int8"] | None,
    context_tokens: int,
    running: int,
    verify: bool,
) -> None:
    """Say what a checkpoint is, and what running it takes.

    MODEL is a folder or a hub id, as for `serve --model`. Weights are not loaded.
    """
    from local_engine.hub import verify as verify_files
    from local_engine.inspection import inspect as describe
    from local_engine.inspection import lines, memory_of
    from local_engine.machine import available
    from local_engine.opening import DTYPES

    checkpoint = open_model(model)
    found = describe(checkpoint)
    found["memory"] = memory_of(
        checkpoint,
        DTYPES[dtype],
        {"cpu": available("cpu"), "cuda": available("cuda")},
        context_tokens=context_tokens,
        running=running,
        dense_int8=dense == "int8",
    )
    if verify:
        found["verified"] = verify_files(checkpoint.path)
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    for line in lines(found):
        click.echo(line)


def read_secret(file: Path | None) -> str:
    """The bearer secret from a file or the environment. Raises `SetupError` when there is none."""
    import os

    if file is None:
        secret = os.environ.get(SECRET_VARIABLE, "")
    else:
        try:
            mode = file.stat().st_mode & 0o777
            if mode & 0o077:
                raise SetupError(
                    f"`{file}` holds a secret and has mode {mode:04o}, so others may have read it: "
                    f"run `chmod 600 {file}`, or change the secret if they could"
                )
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
