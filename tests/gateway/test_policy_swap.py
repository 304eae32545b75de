"""A bundle that comes into force while a request is under way can only take places away from it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.backends.base import ServerFault
from gateway.policy.bundle import Bundle
from gateway.policy.live import Live
from gateway.policy.source.directory import Files
from gateway.store.memory import MemoryStore
from tests.gateway.inprocess import chat, gateway, kinds, records, script
from tests.integration.bundle import bundle_with_keys, edit, without_examples


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    return bundle_with_keys(tmp_path / "policies")


def moved(bundle: Bundle, place: str, towards: str) -> Bundle:
    """The same bundle under another revision, in which `place` stands where `towards` does."""
    there = replace(bundle.places[towards], id=place)
    return replace(bundle, revision="sha256:moved", places={**bundle.places, place: there})


async def test_a_place_that_moved_under_its_name_gets_no_further_attempt(
    tmp_path: Path, policies: Path
) -> None:
    async with gateway(tmp_path / "state", policies) as context:
        frankfurt = script(context, "bedrock-frankfurt")

        async def fail_and_move() -> None:
            context.policies.current = moved(
                context.policies.current, "bedrock-frankfurt", "bedrock-virginia"
            )
            script(context, "bedrock-frankfurt")  # as `rebuild` does: the name now leads to Virginia
            raise ServerFault("`bedrock-frankfurt` failed")

        frankfurt.before = fail_and_move
        client = chat("hello", labels="internal, personal")
        await client.ask(context)
        virginia = context.backends["bedrock-frankfurt"]
        assert virginia.attempts == []  # type: ignore[attr-defined]
        assert client.status == 503
        end = records(context)[-1]
        tries = [(one["place"], one["outcome"]) for one in end.fields["attempts"]]
        assert tries == [("bedrock-frankfurt", "server_fault"), ("bedrock-frankfurt", "withdrawn")]


async def test_a_place_that_a_new_bundle_leaves_without_backend_gets_no_further_attempt(
    tmp_path: Path, policies: Path
) -> None:
    async with gateway(tmp_path / "state", policies) as context:
        engine = script(context)

        async def fail_and_vanish() -> None:
            context.backends._backends.clear()
            raise ServerFault("`local-engine` failed")

        engine.before = fail_and_vanish
        client = chat("hello")
        await client.ask(context)
        assert client.status == 503
        assert kinds(context) == ["begin", "end"]


async def test_an_answer_is_kept_only_where_the_bundle_in_force_at_its_end_permits(
    tmp_path: Path, policies: Path
) -> None:
    async with gateway(tmp_path / "state", policies) as context:
        engine = script(context)
        without_examples(policies)
        edit(
            policies / "residency" / "90-permits.yaml",
            "permit: [infer, cache, log, record]",
            "permit: [infer, log, record]",
        )

        async def swap() -> None:
            assert await context.policies.reload()
            script(context)

        engine.before = swap
        assert isinstance(context.store, MemoryStore)
        values = context.store._values
        engine.before = None
        await chat("before").ask(context)
        assert [key.startswith("a:answer/") for _, key in values] == [True, False]
        engine.before = swap
        client = chat("hello")
        await client.ask(context)
        assert client.status == 200
        assert len([key for _, key in values if key.startswith("a:answer/")]) == 1


async def test_a_hit_is_told_only_where_the_bundle_in_force_permits_it(
    tmp_path: Path, policies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(tmp_path / "state", policies) as context:
        engine = script(context)
        await chat("hello").ask(context)
        again = chat("hello")
        await again.ask(context)
        assert again.header("x-douane-cache") == "hit"
        without_examples(policies)
        edit(
            policies / "residency" / "90-permits.yaml",
            "permit: [infer, cache, log, record]",
            "permit: [infer, log, record]",
        )
        enter = context.store.enter

        async def enter_while_the_bundle_changes(entry: object) -> object:
            entered = await enter(entry)  # type: ignore[arg-type]
            await context.policies.reload()
            script(context)
            return entered

        monkeypatch.setattr(context.store, "enter", enter_while_the_bundle_changes)
        third = chat("hello")
        await third.ask(context)
        assert third.status == 200
        assert third.header("x-douane-cache") == "miss"
        assert len(engine.attempts) == 1


async def test_a_bundle_whose_backends_cannot_be_built_does_not_come_into_force(
    tmp_path: Path, policies: Path
) -> None:
    given = {"outside": {"url": "http://models.example", "secret": "s"}}
    async with gateway(tmp_path / "state", policies, backends=given) as context:
        before = context.policies.current
        without_examples(policies)
        with (policies / "places.yaml").open("a") as places:
            places.write(
                "\n  - id: outside\n    kind: openai\n    country: DE\n    operator: self\n"
                "    models: {gpt-oss-20b: m}\n"
            )
        assert not await context.policies.reload()
        assert context.policies.current is before
        assert context.metrics.policy_loads.labels("refused")._value.get() == 1


async def test_a_load_that_fails_as_nobody_foresaw_does_not_end_the_watching(
    tmp_path: Path, policies: Path
) -> None:
    async with gateway(tmp_path / "state", policies) as context:
        before, loads = context.policies.current, asyncio.Event()
        loop = asyncio.get_running_loop()

        def admit(files: Files) -> Live:
            loop.call_soon_threadsafe(loads.set)
            raise RuntimeError("a fault of our own")

        context.policies._admit = admit
        watching = asyncio.create_task(context.policies.watch(0.01))
        for name in ("one", "two"):
            loads.clear()
            (policies / "residency" / f"{name}.yaml").write_text("")
            await loads.wait()
        assert not watching.done()
        watching.cancel()
        assert context.policies.current is before


async def test_of_two_loads_at_once_the_later_content_stays_in_force(tmp_path: Path, policies: Path) -> None:
    async with gateway(tmp_path / "state", policies) as context:
        slow, went = threading.Event(), threading.Event()
        first = replace(context.policies.current, revision="sha256:first")
        second = replace(context.policies.current, revision="sha256:second")
        contents = [first, second]

        def admit(files: Files) -> Live:
            mine = contents.pop(0)
            if mine is first:
                went.set()
                slow.wait(10)
            return Live(mine, files, ())

        policies_ = context.policies
        policies_._admit = admit
        one = asyncio.create_task(policies_.reload())
        await asyncio.to_thread(went.wait, 10)
        two = asyncio.create_task(policies_.reload())
        await asyncio.sleep(0.05)
        slow.set()
        await asyncio.gather(one, two)
        assert policies_.current.revision == "sha256:second"


async def test_claims_are_proven_in_another_process_than_the_one_that_answers(
    tmp_path: Path, policies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("load", "prover"):
        monkeypatch.setattr(f"gateway.policy.{module}.prove", None)  # this process can prove nothing

    async with gateway(tmp_path / "state", policies) as context:
        edit(policies / "bundle.yaml", "serial: 1 ", "serial: 2 ")
        assert await context.policies.reload()
        assert context.policies.current.serial == 2
