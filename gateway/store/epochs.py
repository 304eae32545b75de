"""What this machine remembers of a store's epochs, so that an emptied store is not taken for a new one.

One small JSON file, shared by the workers of a machine: for each store and tenant the epoch seen last, and
who still owes it labels. Without a state directory nothing survives the process, and no epoch is ever
taken for the first one: strict, and needing no disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FILE = "epochs.json"
NEVER: Final = ""  # this machine has never seen an epoch of this tenant
NO_MEMORY: Final = "-"  # this machine could not know

LOG = logging.getLogger("gateway.store")


class StateUnreadable(ValueError):
    """The state directory cannot be used; the text says how to fix it."""


class StoreState(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: dict[str, str] = Field(default_factory=dict)  # tenant -> epoch
    owed: dict[str, list[str]] = Field(default_factory=dict)  # tenant -> workers that owe it labels


class State(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = Field(default=1, ge=1, le=1)
    stores: dict[str, StoreState] = Field(default_factory=dict)


class EpochMemory:
    """The epochs of one store. Reads are from memory; writes go to the file in the background.

    `due` names tenants to which a worker that is gone owed labels: what it knew is lost, so their epochs
    must be renewed before the store is believed again.
    """

    def __init__(self, directory: Path | None, store_id: str, state: StoreState) -> None:
        self._directory = directory
        self._store_id = store_id
        self._epochs = dict(state.epochs)
        self._due = {tenant: frozenset(workers) for tenant, workers in state.owed.items() if workers}
        self._cleared: set[tuple[str, str]] = set()  # (tenant, worker) whose debts are paid
        self._owing: set[str] = set()
        self._worker = secrets.token_hex(8)
        self._dirty = False
        self._saving: asyncio.Task[None] | None = None

    @classmethod
    def open(cls, directory: Path | None, store_id: str) -> EpochMemory:
        """`store_id` names the store without its credentials. Raises `StateUnreadable`."""
        if directory is None:
            return cls(None, store_id, StoreState())
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with locked(directory):
                state = read_state(directory / FILE)
                write_state(directory / FILE, state)  # now, rather than at the first loss
        except OSError as error:
            raise StateUnreadable(
                f"the state directory `{directory}` cannot be used ({error.strerror}); make it writable"
            ) from None
        return cls(directory, store_id, state.stores.get(store_id, StoreState()))

    def remembered(self, tenant: str) -> str:
        """The epoch seen last, `NEVER`, or `NO_MEMORY`."""
        return self._epochs.get(tenant, NO_MEMORY if self._directory is None else NEVER)

    def learn(self, tenant: str, epoch: str) -> None:
        """Cheap when nothing is new. Must be called on the event loop."""
        if self._epochs.get(tenant) != epoch:
            self._epochs[tenant] = epoch
            self._save_soon()

    @property
    def due(self) -> frozenset[str]:
        return frozenset(self._due)

    def owe(self, tenant: str) -> None:
        """This worker holds labels of `tenant` that the store lacks."""
        if tenant not in self._owing:
            self._owing.add(tenant)
            self._save_soon()

    def paid(self, tenants: Iterable[str]) -> None:
        """The store has the labels that were owed to these tenants, or a renewed epoch in their stead."""
        for tenant in tenants:
            self._owing.discard(tenant)
            self._cleared |= {(tenant, worker) for worker in self._due.pop(tenant, frozenset())}
        self._save_soon()

    async def aclose(self) -> None:
        """Returns once the file holds everything that was learnt."""
        while self._saving is not None:
            await asyncio.wait([self._saving])

    def _save_soon(self) -> None:
        self._dirty = self._directory is not None
        if self._dirty and self._saving is None:
            self._saving = asyncio.get_running_loop().create_task(self._save())

    async def _save(self) -> None:
        """One writer at a time; what changes meanwhile is written next."""
        try:
            while self._dirty:
                self._dirty = False
                await asyncio.to_thread(self._merge, dict(self._epochs), set(self._owing), set(self._cleared))
        except OSError as error:
            # The process still remembers; only after a restart could a lost store pass for a new one.
            LOG.error("cannot write the store's epochs to `%s`: %s", self._directory, error.strerror)
        finally:
            self._saving = None

    def _merge(self, epochs: dict[str, str], owing: set[str], cleared: set[tuple[str, str]]) -> None:
        assert self._directory is not None
        with locked(self._directory):
            state = read_state(self._directory / FILE)
            before = state.stores.get(self._store_id, StoreState())
            owed = {tenant: set(workers) - {self._worker} for tenant, workers in before.owed.items()}
            for tenant, worker in cleared:
                owed.get(tenant, set()).discard(worker)
            for tenant in owing:
                owed.setdefault(tenant, set()).add(self._worker)
            after = StoreState(
                epochs={**before.epochs, **epochs},
                owed={tenant: sorted(workers) for tenant, workers in owed.items() if workers},
            )
            write_state(self._directory / FILE, State(stores={**state.stores, self._store_id: after}))


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps the machine's other workers out while the file is read and written again."""
    descriptor = os.open(directory / f"{FILE}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_state(path: Path) -> State:
    """The file's content, empty when there is none yet. Raises `StateUnreadable` when it is damaged."""
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return State()
    except ValidationError:
        raise StateUnreadable(
            f"`{path}` is damaged, so an emptied store could be taken for a new one; restore it, or delete "
            f"it and run `douane store accept-epoch` once you know that no labels were lost"
        ) from None


def write_state(path: Path, state: State) -> None:
    """Replaces the file in one step: after a crash either the old or the new content is there."""
    draft = path.with_suffix(".draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(state.model_dump_json().encode())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
