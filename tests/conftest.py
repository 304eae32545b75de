"""For every test: a clean environment, no connection beyond this machine, nothing left out unsaid."""

from __future__ import annotations

import ipaddress
import os
import sys

import pytest

from tests.not_run import NotRun, in_ci

# What a developer has exported for real use must not decide what a test sees.
SCRUBBED = ("AWS_", "DOUANE_", "OPENAI_", "LITELLM_", "REDIS_", "MAKE", "MFLAGS")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def clean_environment() -> None:
    """For this process and every process that a test starts."""
    for name in list(os.environ):
        if name.startswith(SCRUBBED) or name.lower() in PROXIES:
            del os.environ[name]
    os.environ.update(AWS_EC2_METADATA_DISABLED="true", HF_HUB_OFFLINE="1")
    # Triton decides when it is imported, and transformers imports it: so here, before anybody does.
    os.environ["TRITON_INTERPRET"] = "1"
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores already


def refuse_other_machines(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: a test that would reach another machine fails there and then, with the address."""
    if event != "socket.connect":
        return
    address = arguments[1]
    if not isinstance(address, tuple):
        return  # a unix socket
    host = str(address[0])
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local:
        raise ConnectionRefusedError(f"tests connect to this machine only, not to `{host}`")


def pytest_configure(config: pytest.Config) -> None:
    """Runs in the main process and in each worker, before anything is collected."""
    clean_environment()
    sys.addaudithook(refuse_other_machines)
    config.addinivalue_line("markers", "proof: takes long; `make prove` runs it, `make test` does not")
    config.addinivalue_line("markers", "larger: `make prove` runs it once more, over more cases")
    config.addinivalue_line("markers", "needs(*tools): programs that the test starts (tests/needs.py)")
    config.pluginmanager.register(NotRun(in_ci()), "not-run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest go first, so that at the end no process waits for another's."""
    items.sort(key=lambda item: item.get_closest_marker("larger") is None)
