"""The policy that the documents give the doctor allows exactly the calls that it makes."""

from __future__ import annotations

import asyncio
import json
import re

from gateway.doctor.account import examine_account
from gateway.doctor.permissions import ACTIONS, policy_document
from gateway.policy.geography import aws_regions
from gateway.testing.bedrock.control_plane import Account
from gateway.testing.bedrock.server import Running
from tests.docs.snippets import ROOT
from tests.doctor.aws import REGIONS, at, two_regions, witnessed
from tests.policy.bundles import loaded_default


async def test_every_action_that_it_may_need_is_called_and_no_other(
    emulators: dict[str, Running], moto_url: str
) -> None:
    witness = witnessed()
    logging = {"s3Config": {"bucketName": "prompts"}}
    emulators[REGIONS[0]].emulator.control_plane.account = Account(logging=logging)

    await asyncio.to_thread(
        examine_account,
        two_regions(),
        "gateway",
        witness.session,
        at(emulators, moto_url),
        aws_regions(),
        lambda host: [],
    )

    assert witness.calls == set(ACTIONS)


def test_each_action_is_named_as_its_call() -> None:
    assert {f"{service}:{operation}" for service, operation in ACTIONS} == set(ACTIONS.values())


def test_the_documents_show_the_policy_of_the_default_bundle() -> None:
    page = (ROOT / "docs" / "bedrock.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```json\n(\{.*?\n\})\n```$", page, re.MULTILINE | re.DOTALL)

    assert json.loads(shown) == policy_document(loaded_default().bundle.places.values())
