"""Loading a bundle to be in force: everything that a load checks, and who vouches for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.policy.bundle import Bundle
from gateway.policy.load import Prove, load_files
from gateway.policy.serials import Serials
from gateway.policy.source.directory import Files
from gateway.policy.trust import Trust


@dataclass(frozen=True, slots=True)
class Live:
    """A bundle that may come into force, the files that it was compiled from, and the trusted keys that
    signed it."""

    bundle: Bundle
    files: Files
    signed_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Admission:
    """What a bundle must pass before it comes into force here."""

    trust: Trust
    serials: Serials
    find_broken: Prove
    require_usable: Callable[[Bundle], Bundle]

    def admit(self, files: Files) -> Live:
        """The bundle in these files, with every check passed; raises one of REFUSALS.

        The signatures come first: what nobody vouches for is not even parsed. INVARIANT: the bytes whose hash
        was signed are those that are compiled; nothing is read a second time.
        """
        self.trust.require(files)
        bundle = load_files(files, self.find_broken).bundle
        signed_by = self.trust.require(files, bundle.serial)
        self.serials.check(bundle.revision, bundle.serial)
        return Live(self.require_usable(bundle), files, signed_by)
