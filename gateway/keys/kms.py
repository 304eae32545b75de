"""AWS KMS as the wrapping of data keys, and as the lock of key files that rest on a disk.

KMS never sees more than 4 KB at a time, and only when a tenant's key is first needed by a process: keys are
used here, not there. The encryption context names what is wrapped, so that one never passes for another, and
CloudTrail shows it.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from gateway.aws_client import regional_client
from gateway.hidden import HiddenBytes
from gateway.keys.wrapping import Unwrappable, WrappingUnavailable

CONTEXT: Final = "douane:tenant"
FILE_CONTEXT: Final = "douane:file"
TIMEOUT_S: Final = 3.0
TRIES: Final = 3
# What KMS says of a ciphertext that is not one of this key's, or was given another context.
WRONG: Final = frozenset({"InvalidCiphertextException", "IncorrectKeyException", "InvalidKeyUsageException"})


class Kms(Protocol):
    """The two calls that are made of boto3's client."""

    def encrypt(self, **given: Any) -> Any: ...

    def decrypt(self, **given: Any) -> Any: ...


def kms_client(session: boto3.Session, region: str) -> Kms:
    """A client for the keys of one region."""
    client: Kms = regional_client(session, "kms", region, timeout_s=TIMEOUT_S, tries=TRIES)
    return client


class KmsWrapping:
    """A `Wrapping` by one key of KMS."""

    name = "kms"

    def __init__(self, client: Kms, key_id: str) -> None:
        self._client = client
        self._key_id = key_id

    def wrap(self, tenant: str, data_key: bytes) -> bytes:
        return self._encrypt(data_key, {CONTEXT: tenant})

    def unwrap(self, tenant: str, wrapped: bytes) -> bytes:
        return self._decrypt(wrapped, {CONTEXT: tenant}, f"the key of tenant `{tenant}`")

    def lock(self, name: str, content: bytes) -> bytes:
        """The content of a key file as it may rest on a disk, 4 KB at most. Raises `WrappingUnavailable`."""
        return self._encrypt(content, {FILE_CONTEXT: name})

    def unlock(self, name: str, locked: bytes) -> bytes:
        """Raises `Unwrappable` and `WrappingUnavailable`."""
        return self._decrypt(locked, {FILE_CONTEXT: name}, f"`{name}`")

    def __repr__(self) -> str:
        return f"KmsWrapping({self._key_id})"

    def _encrypt(self, content: bytes, context: dict[str, str]) -> bytes:
        try:
            answer = self._client.encrypt(KeyId=self._key_id, Plaintext=content, EncryptionContext=context)
        except (BotoCoreError, ClientError) as error:
            raise WrappingUnavailable(f"kms did not wrap a key: {said(error)}") from error
        return bytes(answer["CiphertextBlob"])

    def _decrypt(self, wrapped: bytes, context: dict[str, str], what: str) -> bytes:
        try:
            return HiddenBytes(
                self._client.decrypt(KeyId=self._key_id, CiphertextBlob=wrapped, EncryptionContext=context)[
                    "Plaintext"
                ]
            )
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in WRONG:
                raise Unwrappable(
                    f"{what} does not open with the kms key `{self._key_id}`; it was wrapped by another"
                ) from error
            raise WrappingUnavailable(f"kms did not unwrap {what}: {said(error)}") from error
        except BotoCoreError as error:
            raise WrappingUnavailable(f"kms did not unwrap {what}: {said(error)}") from error


def said(error: Exception) -> str:
    """The service's code, or the kind of the client's error; never a text that could quote what was sent."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown error"))
    return type(error).__name__
