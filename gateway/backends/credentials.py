"""AWS credentials from botocore's session, kept off the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from gateway.backends.base import Misconfigured

# botocore itself renews temporary credentials 15 minutes before they end; looking again every minute
# keeps well inside that, and a call in between costs no thread.
LOOK_AGAIN_S: Final = 60.0
# A look-up that failed is not repeated by every request.
FAILURE_KEPT_S: Final = 5.0
NONE_FOUND: Final = "no aws credentials were found; give the gateway a role, a profile or `AWS_ACCESS_KEY_ID`"


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """What a signature is made with; botocore's own value of this kind shows all of it."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(repr=False)


class AwsCredentials:
    """The credentials of a botocore session (refreshable ones too), cached and read in a thread.

    `session` is a `botocore.session.Session` or anything with its `get_credentials`.
    """

    def __init__(self, session: Any, now_s: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._now_s = now_s
        self._keys: AwsKeys | None = None
        self._failure: str | None = None
        self._look_again_at_s = float("-inf")
        self._lock = asyncio.Lock()

    async def current(self) -> AwsKeys:
        """The credentials as they are now. Raises Misconfigured when there are none or renewing fails."""
        if self._now_s() >= self._look_again_at_s:
            async with self._lock:
                if self._now_s() >= self._look_again_at_s:
                    await self._look()
        if self._failure is not None:
            raise Misconfigured(self._failure)
        assert self._keys is not None
        return self._keys

    async def _look(self) -> None:
        # The failure is kept without its text: a credential provider's text may hold a path or an output.
        try:
            keys = await asyncio.to_thread(self._read)
        except (BotoCoreError, ClientError, OSError, RuntimeError) as error:
            self._failure = f"aws credentials cannot be read (`{type(error).__name__}`); check their source"
        else:
            self._keys = keys
            self._failure = NONE_FOUND if keys is None else None
        self._look_again_at_s = self._now_s() + (FAILURE_KEPT_S if self._failure else LOOK_AGAIN_S)

    def _read(self) -> AwsKeys | None:
        credentials = self._session.get_credentials()
        if credentials is None:
            return None
        keys = credentials.get_frozen_credentials()
        return AwsKeys(keys.access_key, keys.secret_key, keys.token)
