"""`python -m gateway.testing.bedrock --region eu-central-1`: one emulated region as a process."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import click

from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.ledger import Ledger
from gateway.testing.bedrock.quota import TokenQuota
from gateway.testing.bedrock.server import running_emulator


async def serve(emulator: Emulator, port: int, certificate: Path | None, key: Path | None) -> None:
    """Serves until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running_emulator(
        emulator.region, emulator=emulator, port=port, certificate=certificate, key=key
    ) as running:
        click.echo(f"emulated Bedrock {emulator.region} at {running.url} (no model behind it)")
        await stop.wait()


@click.command()
@click.option("--region", required=True, help="AWS region to emulate, for example eu-central-1.")
@click.option("--port", default=0, show_default="a free one", help="Port on 127.0.0.1.")
@click.option(
    "--ledger", type=click.Path(dir_okay=False, path_type=Path), help="JSON-lines file of what was received."
)
@click.option("--token-delay-ms", default=0.0, help="Pause after every streamed event.")
@click.option("--tokens-per-minute", type=int, help="Quota; a call reserves its input and maxTokens of it.")
@click.option(
    "--certificate", type=click.Path(exists=True, path_type=Path), help="PEM certificate chain: serve TLS."
)
@click.option(
    "--key", type=click.Path(exists=True, path_type=Path), help="PEM private key of the certificate."
)
def main(
    region: str,
    port: int,
    ledger: Path | None,
    token_delay_ms: float,
    tokens_per_minute: int | None,
    certificate: Path | None,
    key: Path | None,
) -> None:
    """Emulate Bedrock's Converse and ConverseStream for gpt-oss in one region."""
    if (certificate is None) != (key is None):
        raise click.UsageError("`--certificate` and `--key` belong together; give both or neither")
    emulator = Emulator(
        region,
        ledger=Ledger(ledger),
        quota=TokenQuota(tokens_per_minute, time.monotonic),
        token_delay_s=token_delay_ms / 1000,
    )
    asyncio.run(serve(emulator, port, certificate, key))


if __name__ == "__main__":
    main()
