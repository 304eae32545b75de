"""A gateway whose keys are wrapped by KMS: what it needs, what it says, and what happens when KMS is away."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from moto import mock_aws

from gateway.backends.environment import forbidden_variables
from gateway.cli.main import main
from gateway.doctor import machine
from gateway.egress.destinations import destinations
from gateway.keys.kms import KmsWrapping
from gateway.keys.opening import open_keys
from gateway.keys.shelf import Kept
from gateway.keys.wrapping import WrappingUnavailable
from gateway.opening import open_context
from gateway.receipts.verify import verify_receipt
from gateway.settings import Settings, SettingsInvalid, read_settings
from tests.gateway.inprocess import chat, gateway, script
from tests.integration.bundle import DEMO_KEYS, bundle_with_keys
from tests.policy.bundles import loaded_default

REGION = "eu-central-1"


@pytest.fixture
def key_id(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        made = boto3.Session().client("kms", region_name=REGION).create_key()
        yield made["KeyMetadata"]["KeyId"]


def test_key_and_region_belong_together() -> None:
    with pytest.raises(SettingsInvalid, match="`kms_key_id` and `kms_region` belong together"):
        read_settings({"DOUANE_KMS_KEY_ID": "alias/douane"})


def test_the_host_of_kms_is_the_only_one_more_that_is_connected_to() -> None:
    bundle = loaded_default().bundle
    given: dict[str, Any] = {"aws_profile": None}
    plain = destinations(Settings(**given), bundle)
    with_kms = destinations(Settings(**given, kms_key_id="alias/douane", kms_region=REGION), bundle)

    added = {one.name: one.why for one in with_kms} | {}
    for one in plain:
        del added[one.name]
    assert added["kms.eu-central-1.amazonaws.com:443"] == "keys, kms in eu-central-1"
    assert all(why.startswith(("keys, ", "credentials")) for why in added.values())
    before = destinations(Settings(kms_key_id="alias/douane", kms_region=REGION), None)
    assert [one.host for one in before] == ["kms.eu-central-1.amazonaws.com"]


def test_a_variable_that_would_redirect_kms_is_refused() -> None:
    (message,) = forbidden_variables({"AWS_ENDPOINT_URL_KMS": "https://elsewhere.example"}, ["kms"])

    assert message.startswith("`AWS_ENDPOINT_URL_KMS` is set")
    assert "elsewhere" not in message


async def test_a_gateway_answers_with_keys_that_kms_wraps_and_needs_no_master_key(
    tmp_path: Path, key_id: str
) -> None:
    policies = bundle_with_keys(tmp_path / "policies")
    state = tmp_path / "state"
    async with gateway(state, policies, kms_key_id=key_id, kms_region=REGION) as context:
        (state / "master.key").unlink()
        script(context)
        client = chat("hello")
        await client.ask(context)
        assert client.status == 200

    kept = open_keys(context.settings).shelf.find("demo")
    assert isinstance(kept, Kept)
    assert kept.wrapped_by == "kms"


async def test_while_kms_is_away_known_tenants_are_served_and_new_ones_are_told(
    tmp_path: Path, key_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bytes:
        raise WrappingUnavailable("kms did not answer")

    policies = bundle_with_keys(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, kms_key_id=key_id, kms_region=REGION) as context:
        script(context)
        known = chat("hello")
        await known.ask(context)
        monkeypatch.setattr(KmsWrapping, "wrap", away)
        again, new = chat("again"), chat("hello", key="sk-globex-main-of-the-tests")
        await again.ask(context)
        await new.ask(context)

        assert (known.status, again.status, new.status) == (200, 200, 503)
        error = json.loads(new.answer)["error"]
        assert (error["code"], error["message"]) == (
            "keys_unavailable", "the key of this tenant cannot be had now; try again later",
        )  # fmt: skip
        assert new.header("retry-after") == "5"


def test_the_doctor_tries_the_key(tmp_path: Path, key_id: str) -> None:
    good = machine.kms_key(Settings(kms_key_id=key_id, kms_region=REGION))
    bad = machine.kms_key(Settings(kms_key_id="alias/nothing", kms_region=REGION))

    assert (good.status.value, good.seen) == ("ok", f"`{key_id}` in {REGION} wraps and unwraps")
    assert (bad.status.value, bad.seen) == ("fail", "kms did not wrap a key: NotFoundException")
    assert "kms:Encrypt" in bad.fix


def douane(*arguments: str, environ: dict[str, str]) -> Any:
    return CliRunner().invoke(main, arguments, env=environ, catch_exceptions=False)


def test_the_receipt_key_rests_locked_and_is_made_rotated_and_shown_by_the_same_commands(
    tmp_path: Path, key_id: str
) -> None:
    environ = {"DOUANE_KMS_KEY_ID": key_id, "DOUANE_KMS_REGION": REGION}
    state, path = tmp_path / "state", tmp_path / "state" / "receipt-key.pem"
    made = douane("init", "--state-dir", str(state), environ=environ)
    first = path.read_bytes()
    shown = douane("receipt", "public-key", str(path), environ=environ)
    rotated = douane("receipt", "rotate", "--state-dir", str(state), environ=environ)

    assert (made.exit_code, shown.exit_code, rotated.exit_code) == (0, 0, 0)
    assert made.output == f"{path} made (mode 0600): back it up\n"  # and no master key
    assert first.startswith(b"# douane key, locked by kms\n")
    for content in (first, path.read_bytes()):
        assert b"PRIVATE" not in content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() != first
    (retired,) = (state / "retired-keys").iterdir()
    assert retired.read_text() == shown.output


def test_a_locked_key_without_kms_says_what_to_set(tmp_path: Path, key_id: str) -> None:
    environ = {"DOUANE_KMS_KEY_ID": key_id, "DOUANE_KMS_REGION": REGION}
    path = tmp_path / "state" / "receipt-key.pem"
    douane("init", "--state-dir", str(tmp_path / "state"), environ=environ)

    bare = douane("receipt", "public-key", str(path), environ={})
    other = boto3.Session().client("kms", region_name=REGION).create_key()["KeyMetadata"]["KeyId"]
    wrong = douane("receipt", "public-key", str(path), environ={**environ, "DOUANE_KMS_KEY_ID": other})

    assert (bare.exit_code, wrong.exit_code) == (3, 3)
    assert "is locked by a key of kms; set DOUANE_KMS_KEY_ID and DOUANE_KMS_REGION" in bare.output
    assert "cannot be unlocked" in wrong.output


async def test_a_gateway_signs_with_a_locked_key_and_takes_a_rotated_one(tmp_path: Path, key_id: str) -> None:
    environ = {"DOUANE_KMS_KEY_ID": key_id, "DOUANE_KMS_REGION": REGION}
    state = tmp_path / "state"
    douane("init", "--state-dir", str(state), environ=environ)
    settings = Settings(
        state_dir=state, policies=bundle_with_keys(tmp_path / "policies"), policy_poll_s=3600,
        kms_key_id=key_id, kms_region=REGION,
    )  # fmt: skip
    async with open_context(settings, DEMO_KEYS) as context:
        script(context)
        first = context.signer.kid
        douane("receipt", "rotate", "--state-dir", str(state), environ=environ)
        assert await context.signer.reload(context.audit)
        client = chat("hello")
        await client.ask(context)
        opened = verify_receipt(
            client.header("x-douane-receipt") or "", {context.signer.public.thumbprint: context.signer.public}
        )

    assert client.status == 200
    assert opened.kid == context.signer.kid != first
