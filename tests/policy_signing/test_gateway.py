"""A gateway that trusts keys: what it takes, what it refuses, and what the audit says of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.audit.chain import Link, unseal
from gateway.context import GatewayContext
from gateway.opening import open_context
from gateway.policies import fingerprint
from gateway.policy.problems import PolicyInvalid, PolicyUntrusted
from gateway.policy.serials import FILE, Highest, read_highest
from gateway.policy.source.directory import Files
from gateway.policy.summary import describe_here
from gateway.settings import Settings, SettingsInvalid
from tests.gateway.inprocess import gateway, make_keys
from tests.integration.bundle import DEMO_KEYS
from tests.policy_signing.signing import ANN, BOB, EVE, light, pem, signed, write

WIDER = (b"health]}\n  unless: {place_in: EEA}", b"health]}\n  unless: {place_in: [EEA, GB]}")


def wider(serial: int) -> Files:
    """A bundle that newly allows something."""
    files = dict(light(serial).content)
    name = "residency/20-personal-data.yaml"
    assert files[name].count(WIDER[0]) == 1
    return Files({**files, name: files[name].replace(*WIDER)})


def policy_records(state_dir: Path) -> list[Link]:
    (chain,) = (state_dir / "audit").glob("*.jsonl")
    links = [unseal(line) for line in chain.read_bytes().splitlines()]
    return [link for link in links if link.kind in ("policy_loaded", "policy_refused")]


def refused_count(context: GatewayContext) -> float:
    return float(context.metrics.policy_loads.labels("refused")._value.get())


@pytest.fixture
def trusting(tmp_path: Path) -> dict[str, Any]:
    """Settings of a gateway that trusts Ann."""
    return {"policy_trusted_keys": (pem(ANN, tmp_path / "ann.pem"),)}


@pytest.fixture
def told_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences are told in this process, where a test is not about them: it saves half a second each."""
    monkeypatch.setattr("gateway.policies.describe", describe_here)


async def start(state_dir: Path, policies: Path, **settings: Any) -> str:
    """Starts again in the same state; the revision in force."""
    given = {"policy_poll_s": 3600, "state_dir": state_dir, "policies": policies, **settings}
    async with open_context(Settings.model_validate(given), DEMO_KEYS) as context:
        return context.policies.current.revision


@pytest.mark.usefixtures("told_here")
async def test_each_attack_on_a_running_gateway_leaves_the_last_good_bundle(
    tmp_path: Path, trusting: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    good, later = signed(light(5), ANN, serial=5), signed(light(6), ANN, serial=6)
    altered = Files({**later.content, "zones.yaml": later.content["zones.yaml"] + b"\n"}, later.signatures)
    same_serial = Files({**good.content, "zones.yaml": good.content["zones.yaml"] + b"\n"})
    attacks = [
        ("no signature", light(6), "unsigned", 6),
        ("one byte changed after signing", altered, "signature", 6),
        ("a foreign key", signed(light(6), EVE, serial=6), "signature", 6),
        ("the signature of another bundle", Files(later.content, good.signatures), "signature", 6),
        ("a signature file of garbage", Files(later.content, {"signatures/x.jws": b"\xff"}), "signature", 6),
        ("an older bundle, validly signed", signed(light(4), ANN, serial=4), "serial", 4),
        ("the same serial with other content", signed(same_serial, ANN, serial=5), "serial", 5),
    ]
    policies = write(good, tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, **trusting) as context:
        for number, (name, files, reason, serial) in enumerate(attacks, 1):
            caplog.clear()
            write(files, policies)

            assert not await context.policies.reload(), name
            assert context.policies.current.revision == good.revision, name
            assert refused_count(context) == number, name
            (logged,) = [one.fields for one in caplog.records if one.msg == "policy_refused"]  # type: ignore[attr-defined]
            assert (logged["reason"], logged["kept"]) == (reason, good.revision), name
            recorded = policy_records(tmp_path / "state")[-1].fields
            assert recorded["reason"] == reason, name
            assert (recorded["kept"], recorded["revision"]) == (good.revision, files.revision), name
            assert recorded["serial"] == serial, name
            assert recorded["summary"]["newly_allowed"] == 0, name
        write(later, policies)
        assert await context.policies.reload()
        assert context.policies.current.revision == later.revision

    records = policy_records(tmp_path / "state")
    assert [link.kind for link in records] == ["policy_loaded", *["policy_refused"] * 7, "policy_loaded"]
    assert records[0].fields["signed_by"] == records[-1].fields["signed_by"] == [ANN.kid]
    assert read_highest(tmp_path / "state" / FILE) == Highest(serial=6, revision=later.revision)


async def test_every_load_is_recorded_with_what_it_changes_also_without_keys(tmp_path: Path) -> None:
    policies = write(light(1), tmp_path / "policies")
    async with gateway(tmp_path / "state", policies) as context:
        write(wider(1), policies)
        assert await context.policies.reload()

    first, second = (link.fields for link in policy_records(tmp_path / "state"))
    assert (first["summary"], first["signed_by"], first["previous"]) == (None, [], None)
    assert second["previous"] == first["revision"]
    summary = second["summary"]
    assert (summary["newly_allowed"], summary["newly_denied"]) == (2, 0)
    assert summary["said"][0].startswith("newly allowed: `infer` at `bedrock-london`; EEA; purpose care")
    assert "also changed: bundle.yaml: the serial has not grown: 1, then 1" in summary["said"]
    assert not (tmp_path / "state" / FILE).exists()


async def test_what_an_unsigned_bundle_would_have_allowed_is_recorded_though_it_never_loads(
    tmp_path: Path, trusting: dict[str, Any]
) -> None:
    policies = write(signed(light(1), ANN), tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, **trusting) as context:
        write(wider(2), policies)
        assert not await context.policies.reload()

    recorded = policy_records(tmp_path / "state")[-1].fields
    assert (recorded["reason"], recorded["problems"]) == ("unsigned", ["signatures/:0"])
    assert recorded["summary"]["newly_allowed"] == 2


@pytest.mark.usefixtures("told_here")
async def test_of_a_bundle_that_is_not_even_a_bundle_what_can_be_told_is_recorded(tmp_path: Path) -> None:
    policies = write(light(1), tmp_path / "policies")
    async with gateway(tmp_path / "state", policies) as context:
        broken = Files({**light(2).content, "routes.yaml": b"{"})
        write(broken, policies)
        assert not await context.policies.reload()
        (policies / "routes.yaml").unlink()
        assert not await context.policies.reload()

    compiled_not, read_not = (link.fields for link in policy_records(tmp_path / "state")[1:])
    assert (compiled_not["reason"], compiled_not["revision"]) == ("invalid", broken.revision)
    assert (compiled_not["serial"], compiled_not["summary"]) == (2, None)
    assert (read_not["reason"], read_not["revision"], read_not["serial"]) == ("invalid", None, None)


async def test_a_restart_with_an_older_signed_bundle_is_refused_and_recorded(
    tmp_path: Path, trusting: dict[str, Any]
) -> None:
    policies, state = write(signed(light(7), ANN, serial=7), tmp_path / "policies"), tmp_path / "state"
    make_keys(state)
    await start(state, policies, **trusting)
    older = signed(light(6), ANN, serial=6)
    write(older, policies)

    with pytest.raises(PolicyUntrusted) as raised:
        await start(state, policies, **trusting)
    assert "the serial 6 is lower than 7, which was in force here" in str(raised.value)
    assert "to go back on purpose, give the bundle a serial above 7 and sign it" in str(raised.value)
    recorded = policy_records(state)[-1]
    assert recorded.kind == "policy_refused"
    assert recorded.fields == {
        "kept": None,
        "problems": ["bundle.yaml:0"],
        "problems_count": 1,
        "reason": "serial",
        "revision": older.revision,
        "serial": 6,
        "summary": None,
    }

    on_purpose = signed(light(8), ANN, serial=8)
    assert await start(state, write(on_purpose, policies), **trusting) == on_purpose.revision
    assert await start(state, policies, **trusting) == on_purpose.revision  # the same again is no rollback


async def test_a_first_start_with_an_unsigned_bundle_is_refused_and_recorded(
    tmp_path: Path, trusting: dict[str, Any]
) -> None:
    policies = write(light(3), tmp_path / "policies")
    with pytest.raises(PolicyUntrusted, match="the bundle is not signed"):
        async with gateway(tmp_path / "state", policies, **trusting):
            raise AssertionError("it started")

    (recorded,) = policy_records(tmp_path / "state")
    assert (recorded.kind, recorded.fields["kept"]) == ("policy_refused", None)
    assert (recorded.fields["reason"], recorded.fields["serial"]) == ("unsigned", 3)
    assert not (tmp_path / "state" / FILE).exists()


async def test_a_first_start_with_a_broken_bundle_is_recorded_too(tmp_path: Path) -> None:
    policies = write(Files({**light(3).content, "routes.yaml": b"{"}), tmp_path / "policies")
    with pytest.raises(PolicyInvalid):
        async with gateway(tmp_path / "state", policies):
            raise AssertionError("it started")

    (recorded,) = policy_records(tmp_path / "state")
    assert (recorded.kind, recorded.fields["reason"]) == ("policy_refused", "invalid")


@pytest.mark.usefixtures("told_here")
async def test_four_eyes_need_two_people_at_start_and_on_reload(tmp_path: Path) -> None:
    keys = (pem(ANN, tmp_path / "ann.pem"), pem(BOB, tmp_path / "bob.pem"))
    asked = {"policy_trusted_keys": keys, "policy_signatures_needed": 2}
    first = signed(light(1), ANN, BOB)
    policies = write(first, tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, **asked) as context:
        by_ann = signed(light(2), ANN, serial=2)
        (name,) = by_ann.signatures
        twice = Files(
            by_ann.content, {name: by_ann.signatures[name], "signatures/bob.jws": by_ann.signatures[name]}
        )
        write(twice, policies)
        assert not await context.policies.reload()
        assert policy_records(tmp_path / "state")[-1].fields["reason"] == "too_few_signatures"

        write(signed(light(2), ANN, BOB, serial=2), policies)
        assert await context.policies.reload()
    recorded = policy_records(tmp_path / "state")[-1].fields
    assert recorded["signed_by"] == sorted((ANN.kid, BOB.kid))


@pytest.mark.usefixtures("told_here")
async def test_a_bundle_whose_backends_cannot_be_built_does_not_use_up_its_serial(
    tmp_path: Path, trusting: dict[str, Any]
) -> None:
    policies = write(signed(light(1), ANN), tmp_path / "policies")
    given = {"outside": {"url": "http://models.example", "secret": "s"}}
    async with gateway(tmp_path / "state", policies, backends=given, **trusting) as context:
        places = light(2).content["places.yaml"] + (
            b"\n  - id: outside\n    kind: openai\n    country: DE\n    operator: self\n"
            b"    models: {gpt-oss-20b: m}\n"
        )
        files = dict(wider(2).content)
        write(signed(Files({**files, "places.yaml": places}), ANN, serial=2), policies)
        assert not await context.policies.reload()
        assert read_highest(tmp_path / "state" / FILE) == Highest(serial=1, revision=light(1).revision)

        write(signed(wider(2), ANN, serial=2), policies)
        assert await context.policies.reload()


@pytest.mark.usefixtures("told_here")
async def test_a_worker_that_is_late_does_not_take_the_serial_back(
    tmp_path: Path, trusting: dict[str, Any]
) -> None:
    policies, state = write(signed(light(1), ANN), tmp_path / "policies"), tmp_path / "state"
    async with gateway(state, policies, **trusting) as late:
        newest = signed(light(3), ANN, serial=3)
        await start(state, write(newest, tmp_path / "newest"), **trusting)
        write(signed(light(2), ANN, serial=2), policies)

        assert not await late.policies.reload()
        assert late.policies.current.serial == 1
        assert read_highest(state / FILE) == Highest(serial=3, revision=newest.revision)


@pytest.mark.parametrize("content", [None, b"no key"])
async def test_a_trusted_key_that_cannot_be_read_stops_the_start_naming_the_setting(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ann.pem"
    if content is not None:
        file.write_bytes(content)
    policies = write(light(1), tmp_path / "policies")
    with pytest.raises(SettingsInvalid, match=f"`policy_trusted_keys`: `{file}` "):
        async with gateway(tmp_path / "state", policies, policy_trusted_keys=(file,)):
            raise AssertionError("it started")


async def test_more_signatures_than_keys_stop_the_start(tmp_path: Path, trusting: dict[str, Any]) -> None:
    policies = write(light(1), tmp_path / "policies")
    with pytest.raises(SettingsInvalid, match="no bundle could ever load"):
        async with gateway(tmp_path / "state", policies, policy_signatures_needed=2, **trusting):
            raise AssertionError("it started")


@pytest.mark.usefixtures("told_here")
async def test_a_new_signature_alone_is_noticed_by_the_watching(
    tmp_path: Path, trusting: dict[str, Any]
) -> None:
    """Content first, its signature later, as a copy file by file has it: the last file brings it in force."""
    policies = write(signed(light(1), ANN), tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, **trusting) as context:
        later = signed(light(2), ANN, serial=2)
        write(Files(later.content), policies)
        assert not await context.policies.reload()
        seen = context.policies._seen
        ((name, content),) = later.signatures.items()
        (policies / name).parent.mkdir()
        (policies / name).write_bytes(content)

        assert fingerprint(policies) != seen
        assert await context.policies.reload()
