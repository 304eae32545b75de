"""What the doctor sees of this machine: keys, audit directory, Redis."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.doctor import machine
from gateway.doctor.finding import Finding
from gateway.keys.opening import MASTER_KEY
from gateway.keys.wrapping import MasterKey
from gateway.opening import RECEIPT_KEY, RETIRED_KEYS
from gateway.receipts.keys import create_key
from gateway.settings import Settings
from tests.policy.bundles import loaded_default
from tests.redis_server import RedisServer, free_port


def told(finding: Finding) -> tuple[str, str, str]:
    return (finding.status.value, finding.seen, finding.fix)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory as `douane init` leaves it."""
    MasterKey.create(tmp_path / MASTER_KEY)
    create_key(tmp_path / RECEIPT_KEY)
    return tmp_path


def test_a_machine_as_it_should_be_is_well(state: Path) -> None:
    found = list(machine.examine_machine(Settings(state_dir=state), loaded_default().bundle))

    assert [(each.check, each.region, each.status.value) for each in found] == [
        ("bundle", None, "ok"),
        ("master key", None, "ok"),
        ("tenants' keys", None, "ok"),
        ("receipt key", None, "ok"),
        ("audit directory", None, "ok"),
        ("store", None, "ok"),
    ]


@pytest.mark.parametrize("name", [MASTER_KEY, RECEIPT_KEY])
def test_a_key_that_others_can_read_is_a_failure_with_what_to_do(state: Path, name: str) -> None:
    (state / name).chmod(0o640)

    checks = {
        MASTER_KEY: machine.master_key(state / MASTER_KEY),
        RECEIPT_KEY: machine.receipt_key(state / RECEIPT_KEY, state / RETIRED_KEYS),
    }

    status, seen, fix = told(checks.pop(name))
    assert (status, "0640" in seen) == ("fail", True)
    assert f"chmod 600 {state / name}" in fix
    assert [each.status.value for each in checks.values()] == ["ok"]


def test_keys_that_are_missing_say_how_to_make_them(tmp_path: Path) -> None:
    assert "douane init" in machine.master_key(tmp_path / MASTER_KEY).fix
    assert "douane receipt new-key" in machine.receipt_key(tmp_path / RECEIPT_KEY, tmp_path / "old").fix


def test_a_demo_key_is_warned_of(tmp_path: Path) -> None:
    create_key(tmp_path / RECEIPT_KEY, demo=True)

    status, seen, _ = told(machine.receipt_key(tmp_path / RECEIPT_KEY, tmp_path / "old"))

    assert (status, seen.endswith("is a demo key: its receipts prove nothing")) == ("warn", True)


def test_an_audit_directory_must_be_private_and_a_directory(tmp_path: Path) -> None:
    directory = tmp_path / "audit"

    assert told(machine.audit_directory(directory))[0] == "ok"
    assert not directory.exists()  # looked at, not made
    directory.mkdir(mode=0o700)
    assert told(machine.audit_directory(directory)) == ("ok", f"`{directory}` can be written", "")
    directory.chmod(0o755)
    assert told(machine.audit_directory(directory)) == (
        "fail",
        f"`{directory}` has mode 0755: others can reach the records",
        f"`chmod 700 {directory}`",
    )
    file = tmp_path / "file"
    file.touch(mode=0o600)
    assert told(machine.audit_directory(file))[:2] == ("fail", f"`{file}` cannot be written")


def test_a_full_disk_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(machine, "FREE_WARN_BYTES", 1 << 62)

    assert told(machine.audit_directory(tmp_path))[0] == "warn"


@pytest.mark.needs("redis-server")
@pytest.mark.parametrize(
    ("options", "eviction", "persistence"),
    [
        (["--maxmemory-policy", "noeviction", "--appendonly", "yes"], "ok", "ok"),
        (["--maxmemory-policy", "volatile-ttl"], "ok", "warn"),
        (["--maxmemory-policy", "allkeys-lru"], "fail", "warn"),
    ],
)
def test_a_redis_is_judged_by_what_it_says_of_itself(
    tmp_path: Path, state: Path, options: list[str], eviction: str, persistence: str
) -> None:
    server = RedisServer(tmp_path, options)
    server.start()
    try:
        settings = Settings(state_dir=state, redis_url=SecretStr(server.url))
        found = list(machine.examine_machine(settings, loaded_default().bundle))
    finally:
        server.end()

    assert [(each.check, each.status.value) for each in found[-3:]] == [
        ("redis", "ok"),
        ("redis eviction", eviction),
        ("redis persistence", persistence),
    ]
    assert found[-3].seen.startswith(f"`redis://127.0.0.1:{server.port}/0` answers, version ")


def test_a_redis_that_is_not_there_is_a_failure_without_its_password() -> None:
    (found,) = machine.redis_store(f"redis://user:secret@127.0.0.1:{free_port()}/0")

    assert found.status.value == "fail"
    assert "does not answer" in found.seen
    assert "secret" not in found.seen + found.fix


def test_a_redis_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "REDIS_TIMEOUT_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (found,) = machine.redis_store(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")

    assert (found.status.value, "`TimeoutError`" in found.seen) == ("fail", True)


def test_a_wrong_redis_url_says_what_to_write() -> None:
    (found,) = machine.redis_store("http://127.0.0.1")

    assert found.status.value == "fail"
    assert "redis://" in found.seen


@pytest.mark.parametrize("judge", [machine.eviction, machine.persistence])
def test_what_a_redis_does_not_tell_is_unknown(judge: object) -> None:
    assert callable(judge)
    assert judge({}).status.value == "unknown"
