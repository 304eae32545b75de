"""The parts that tests of the whole share: an engine, emulated regions, and gateways over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.bundle import bundle_with_keys
from tests.integration.caller import Caller
from tests.integration.engine import SECRET, Engine, demo_checkpoint, running_real_engine
from tests.integration.gateway_process import GatewayProcess, running_gateway
from tests.integration.regions import Regions, running_regions
from tests.integration.scripted_engine import SECRET as SCRIPTED_SECRET
from tests.integration.scripted_engine import ScriptedEngine, running_scripted_engine
from tests.redis_server import RedisServer

StartGateway = Callable[..., GatewayProcess]


@pytest.fixture(scope="session")
def running_everywhere() -> Iterator[Regions]:
    with running_regions() as regions:
        yield regions


@pytest.fixture
def regions(running_everywhere: Regions) -> Regions:
    """Every emulated region, without faults, counting from here."""
    running_everywhere.mark()
    return running_everywhere


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    base = tmp_path_factory.getbasetemp()
    return demo_checkpoint(base if worker_id == "master" else base.parent)


@pytest.fixture(scope="session")
def engine(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_real_engine(checkpoint, tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture(scope="session")
def running_script() -> Iterator[ScriptedEngine]:
    with running_scripted_engine() as running:
        yield running


@pytest.fixture
def script(running_script: ScriptedEngine) -> ScriptedEngine:
    """An engine that does as told; it has forgotten what the test before told it."""
    running_script.reset()
    return running_script


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_with_keys(tmp_path_factory.mktemp("policies") / "bundle")


@pytest.fixture(scope="session")
def real_settings(running_everywhere: Regions, engine: Engine, policies: Path) -> dict[str, Any]:
    """A gateway over the real engine and every region."""
    return {
        "policies": str(policies),
        "emulator_urls": running_everywhere.urls,
        "engine_url": engine.url,
        "engine_secret": SECRET,
        "engine_models": ["gpt-oss-20b"],
    }


@pytest.fixture(scope="session")
def scripted_settings(
    running_everywhere: Regions, running_script: ScriptedEngine, policies: Path
) -> dict[str, Any]:
    """A gateway over the engine that does as told."""
    return {
        "policies": str(policies),
        "emulator_urls": running_everywhere.urls,
        "engine_url": running_script.url,
        "engine_secret": SCRIPTED_SECRET,
    }


@pytest.fixture(scope="session")
def gateway(
    real_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """The gateway that most tests ask."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), real_settings) as running:
        yield running


@pytest.fixture(scope="session")
def scripted_gateway(
    scripted_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway over the engine that does as told."""
    with running_gateway(tmp_path_factory.mktemp("scripted"), scripted_settings) as running:
        yield running


@pytest.fixture
def demo(gateway: GatewayProcess) -> Caller:
    """The demo tenant at the gateway over the real engine."""
    return gateway.caller()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartGateway]:
    """Starts a gateway of the test's own; several calls start several."""
    with ExitStack() as stack:
        count = 0

        def start_one(settings: dict[str, Any], folder: Path | None = None, **options: Any) -> GatewayProcess:
            nonlocal count
            count += 1
            return stack.enter_context(
                running_gateway(folder or tmp_path / f"gateway-{count}", settings, **options)
            )

        yield start_one


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """This test's own Redis, to be killed, stopped and started again on its port."""
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.end()
