"""The default bundle with keys that the tests hold, and edits of it."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

POLICIES = Path(__file__).parents[2] / "policies"

DEMO = "sk-demo-of-the-tests"  # tenant `demo`, Germany: public unless it says otherwise, no ceiling
HELPDESK = "sk-acme-helpdesk-of-the-tests"  # `acme-de`: always personal, never above confidential
REPORTING = "sk-acme-reporting-of-the-tests"  # `acme-de`, for analytics
GLOBEX = "sk-globex-main-of-the-tests"  # `globex-us`: gpt-oss-20b only
WARD = "sk-nhs-ward-of-the-tests"  # `nhs-gb`: always health and personal, the highest when nothing is said

KEYS = {"helpdesk": HELPDESK, "reporting": REPORTING, "main": GLOBEX, "ward": WARD}
DEMO_KEYS = {hashlib.sha256(DEMO.encode()).hexdigest(): "demo"}


def bundle_with_keys(directory: Path) -> Path:
    """A copy of the default bundle in which the tests' keys stand for those that nobody has."""
    shutil.copytree(POLICIES, directory)
    tenants = directory / "tenants.yaml"
    text = tenants.read_text()
    for key_id, key in KEYS.items():
        block = re.compile(rf"(- id: {key_id}\n(?:(?!\n +- id:)[\s\S])*?sha256: )[0-9a-f]{{64}}")
        text, count = block.subn(rf"\g<1>{hashlib.sha256(key.encode()).hexdigest()}", text)
        assert count == 1, key_id
    tenants.write_text(text)
    return directory


def without_examples(bundle: Path) -> None:
    """Leaves no claim, and one example that holds whatever the rules say of clouds and caches."""
    (bundle / "claims.yaml").unlink(missing_ok=True)
    for case in (bundle / "tests").iterdir():
        case.unlink()
    (bundle / "tests" / "one.yaml").write_text(
        "- name: the engine answers\n  request: {tenant: demo, model: gpt-oss-20b}\n"
        "  expect: {infer: {permitted: [local-engine]}}\n"
    )


def edit(file: Path, old: str, new: str) -> None:
    """Replaces the one passage `old` of a file, in place of the file: readers see the old or the new one."""
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has {text.count(old)} times {old!r}"
    draft = file.with_suffix(".draft")
    draft.write_text(text.replace(old, new))
    draft.replace(file)
