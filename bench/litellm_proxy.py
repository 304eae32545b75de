"""LiteLLM's proxy before the same upstream, as it comes: a key, no limits, no cache, no records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from bench.processes import Server, free_port, required, running

MODEL = "gpt-oss-20b"
START_S = 120.0


@contextmanager
def running_litellm(command: str, directory: Path, upstream: Server, key: str) -> Iterator[Server]:
    """One worker of `command`, the `litellm` of an environment that has `litellm[proxy]`.

    Raises `bench.processes.NotStarted`.
    """
    port = free_port()
    config = directory / "litellm.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "model_list": [
                    {
                        "model_name": MODEL,
                        "litellm_params": {
                            "model": f"openai/{MODEL}",
                            "api_base": f"{upstream.url}/v1",
                            "api_key": "none",
                        },
                    }
                ]
            }
        ),
        encoding="utf-8",
    )
    program = required(command, "pip install 'litellm[proxy]' in an environment of its own")
    arguments = [
        program,
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": key,  # it does not start without one
        "LITELLM_TELEMETRY": "False",
        "PYTHONWARNINGS": "ignore",
    }
    with running(
        "litellm", arguments, port, directory / "litellm.log", path="/health/liveliness",
        environment=environment, start_s=START_S,
    ) as server:  # fmt: skip
        yield server
