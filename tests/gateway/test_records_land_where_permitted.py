"""Records say what happened, and not even a refusal is written down where its labels do not permit it."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64decode
from pathlib import Path

import pytest

from tests.gateway.inprocess import Client, chat, gateway, kinds, records, script
from tests.integration.bundle import DEMO, HELPDESK, bundle_with_keys, edit, without_examples


def bundle_with_its_audit_anywhere(directory: Path) -> Path:
    """A bundle whose audit is not on the premises, and may hold metadata all the same."""
    policies = bundle_with_keys(directory)
    without_examples(policies)
    audit = "  - id: audit-files\n    kind: audit\n    country: DE\n    operator: self\n"
    edit(policies / "places.yaml", audit + "    attested: [on-premises]\n", audit)
    edit(
        policies / "residency" / "90-permits.yaml",
        "- id: european-and-us",
        "- id: the-audit-is-anywhere\n  description: It may hold metadata.\n  permit: [record]\n"
        "  when: {place_in: audit-files}\n\n- id: european-and-us",
    )
    return policies


async def test_a_refusal_is_not_recorded_where_a_record_is_forbidden(tmp_path: Path) -> None:
    policies = bundle_with_its_audit_anywhere(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies) as context:
        engine = script(context)
        secret = chat("hello", labels="secret")
        await secret.ask(context)
        assert secret.status == 403
        assert json.loads(secret.answer)["error"]["douane"]["place"] == "audit-files"
        assert engine.attempts == []
        assert kinds(context) == []
        receipt = secret.header("x-douane-receipt")
        assert receipt is not None
        claims = json.loads(urlsafe_b64decode(receipt.split(".")[1] + "=="))
        assert claims["audit"] is None
        assert claims["labels"] == ["secret"]

        public = chat("hello")
        await public.ask(context)
        assert public.status == 200
        assert [record.fields.get("labels") for record in records(context)] == [["public"], None]


async def test_an_answer_whose_begin_could_not_be_written_is_no_refusal(tmp_path: Path) -> None:
    policies = bundle_with_keys(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies, audit_failure="continue") as context:
        engine = script(context)

        async def disk_has_room_again() -> None:
            context.audit._closed = False  # type: ignore[attr-defined]

        engine.before = disk_has_room_again
        context.audit._closed = True  # type: ignore[attr-defined]
        client = chat("hello")
        await client.ask(context)
        assert client.status == 200
        (end,) = records(context)
        assert (end.kind, end.fields["outcome"], end.fields["began"]) == ("end", "answered", 0)


async def test_of_a_request_whose_labels_are_not_all_known_nothing_is_recorded_that_they_could_forbid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = bundle_with_its_audit_anywhere(tmp_path / "policies")
    async with gateway(tmp_path / "state", policies) as context:
        script(context)

        async def hang_up_during(part: object, name: str, client: Client) -> None:
            """Hangs up while this part is at work, before it has said which labels there are."""

            async def working(*_: object) -> None:
                client.gone.set()
                await asyncio.Event().wait()

            with monkeypatch.context() as patched:
                patched.setattr(part, name, working)
                await client.ask(context)

        # `demo` may carry `secret`, of which this audit may not know; `acme-de` may not.
        for key, recorded in ((DEMO, []), (HELPDESK, ["refused"])):
            before = len(kinds(context))
            await hang_up_during(context.detectors, "kinds", chat("hello", key=key))
            assert kinds(context)[before:] == recorded
            await hang_up_during(context.store, "enter", chat("hello", key=key))
            assert kinds(context)[before:] == recorded * 2
            before += 2 * len(recorded)
            wrong = chat("hello", key=key, labels="secret", model="none")
            await wrong.ask(context)
            assert (wrong.status, kinds(context)[before:]) == (404, [])
