"""AWS for the doctor: moto's server for STS, EC2 and S3, an emulated Bedrock in each region."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from moto.server import ThreadedMotoServer

from gateway.testing.bedrock.server import Running, running_emulator
from tests.doctor.aws import OUTSIDE, REGIONS


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def emulators() -> AsyncIterator[dict[str, Running]]:
    """An emulator for each region of the bundle, and for one that the bundle does not have."""
    async with (
        running_emulator(REGIONS[0]) as first,
        running_emulator(REGIONS[1]) as second,
        running_emulator(OUTSIDE) as outside,
    ):
        yield {REGIONS[0]: first, REGIONS[1]: second, OUTSIDE: outside}
