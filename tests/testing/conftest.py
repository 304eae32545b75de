"""Emulated regions for foreign clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.testing.bedrock.app import Emulator
from gateway.testing.bedrock.model import ServiceModel
from gateway.testing.bedrock.server import Running, running_emulator

SERVICE_MODEL = ServiceModel()


@pytest.fixture(scope="session")
def service_model() -> ServiceModel:
    return SERVICE_MODEL


@pytest.fixture
async def frankfurt(service_model: ServiceModel) -> AsyncIterator[Running]:
    emulator = Emulator("eu-central-1", model=service_model)
    async with running_emulator(emulator.region, emulator=emulator) as running:
        yield running
