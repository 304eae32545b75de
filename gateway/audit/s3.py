"""A bucket of S3 with Object Lock, as a second place of the audit: what is in it can be changed by nobody.

Each object holds whole lines of one replica's chain, as they stand in its files, and is named after the first
and the last record in it. It is locked in compliance mode: not even the account's root user can remove it
before its time. Downloaded, the objects are audit files like any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from gateway.aws_client import regional_client

TIMEOUT_S: Final = 10.0
TRIES: Final = 2  # of the client; the copier tries again by itself
_NAME: Final = re.compile(r"(?P<first>\d{12})-(?P<last>\d{12})\.jsonl")


class BucketUnusable(Exception):
    """The bucket is not as it must be; says how to fix it."""


class BucketUnavailable(Exception):
    """S3 did not answer, or refused; says with which code."""


class S3(Protocol):
    """The calls that are made of boto3's client."""

    def get_object_lock_configuration(self, **given: Any) -> Any: ...

    def list_objects_v2(self, **given: Any) -> Any: ...

    def put_object(self, **given: Any) -> Any: ...


def s3_client(session: boto3.Session, region: str) -> S3:
    """A client for objects of one region; with one host, which can be written down."""
    path_style = {"addressing_style": "path"}
    client: S3 = regional_client(session, "s3", region, timeout_s=TIMEOUT_S, tries=TRIES, s3=path_style)
    return client


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where one replica's lines go. `prefix` ends with a slash, or is empty."""

    client: S3
    name: str
    prefix: str
    replica: str

    def require_lock(self) -> None:
        """Raises `BucketUnusable` for a bucket without Object Lock, and `BucketUnavailable`."""
        try:
            found = self.client.get_object_lock_configuration(Bucket=self.name)
        except ClientError as error:
            if code_of(error) in ("ObjectLockConfigurationNotFoundError", "NoSuchBucket"):
                raise BucketUnusable(
                    f"the bucket `{self.name}` has no Object Lock, or is not there; make one with "
                    "`aws s3api create-bucket --object-lock-enabled-for-bucket`"
                ) from error
            raise BucketUnavailable(code_of(error)) from error
        except BotoCoreError as error:
            raise BucketUnavailable(type(error).__name__) from error
        if found["ObjectLockConfiguration"].get("ObjectLockEnabled") != "Enabled":
            raise BucketUnusable(f"the bucket `{self.name}` has Object Lock turned off; turn it on")

    def last_copied(self) -> int:
        """The number of the last record that is there; 0 for none. Raises `BucketUnavailable`."""
        last, more = 0, dict[str, str]()
        try:
            while True:
                answer = self.client.list_objects_v2(Bucket=self.name, Prefix=self._folder, **more)
                for one in answer.get("Contents", ()):
                    if named := _NAME.fullmatch(one["Key"].removeprefix(self._folder)):
                        last = max(last, int(named["last"]))
                if not answer.get("IsTruncated"):
                    return last
                more = {"ContinuationToken": answer["NextContinuationToken"]}
        except ClientError as error:
            raise BucketUnavailable(code_of(error)) from error
        except BotoCoreError as error:
            raise BucketUnavailable(type(error).__name__) from error

    def put(self, lines: bytes, first: int, last: int, until: datetime) -> None:
        """Puts records `first` to `last`, locked until then; one that is there already is as good.

        Raises `BucketUnavailable`.
        """
        try:
            self.client.put_object(
                Bucket=self.name,
                Key=f"{self._folder}{first:012d}-{last:012d}.jsonl",
                Body=lines,
                ContentType="application/jsonl",
                ChecksumAlgorithm="SHA256",  # made here, checked there; a locked object needs one
                IfNoneMatch="*",
                ObjectLockMode="COMPLIANCE",
                ObjectLockRetainUntilDate=until,
            )
        except ClientError as error:
            if code_of(error) == "PreconditionFailed":  # an earlier try had arrived, and its answer had not
                return
            raise BucketUnavailable(code_of(error)) from error
        except BotoCoreError as error:
            raise BucketUnavailable(type(error).__name__) from error

    @property
    def _folder(self) -> str:
        return f"{self.prefix}{self.replica}/"


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown error"))
