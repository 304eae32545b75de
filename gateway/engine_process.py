"""The local engine as a child process: started for a checkpoint, waited for, ended with the gateway."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import aiohttp

from gateway.hidden import Hidden
from gateway.secret_files import SecretFileInvalid, read_secret_file

READY_POLL_S = 0.1
STOP_GRACE_S = 10.0
# The model is on this machine, or was fetched before: an engine that serves asks no hub for anything.
OFFLINE: Final = MappingProxyType(
    {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_OFFLINE": "1"}
)
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class EngineFailed(Exception):
    """The engine did not start; its own output says why."""


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """A started engine. `models` are the ids that it answers to."""

    url: str
    secret: str = field(repr=False)
    models: tuple[str, ...]
    process: asyncio.subprocess.Process


@asynccontextmanager
async def running_engine(
    model: Path, port: int, secret_file: Path, *, ready_timeout_s: float = 600.0, extra: tuple[str, ...] = ()
) -> AsyncIterator[RunningEngine]:
    """Serves `model` on 127.0.0.1:`port` until the block ends. Raises `EngineFailed`."""
    secret = read_or_create_secret(secret_file)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "local_engine", "serve", "--model", str(model), "--host", "127.0.0.1",
        "--port", str(port), "--secret-file", str(secret_file), *extra,
        stdout=asyncio.subprocess.DEVNULL, preexec_fn=end_with_parent(), env={**os.environ, **OFFLINE},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(ready_timeout_s):
            models = await until_ready(url, secret, process)
        yield RunningEngine(url, secret, models, process)
    except TimeoutError:
        raise EngineFailed(
            f"the engine was not ready after {ready_timeout_s:.0f} s; is the model too large?"
        ) from None
    finally:
        await end(process)


def end_with_parent() -> Callable[[], None] | None:
    """For a child to call: the kernel ends it when its parent is killed, which can end nothing itself.

    None where there is no such call; there, an engine outlives a gateway that was killed.
    """
    if sys.platform != "linux":
        return None
    control = ctypes.CDLL(None).prctl  # found before the fork: after it, only the call itself is safe
    return lambda: control(PR_SET_PDEATHSIG, signal.SIGTERM)


async def until_ready(url: str, secret: str, process: asyncio.subprocess.Process) -> tuple[str, ...]:
    headers = {"authorization": Hidden(f"Bearer {secret}")}
    async with aiohttp.ClientSession(trust_env=False, headers=headers) as http:
        while True:
            if process.returncode is not None:
                raise EngineFailed(
                    f"the engine ended with exit code {process.returncode} before it was ready; read its "
                    "message above (is its port taken? set DOUANE_ENGINE_PORT)"
                )
            try:
                async with http.get(f"{url}/v1/models") as response:
                    if response.status == 200:
                        return tuple(model["id"] for model in (await response.json())["data"])
                    raise EngineFailed(
                        f"something else answers at {url} (status {response.status}); free the port or set "
                        "DOUANE_ENGINE_PORT"
                    )
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(READY_POLL_S)


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def read_or_create_secret(file: Path) -> Hidden:
    """Raises `EngineFailed` for a file that others can read."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as opened:
            opened.write(secrets.token_urlsafe(32))
    try:
        return Hidden(read_secret_file(file).decode().strip())
    except SecretFileInvalid as error:
        raise EngineFailed(str(error)) from None
