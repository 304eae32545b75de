"""A live bundle and candidates beside it, as directories and compiled."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from gateway.policy.bundle import Bundle
from gateway.policy.load import load_bundle
from tests.integration.bundle import bundle_with_keys, without_examples


@dataclass(frozen=True, slots=True)
class Bundles:
    """`live` is the default bundle with the tests' keys."""

    directory: Path
    live: Bundle


def live_bundle(directory: Path) -> Bundles:
    bundle_with_keys(directory)
    without_examples(directory)
    return Bundles(directory, load_bundle(directory))


def candidate(live: Path, directory: Path, *edits: tuple[str, str, str]) -> Path:
    """A copy with a higher serial, and with each `(file, before, after)`."""
    shutil.copytree(live, directory)
    bundle = directory / "bundle.yaml"
    text = bundle.read_text()
    serial = int(re.search(r"^serial: (\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
    bundle.write_text(text.replace(f"serial: {serial}", f"serial: {serial + 1}"))
    for file, before, after in edits:
        path = directory / file
        assert before in path.read_text(), (file, before)
        path.write_text(path.read_text().replace(before, after))
    return directory
