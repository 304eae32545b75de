"""The audit's copies in a bucket with Object Lock: whole, once, late if it must be, and locked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws

from gateway.audit.files import FileAudit
from gateway.audit.s3 import S3, Bucket, BucketUnavailable, BucketUnusable, s3_client
from gateway.audit.s3_copy import S3Copies
from gateway.audit.verify import verify_files
from gateway.clock import ManualClock
from gateway.egress.destinations import destinations
from gateway.metrics import Metrics
from gateway.policy.problems import PolicyInvalid
from gateway.settings import Settings, SettingsInvalid, read_settings
from tests.gateway.inprocess import chat, gateway, script
from tests.integration.bundle import bundle_with_keys
from tests.policy.bundles import loaded_default
from tests.receipts.samples import PINNED, SIGNER

from .signed import files_of, opened, read, record

BUCKET, REGION, NOW = "douane-audit", "eu-central-1", datetime(2026, 1, 1, tzinfo=UTC)


class Tried:
    """A client that counts what it is asked, and fails while it is down; the next `lost` answers get lost."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.puts: list[str] = []
        self.down = False
        self.lost = 0

    def get_object_lock_configuration(self, **given: Any) -> Any:
        return self._call("get_object_lock_configuration", given)

    def list_objects_v2(self, **given: Any) -> Any:
        return self._call("list_objects_v2", given)

    def put_object(self, **given: Any) -> Any:
        answer = self._call("put_object", given)
        self.puts.append(given["Key"].rpartition("/")[2])
        if self.lost:
            self.lost -= 1
            raise EndpointConnectionError(endpoint_url="https://s3.example")
        return answer

    def _call(self, name: str, given: Any) -> Any:
        if self.down:
            raise ClientError({"Error": {"Code": "ServiceUnavailable", "Message": "secret text"}}, name)
        return getattr(self._inner, name)(**given)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        client = boto3.Session().client("s3", region_name=REGION)
        client.create_bucket(
            Bucket=BUCKET,
            ObjectLockEnabledForBucket=True,
            CreateBucketConfiguration={"LocationConstraint": REGION},
        )
        yield client


@pytest.fixture
def client(aws: Any) -> Tried:
    return Tried(s3_client(boto3.Session(), REGION))


def copies_of(audit: FileAudit, client: S3, clock: ManualClock | None = None) -> S3Copies:
    bucket = Bucket(client, BUCKET, "audit/", audit.replica)
    return S3Copies(audit, bucket, 365, 60.0, Metrics(), clock or ManualClock())


def downloaded(aws: Any, folder: Path) -> list[Path]:
    """All objects as files, as an auditor gets them."""
    folder.mkdir(exist_ok=True)
    found = []
    for one in aws.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        path = folder / one["Key"].replace("/", "_")
        path.write_bytes(aws.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read())
        found.append(path)
    return found


async def test_every_record_is_there_once_as_it_stands_in_the_files_and_verifies(
    tmp_path: Path, aws: Any, client: Tried
) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    copies = copies_of(audit, client)
    for start in (1, 4, 9, 20):
        await record(audit, range(start, start + 5))
        await copies.copy()
        await copies.copy()
    await audit.aclose()
    await copies.aclose()

    paths = downloaded(aws, tmp_path / "down")
    local = b"".join(path.read_bytes() for path in files_of(audit.path))
    assert b"".join(path.read_bytes() for path in sorted(paths)) == local
    assert len(client.puts) == len(set(client.puts)) == len(paths) > 4
    (report,) = verify_files(paths, PINNED)
    assert (report.intact, report.records) == (True, audit.head.sequence)
    assert copies._metrics.audit_behind._value.get() == 0


async def test_what_is_there_is_locked_until_its_time(tmp_path: Path, aws: Any, client: Tried) -> None:
    clock = ManualClock()
    audit = opened(tmp_path / "audit", SIGNER, clock)
    copies = copies_of(audit, client, clock)
    await record(audit, (1,))
    await copies.copy()

    (one,) = aws.list_objects_v2(Bucket=BUCKET)["Contents"]
    locked = aws.head_object(Bucket=BUCKET, Key=one["Key"])
    assert one["Key"] == f"audit/{audit.replica}/000000000001-000000000002.jsonl"
    assert locked["ObjectLockMode"] == "COMPLIANCE"
    assert locked["ObjectLockRetainUntilDate"] == NOW + timedelta(days=365)
    version = aws.list_object_versions(Bucket=BUCKET)["Versions"][0]["VersionId"]
    with pytest.raises(ClientError, match="AccessDenied|Access Denied|WORM"):
        aws.delete_object(Bucket=BUCKET, Key=one["Key"], VersionId=version)
    await audit.aclose()


async def test_a_restart_goes_on_where_the_bucket_ends(tmp_path: Path, aws: Any, client: Tried) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    await record(audit, range(1, 8))
    copies = copies_of(audit, client)
    await copies.copy()
    before = list(client.puts)
    await record(audit, range(8, 12))  # and the process is killed before it is copied
    await audit.aclose()

    again = opened(tmp_path / "audit", SIGNER)
    assert again.replica == audit.replica
    await copies_of(again, client).copy()
    await again.aclose()

    assert client.puts[: len(before)] == before
    (report,) = verify_files(downloaded(aws, tmp_path / "down"), PINNED)
    assert (report.intact, report.first, report.last) == (True, 1, again.head.sequence)


async def test_while_s3_is_away_nothing_is_lost_and_nobody_waits(
    tmp_path: Path, aws: Any, client: Tried, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="douane")
    clock = ManualClock()
    audit = opened(tmp_path / "audit", SIGNER, clock)
    copies = copies_of(audit, client, clock)
    client.down = True
    await copies.open()
    watching = asyncio.create_task(copies.watch())
    for start in range(1, 13, 4):
        await record(audit, range(start, start + 4))
        await passed(clock, 300.0)
    assert client.puts == []
    assert copies._metrics.audit_behind._value.get() == audit.head.sequence
    client.down = False
    await passed(clock, 300.0)

    assert copies._metrics.audit_behind._value.get() == 0
    assert [message for message in caplog.messages if message.startswith("audit_copies")] == [
        "audit_copies_unavailable", "audit_copies_available",
    ]  # fmt: skip
    assert "secret text" not in str([vars(one) for one in caplog.records])
    watching.cancel()
    await audit.aclose()


async def passed(clock: ManualClock, seconds: float) -> None:
    """Lets the watcher sleep, wakes it, and lets its threads finish."""
    for _ in range(5000):
        await asyncio.sleep(0.002)
        if clock.sleepers:
            break
    clock.advance(seconds)
    for _ in range(5000):
        await asyncio.sleep(0.002)
        if clock.sleepers and clock.sleepers[0][0] > clock.elapsed_s:
            return


async def test_an_answer_that_was_lost_makes_no_second_object(
    tmp_path: Path, aws: Any, client: Tried
) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    copies = copies_of(audit, client)
    await record(audit, (1, 2))
    client.lost = 1
    with pytest.raises(BucketUnavailable, match="EndpointConnectionError"):
        await copies.copy()
    await copies.copy()
    await audit.aclose()

    assert len(aws.list_object_versions(Bucket=BUCKET)["Versions"]) == 1
    (report,) = verify_files(downloaded(aws, tmp_path / "down"), PINNED)
    assert report.intact


async def test_retention_waits_for_what_is_not_copied_yet(tmp_path: Path, aws: Any, client: Tried) -> None:
    clock = ManualClock()
    audit = opened(tmp_path / "audit", SIGNER, clock, keep_days=30)
    copies = copies_of(audit, client, clock)
    await record(audit, range(1, 11))
    clock.advance(timedelta(days=31).total_seconds())
    await record(audit, range(11, 16))

    assert audit.drop_expired() == 0
    await copies.copy()
    assert audit.drop_expired() > 0
    await copies.copy()
    await audit.aclose()
    assert read(audit.path)[0]["seq"] > 1
    (report,) = verify_files(downloaded(aws, tmp_path / "down"), PINNED)
    assert (report.intact, report.first) == (True, 1)


async def test_an_altered_file_is_not_copied_on(tmp_path: Path, aws: Any, client: Tried) -> None:
    audit = opened(tmp_path / "audit", SIGNER)
    copies = copies_of(audit, client)
    await record(audit, (1, 2))
    await audit.aclose()
    lines = audit.path.read_bytes().splitlines(keepends=True)
    audit.path.write_bytes(lines[0] + b"nonsense\n" + b"".join(lines[2:]))

    with pytest.raises(OSError, match="the line after record 1 was altered"):
        await copies.copy()
    assert client.puts == []


async def test_two_workers_copy_two_chains(tmp_path: Path, aws: Any, client: Tried) -> None:
    audits = [opened(tmp_path / "audit", SIGNER) for _ in range(2)]
    for audit in audits:
        await record(audit, (1, 2))
        await copies_of(audit, client).copy()
        await audit.aclose()

    reports = verify_files(downloaded(aws, tmp_path / "down"), PINNED)
    assert sorted(report.replica for report in reports) == sorted(audit.replica for audit in audits)
    assert all(report.intact for report in reports)


async def test_a_bucket_without_object_lock_is_refused(tmp_path: Path, aws: Any, client: Tried) -> None:
    aws.create_bucket(Bucket="plain", CreateBucketConfiguration={"LocationConstraint": REGION})

    for name in ("plain", "not-there"):
        with pytest.raises(BucketUnusable, match=f"the bucket `{name}` has no Object Lock, or is not there"):
            Bucket(client, name, "", "r").require_lock()


# The gateway with such a bucket.


def settings_with_bucket(tmp_path: Path, policies: Path, **changes: Any) -> dict[str, Any]:
    return {
        "audit_s3_bucket": BUCKET, "audit_s3_region": REGION, "audit_s3_place": "audit-bucket",
        **changes,
    }  # fmt: skip


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """With a place for the bucket, where what is not public may not be recorded."""
    directory = bundle_with_keys(tmp_path / "policies")
    places = directory / "places.yaml"
    places.write_text(
        places.read_text() + "\n  - id: audit-bucket\n    kind: audit\n    country: DE\n    operator: aws\n"
    )
    (directory / "residency" / "95-bucket.yaml").write_text(
        "- id: the-bucket-holds-records-of-public-requests\n  description: A test.\n"
        "  permit: [record]\n  when: {place_in: [audit-bucket]}\n"
        "- id: nothing-else-is-recorded-there\n  basis: a test\n  forbid: [record]\n"
        "  when: {sensitivity_at_least: internal, place_in: [audit-bucket]}\n"
    )
    (directory / "claims.yaml").unlink()
    for case in (directory / "tests").iterdir():
        case.unlink()
    (directory / "tests" / "one.yaml").write_text(
        "- name: the engine answers\n  request: {tenant: demo, model: gpt-oss-20b}\n"
        "  expect: {infer: {permitted: [local-engine]}}\n"
    )
    return directory


async def test_a_gateway_copies_its_audit_and_all_of_it_when_it_stops(
    tmp_path: Path, aws: Any, policies: Path
) -> None:
    given = settings_with_bucket(tmp_path, policies)
    async with gateway(tmp_path / "state", policies, **given) as context:
        script(context)
        client = chat("hello")
        await client.ask(context)
        assert client.status == 200

    (report,) = verify_files(downloaded(aws, tmp_path / "down"))
    assert report.intact
    kinds = [one["kind"] for one in read(next((tmp_path / "state" / "audit").glob("*.jsonl")))]
    assert report.records == len(kinds)
    assert kinds[-2:] == ["stopped", "checkpoint"]


async def test_a_request_that_may_not_be_recorded_in_the_bucket_s_place_is_refused(
    tmp_path: Path, aws: Any, policies: Path
) -> None:
    given = settings_with_bucket(tmp_path, policies)
    async with gateway(tmp_path / "state", policies, **given) as context:
        engine = script(context)
        client = chat("hello", labels="internal")
        await client.ask(context)
        assert client.status == 403
        assert engine.attempts == []
        assert b"nothing-else-is-recorded-there" in client.answer

    everything = b"".join(path.read_bytes() for path in downloaded(aws, tmp_path / "down"))
    assert b"internal" not in everything


async def test_a_gateway_whose_bucket_has_no_lock_or_no_place_does_not_start(
    tmp_path: Path, aws: Any, policies: Path
) -> None:
    aws.create_bucket(Bucket="plain", CreateBucketConfiguration={"LocationConstraint": REGION})
    with pytest.raises(BucketUnusable, match="has no Object Lock"):
        async with gateway(
            tmp_path / "one", policies, **settings_with_bucket(tmp_path, policies, audit_s3_bucket="plain")
        ):
            pass
    with pytest.raises(PolicyInvalid, match="the setting `audit_s3_place` names the place `nowhere`"):
        async with gateway(
            tmp_path / "two", policies, **settings_with_bucket(tmp_path, policies, audit_s3_place="nowhere")
        ):
            pass


def test_bucket_region_and_place_belong_together() -> None:
    with pytest.raises(SettingsInvalid, match="bucket, region and place belong together"):
        read_settings({"DOUANE_AUDIT_S3_BUCKET": "b", "DOUANE_AUDIT_S3_REGION": REGION})


def test_the_host_of_the_bucket_is_written_down() -> None:
    settings = Settings(audit_s3_bucket=BUCKET, audit_s3_region=REGION, audit_s3_place="audit-files")

    (one,) = [one for one in destinations(settings, loaded_default().bundle) if "s3" in one.host]
    assert (one.name, one.place) == ("s3.eu-central-1.amazonaws.com:443", "audit-files")
    assert one.why == f"audit, bucket `{BUCKET}`"
