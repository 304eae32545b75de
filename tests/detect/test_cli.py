"""`douane policy detect`"""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from gateway.cli.policy import policy
from tests.policy.bundles import default_files, write

POLICIES = str(Path(__file__).parents[2] / "policies")
TEXT = "é mail ada@example.org about DE89370400440532013000"


def detect(*arguments: str, directory: str = POLICIES, text: str = TEXT) -> Result:
    return CliRunner().invoke(policy, ["detect", directory, *arguments], input=text)


def test_it_says_what_is_found_where_and_what_that_labels_but_not_the_thing_itself() -> None:
    said = detect("-", "--tenant", "demo")

    assert said.exit_code == 0
    assert said.output.splitlines() == [
        "7-22  email  personal",
        "29-51  iban  financial, personal",
        "labels: public, financial, personal",
    ]


def test_it_shows_the_thing_when_asked_and_no_control_characters() -> None:
    said = detect("-", "--tenant", "demo", "--show", text="-----BEGIN PRIVATE KEY-----\nAAAA\n")

    assert "private-key  confidential  -----BEGIN PRIVATE KEY-----\\nAAAA\\n" in said.output


def test_json_has_the_same(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text(TEXT)
    said = json.loads(detect(str(file), "--tenant", "demo", "--format", "json").output)

    assert (said["labels"], said["read"]) == (["public", "financial", "personal"], True)
    assert said["found"][0] == {"kind": "email", "labels": ["personal"], "start": 7, "end": 22}


def test_a_text_that_is_too_long_counts_as_holding_everything() -> None:
    said = detect("-", "--tenant", "demo", text="x" * (1 << 20) + "y")

    assert "counts as holding everything" in said.output
    assert "labels: confidential, financial, personal" in said.output


def test_a_bundle_without_detectors_says_so(tmp_path: Path) -> None:
    files = {name: text for name, text in default_files().items() if name != "detectors.yaml"}
    said = detect("-", "--tenant", "demo", directory=str(write(files, tmp_path / "bundle")))

    assert (said.exit_code, said.output) == (0, "this bundle has no detectors.yaml\n")


def test_what_cannot_be_answered_is_invalid_input(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe9")
    for arguments, problem in (
        (("-", "--tenant", "dem"), "`dem` is not a known tenant; did you mean `demo`?"),
        ((str(tmp_path / "none"), "--tenant", "demo"), "no such file or directory; name a file of text"),
        ((str(tmp_path / "latin"), "--tenant", "demo"), "not UTF-8; save the text as UTF-8"),
        (("-",), "Missing option '--tenant'"),
    ):
        said = detect(*arguments)
        assert said.exit_code == 3
        assert problem in said.output
