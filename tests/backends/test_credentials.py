"""Credentials: read in a thread, cached, and never an excuse for a message that leaks."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError, CredentialRetrievalError

from gateway.backends.base import Misconfigured
from gateway.backends.credentials import FAILURE_KEPT_S, LOOK_AGAIN_S, AwsCredentials, AwsKeys
from gateway.building import aws_credentials
from gateway.settings import Settings


class Session:
    """Hands out keys like botocore's session, counting and remembering the thread."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.threads: list[int] = []

    def get_credentials(self) -> Any:
        self.threads.append(threading.get_ident())
        answer = self.answers[min(len(self.threads), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Keys:
    def __init__(self, name: str) -> None:
        self.name = name

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return ReadOnlyCredentials(self.name, "secret-of-" + self.name, None)


def keys_of(name: str) -> AwsKeys:
    return AwsKeys(name, "secret-of-" + name, None)


async def test_keys_are_read_off_the_loop_and_kept_for_a_while() -> None:
    now = [100.0]
    session = Session(Keys("first"), Keys("second"))
    credentials = AwsCredentials(session, now_s=lambda: now[0])
    assert [await credentials.current() for _ in range(3)] == [keys_of("first")] * 3
    now[0] += LOOK_AGAIN_S
    assert await credentials.current() == keys_of("second")
    assert "second" not in repr(keys_of("second"))
    assert len(session.threads) == 2
    assert threading.get_ident() not in session.threads


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "no aws credentials were found"),
        (CredentialRetrievalError(provider="p", error_msg="canary"), "`CredentialRetrievalError`"),
        (ClientError({"Error": {"Code": "c", "Message": "canary"}}, "AssumeRole"), "`ClientError`"),
        (RuntimeError("canary"), "`RuntimeError`"),
    ],
)
async def test_keys_that_cannot_be_had_are_our_own_mistake(answer: Any, text: str) -> None:
    now = [100.0]
    session = Session(answer, Keys("recovered"))
    credentials = AwsCredentials(session, now_s=lambda: now[0])
    for _ in range(2):  # the second is answered from memory
        with pytest.raises(Misconfigured, match=text) as caught:
            await credentials.current()
        assert "canary" not in str(caught.value)
    assert len(session.threads) == 1
    now[0] += FAILURE_KEPT_S
    assert await credentials.current() == keys_of("recovered")


@pytest.mark.parametrize("role", [False, True])
def test_the_metadata_service_of_the_machine_is_asked_only_when_the_settings_say_so(role: bool) -> None:
    credentials = aws_credentials(Settings.model_validate({"bedrock": "aws", "aws_instance_role": role}))
    providers = credentials._session._session.get_component("credential_provider").providers
    assert ("iam-role" in {provider.METHOD for provider in providers}) is role
