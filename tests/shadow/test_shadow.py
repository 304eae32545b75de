"""A candidate beside the live bundle in a running gateway: counted, listed, and never obeyed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gateway.context import GatewayContext
from gateway.shadow import shadow as module
from gateway.shadow.shadow import Candidate
from gateway.shadow.tally import SavedTally, read_tallies
from tests.gateway.inprocess import chat, gateway, script
from tests.integration.bundle import GLOBEX, WARD
from tests.shadow.bundles import Bundles, candidate

EEA_RULE = ("residency/20-personal-data.yaml", "forbid: [infer, cache, log]\n  when: {tenant_in: EEA",
            "forbid: [log]\n  when: {tenant_in: EEA")  # fmt: skip
WORK_RULE = ("residency/30-region.yaml", "when: {tenant_in: EEA, sensitivity_at_least: internal}",
             "when: {tenant_in: EEA, sensitivity_at_least: secret}")  # fmt: skip
NO_BEDROCK = ("residency/90-permits.yaml", "place_in: [EEA, GB, US]", "place_in: [GB]")
ENGINE, FRANKFURT, VIRGINIA = "local-engine", "bedrock-frankfurt", "bedrock-virginia"
TOKEN = "zq-token-that-is-nowhere-else"


def shadow_of(context: GatewayContext) -> Candidate:
    assert isinstance(context.shadow, Candidate)
    return context.shadow


async def counted(context: GatewayContext) -> SavedTally:
    """What the worker has written down."""
    await shadow_of(context).save()
    (tally,) = read_tallies(context.settings.state_dir / "shadow")
    return tally


def audited(context: GatewayContext, kind: str) -> list[dict[str, object]]:
    lines = context.audit.path.read_bytes().splitlines()  # type: ignore[attr-defined]
    return [record for line in lines if (record := json.loads(line))["kind"] == kind]


async def test_a_candidate_that_permits_more_is_counted_and_nothing_goes_there(
    tmp_path: Path, bundles: Bundles
) -> None:
    wider = candidate(bundles.directory, tmp_path / "next", EEA_RULE, WORK_RULE)
    async with gateway(tmp_path / "state", bundles.directory, shadow_policies=wider) as context:
        await shadow_of(context).look()
        virginia = script(context, VIRGINIA)
        client = chat("hello", labels="personal")  # only Virginia is left, and it is forbidden
        await client.ask(context)

        assert client.status == 403
        assert virginia.attempts == []
        tally = await counted(context)
        assert (tally.judged, tally.kinds, tally.failed) == (1, {"newly_allowed": 1}, 0)
        (group,) = tally.groups
        assert (group.live, group.candidate, group.candidate_rule) == (
            "residency_denied", VIRGINIA, "european-and-us-tenants-may-use-bedrock",
        )  # fmt: skip
        assert group.live_rule == "personal-data-of-eea-tenants-stays-in-the-eea"
        assert (group.labels, group.zone, group.model) == (("public", "personal"), "DE", "gpt-oss-20b")
        assert group.request == client.header("x-request-id")
        assert f"infer at {VIRGINIA}" in group.gained


async def test_a_candidate_that_refuses_is_counted_and_the_answer_is_given(
    tmp_path: Path, bundles: Bundles
) -> None:
    narrower = candidate(bundles.directory, tmp_path / "next", NO_BEDROCK)
    async with gateway(tmp_path / "state", bundles.directory, shadow_policies=narrower) as context:
        await shadow_of(context).look()
        script(context, FRANKFURT)
        plain, stream = chat("hello"), chat("other", stream=True)
        await plain.ask(context)
        await stream.ask(context)

        assert (plain.status, stream.status) == (200, 200)
        assert stream.answer.endswith(b"data: [DONE]\n\n")
        tally = await counted(context)
        assert (tally.judged, tally.kinds) == (2, {"newly_refused": 2})
        assert [group.count for group in tally.groups] == [2]


async def test_a_candidate_that_decides_alike_agrees_on_every_kind_of_request(
    tmp_path: Path, bundles: Bundles
) -> None:
    same = candidate(bundles.directory, tmp_path / "next")
    async with gateway(tmp_path / "state", bundles.directory, shadow_policies=same) as context:
        await shadow_of(context).look()
        script(context, ENGINE, FRANKFURT, VIRGINIA)
        clients = [
            chat("hello"), chat("hello"), chat("hello", stream=True), chat("x", labels="secret, health"),
            chat("mail me at a.b@example.com"), chat("what", "that", "and this"), chat("x", labels="nope"),
            chat("x", key=GLOBEX), chat("x", key=WARD), chat("x", key="sk-nobody"), chat("x", model="gpt-5"),
        ]  # fmt: skip
        for client in clients:
            await client.ask(context)

        tally = await counted(context)
        assert (tally.disagreements, tally.failed, tally.unlisted) == (0, 0, 0)
        assert tally.judged == len(clients) - 1  # a caller without a key is turned away before it is read


async def test_nothing_of_a_request_s_content_or_of_who_asks_is_written_down(
    tmp_path: Path, bundles: Bundles
) -> None:
    narrower = candidate(bundles.directory, tmp_path / "next", NO_BEDROCK)
    async with gateway(tmp_path / "state", bundles.directory, shadow_policies=narrower) as context:
        await shadow_of(context).look()
        script(context, FRANKFURT, text=f"answer {TOKEN}")
        await chat(f"question {TOKEN}", user=f"user-{TOKEN}").ask(context)

        assert (await counted(context)).disagreements == 1
        (file,) = (context.settings.state_dir / "shadow").iterdir()
        assert TOKEN not in file.read_text()
        assert "demo" not in file.read_text()  # the tenant
        assert file.stat().st_mode & 0o777 == 0o600


async def test_a_request_of_which_nothing_may_be_recorded_is_counted_alone(
    tmp_path: Path, bundles: Bundles
) -> None:
    unrecorded = tmp_path / "live"
    shutil.copytree(bundles.directory, unrecorded)
    rules = unrecorded / "residency" / "10-secrecy.yaml"
    rules.write_text(
        rules.read_text() + "\n- id: no-records-of-secrets\n  basis: a test\n  forbid: [record]\n"
        "  when: {sensitivity_at_least: secret}\n"
    )
    looser = candidate(bundles.directory, tmp_path / "next")
    async with gateway(tmp_path / "state", unrecorded, shadow_policies=looser) as context:
        await shadow_of(context).look()
        script(context)
        client = chat("hello", labels="secret")
        await client.ask(context)

        assert client.status == 403
        tally = await counted(context)
        assert (tally.kinds, tally.groups, tally.unlisted) == ({"newly_allowed": 1}, (), 1)


async def test_a_broken_candidate_is_logged_counted_and_changes_nothing(
    tmp_path: Path, bundles: Bundles, caplog: pytest.LogCaptureFixture
) -> None:
    broken = candidate(bundles.directory, tmp_path / "next")
    (broken / "routes.yaml").write_text("routes: nonsense\n")
    async with gateway(tmp_path / "state", bundles.directory, shadow_policies=broken) as context:
        await shadow_of(context).look()
        script(context)
        client = chat("hello")
        await client.ask(context)

        assert client.status == 200
        assert shadow_of(context).bundle is None
        assert "shadow_refused" in caplog.messages
        assert context.metrics.shadow_loads.labels("refused")._value.get() == 1
        assert audited(context, "canary") == []


async def test_a_fault_while_judging_reaches_no_request(
    tmp_path: Path, bundles: Bundles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    same = candidate(bundles.directory, tmp_path / "next")
    async with gateway(tmp_path / "state", bundles.directory, shadow_policies=same) as context:
        await shadow_of(context).look()
        script(context)
        monkeypatch.setattr(module, "judge", fail)
        for client in (chat("one"), chat("two")):
            await client.ask(context)
            assert client.status == 200

        tally = await counted(context)
        assert (tally.judged, tally.failed) == (0, 2)
        assert caplog.messages.count("shadow_failed") == 1


async def test_a_candidate_comes_changes_and_goes_on_the_record(tmp_path: Path, bundles: Bundles) -> None:
    path = tmp_path / "next"
    async with gateway(tmp_path / "state", bundles.directory, shadow_policies=path) as context:
        script(context, FRANKFURT)
        shadow = shadow_of(context)
        await shadow.look()
        await chat("nobody looks").ask(context)
        candidate(bundles.directory, path, NO_BEDROCK)
        await shadow.look()
        first = shadow.bundle
        await chat("hello").ask(context)
        shutil.rmtree(path)
        candidate(bundles.directory, path, EEA_RULE)
        await shadow.look()
        second = shadow.bundle
        await chat("again").ask(context)
        shutil.rmtree(path)
        await shadow.look()
        await chat("nobody looks any more").ask(context)

        assert first is not None
        assert second is not None
        assert shadow.bundle is None
        said = [
            (one["action"], one["revision"], one["judged_count"], one["disagreements_count"])
            for one in audited(context, "canary")
        ]
        assert said == [
            ("began", first.revision, 0, 0), ("ended", first.revision, 1, 1),
            ("began", second.revision, 0, 0), ("ended", second.revision, 1, 0),
        ]  # fmt: skip


async def test_a_candidate_that_comes_into_force_is_recorded_as_promoted(
    tmp_path: Path, bundles: Bundles
) -> None:
    live = tmp_path / "live"
    shutil.copytree(bundles.directory, live)
    path = candidate(live, tmp_path / "next", NO_BEDROCK)
    async with gateway(tmp_path / "state", live, shadow_policies=path) as context:
        shadow = shadow_of(context)
        await shadow.look()
        script(context, FRANKFURT)
        await chat("hello").ask(context)
        live.rename(tmp_path / "before")
        path.rename(live)
        await shadow.look()

        assert context.policies.current.serial == bundles.live.serial + 1
        assert [(one["action"], one["judged_count"]) for one in audited(context, "canary")] == [
            ("began", 0), ("promoted", 1),
        ]  # fmt: skip
        await chat("hello again").ask(context)
        assert shadow.bundle is None


async def test_the_count_begins_anew_when_the_live_bundle_changes(tmp_path: Path, bundles: Bundles) -> None:
    live = tmp_path / "live"
    shutil.copytree(bundles.directory, live)
    path = candidate(live, tmp_path / "next", NO_BEDROCK)
    async with gateway(tmp_path / "state", live, shadow_policies=path) as context:
        await shadow_of(context).look()
        script(context, FRANKFURT)
        await chat("one").ask(context)
        before = await counted(context)
        (live / "bundle.yaml").write_text((live / "bundle.yaml").read_text() + "# changed\n")
        await context.policies.reload()
        script(context, FRANKFURT)
        await chat("two").ask(context)
        after = await counted(context)

        assert (before.judged, after.judged) == (1, 1)
        assert before.live != after.live == context.policies.current.revision


async def test_without_the_setting_nobody_is_asked(tmp_path: Path, bundles: Bundles) -> None:
    async with gateway(tmp_path / "state", bundles.directory) as context:
        script(context)
        await chat("hello").ask(context)

        assert not (tmp_path / "state" / "shadow").exists()
