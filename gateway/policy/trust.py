"""Whose signatures count, and how many of them a bundle needs before it comes into force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gateway.policy.problems import PolicyUntrusted, Problem
from gateway.policy.signatures import Judged, Standing, judge
from gateway.policy.source.directory import SIGNATURES, Files
from gateway.receipts.jwk import PublicKey
from gateway.receipts.keys import KeyUse, SigningKeyInvalid
from gateway.receipts.pinned import load_pinned

POLICY_KEYS: Final = KeyUse("policies", "douane policy new-signing-key", "douane policy public-key")
SIGN: Final = "sign it with `douane policy sign DIR --key PATH`"


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that are believed, by thumbprint, and how many different ones must have signed.

    Without keys nothing is asked: `NO_TRUST`.
    """

    keys: Mapping[str, PublicKey]
    needed: int

    def judged(self, files: Files, serial: int | None = None) -> tuple[Judged, ...]:
        """Each signature that lies beside these files, by file name."""
        revision = files.revision
        return tuple(
            judge(name, files.signatures[name], self.keys, revision, serial)
            for name in sorted(files.signatures)
        )

    def require(self, files: Files, serial: int | None = None) -> tuple[str, ...]:
        """The trusted keys that signed these very files (with this serial, where it is known), sorted.

        A key counts once, under however many file names it signed. A signature that does not count, of a key
        that other gateways trust, say, harms nothing beside those that do. Raises PolicyUntrusted.
        """
        if not self.keys:
            return ()
        found = self.judged(files, serial)
        signers = signers_of(found)
        if len(signers) >= self.needed:
            return signers
        raise refusal(found, signers, self.needed)


NO_TRUST: Final = Trust(MappingProxyType({}), 0)


def signers_of(found: Iterable[Judged]) -> tuple[str, ...]:
    """The different keys whose signatures are good, sorted."""
    return tuple(sorted({one.kid for one in found if one.good and one.kid is not None}))


def refusal(found: tuple[Judged, ...], signers: tuple[str, ...], needed: int) -> PolicyUntrusted:
    """Why these signatures are too few: one problem for the bundle, and one for each that does not count."""
    where = f"{SIGNATURES}/"
    if not found:
        message = "the bundle is not signed, and only signed ones are loaded here"
        return PolicyUntrusted("unsigned", [Problem(where, 0, None, message, SIGN)])
    if signers:
        message = f"the bundle is signed by {len(signers)} trusted key of {needed} needed: {quoted(signers)}"
        if len(signers) > 1:
            message = message.replace("trusted key of", "trusted keys of")
        reason, hint = "too_few_signatures", f"another holder of a trusted key must {SIGN}"
    else:
        message = "no trusted key has signed the bundle as it is"
        reason, hint = "signature", f"if it is as it should be, {SIGN}"
    problems = [Problem(where, 0, None, message, hint)]
    problems += [
        Problem(one.file, 0, None, f"this signature does not count: {one.said}", HINTS[one.standing])
        for one in found
        if not one.good
    ]
    return PolicyUntrusted(reason, problems)


HINTS: Final[Mapping[Standing, str]] = {
    Standing.MALFORMED: "remove it, or sign again",
    Standing.FOREIGN_KEY: "have a trusted key sign, or name this one under `policy_trusted_keys`",
    Standing.ALTERED: "sign again",
    Standing.OTHER_BUNDLE: "bring back the files that were signed, or sign these",
    Standing.OTHER_SERIAL: "sign again",
}


def load_keys(paths: Iterable[Path]) -> Mapping[str, tuple[PublicKey, Path]]:
    """The public keys in these files (PEM, JWK or JWK set) by thumbprint, each with the first file that has
    it. Raises SigningKeyInvalid, also for a demo key."""
    found: dict[str, tuple[PublicKey, Path]] = {}
    for path in paths:
        for thumbprint, key in load_pinned(path, POLICY_KEYS).items():
            if key.demo:
                raise SigningKeyInvalid(
                    f"`{path}` has a demo key, which anybody may hold; "
                    f"make a key with `{POLICY_KEYS.new} PATH`"
                )
            found.setdefault(thumbprint, (key, path))
    return MappingProxyType(found)


def load_trust(paths: tuple[Path, ...], needed: int) -> Trust:
    """What the settings ask for. Raises SigningKeyInvalid; ValueError when more signatures are needed than
    there are keys."""
    if not paths:
        return NO_TRUST
    keys = {thumbprint: key for thumbprint, (key, _) in load_keys(paths).items()}
    if needed > len(keys):
        raise ValueError(
            f"{needed} signatures of different keys are needed and {len(keys)} "
            f"{'key is' if len(keys) == 1 else 'keys are'} trusted, so that no bundle could ever load; "
            "trust more keys, or need fewer signatures"
        )
    return Trust(MappingProxyType(keys), needed)


def quoted(kids: Iterable[str]) -> str:
    return ", ".join(f"`{kid}`" for kid in kids)
