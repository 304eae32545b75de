"""`douane policy new-signing-key`, `public-key`, `sign`, `signatures`, and what the doctor says of them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli.doctor import doctor
from gateway.cli.policy import policy
from gateway.policy.serials import SerialFile
from gateway.policy.source.directory import Files, read_directory
from gateway.policy.trust import load_trust
from gateway.receipts.keys import create_key, load_signing_key
from tests.policy_signing.signing import ANN, BOB, EVE, NO_CLOUD, bundle, jwk, pem, signature, signed, write


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(policy, [str(argument) for argument in arguments], prog_name="douane policy")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return write(bundle(), tmp_path / "bundle")


@pytest.fixture
def keyed(tmp_path: Path) -> tuple[Path, Path]:
    """A key made by the command, and its public half."""
    path, public = tmp_path / "key.pem", tmp_path / "public.pem"
    assert run("new-signing-key", path).exit_code == 0
    public.write_text(run("public-key", path).output)
    return path, public


def test_a_new_key_is_for_its_owner_only_and_its_name_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "key.pem"
    made = run("new-signing-key", path)

    assert made.exit_code == 0
    assert made.output.strip() == load_signing_key(path).kid
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    run("new-signing-key", path)
    before = path.read_bytes()
    again = run("new-signing-key", path)

    assert again.exit_code == 3
    assert again.output == f"error: `{path}` exists already; a key is never overwritten, name another file\n"
    assert path.read_bytes() == before


def test_a_public_key_is_printed_in_both_forms_that_the_setting_takes(
    tmp_path: Path, keyed: tuple[Path, Path]
) -> None:
    path, public = keyed
    as_jwk = tmp_path / "public.json"
    as_jwk.write_text(run("public-key", path, "--format", "json").output)

    assert load_trust((public,), 1) == load_trust((as_jwk,), 1)
    assert "PRIVATE" not in public.read_text()


@pytest.mark.parametrize("command", [("public-key",), ("sign", "DIR", "--key")])
def test_what_is_no_signing_key_is_refused_in_words(
    tmp_path: Path, here: Path, command: tuple[str, ...]
) -> None:
    arguments = [str(here) if word == "DIR" else word for word in command]
    demo = tmp_path / "demo.pem"
    create_key(demo, demo=True)
    gone, wide = run(*arguments, tmp_path / "gone"), tmp_path / "wide.pem"
    create_key(wide)
    wide.chmod(0o644)

    assert gone.exit_code == 3
    assert "make one with `douane policy new-signing-key" in gone.output
    assert (run(*arguments, demo).exit_code, "is a demo key" in run(*arguments, demo).output) == (3, True)
    assert (run(*arguments, wide).exit_code, "has mode 0644" in run(*arguments, wide).output) == (3, True)
    assert not (here / "signatures").exists()


def test_what_was_signed_is_trusted_by_a_gateway_and_listed_as_good(
    here: Path, keyed: tuple[Path, Path]
) -> None:
    path, public = keyed
    revision, kid = read_directory(here).revision, load_signing_key(path).kid
    done = run("sign", here, "--key", path)

    assert done.exit_code == 0
    written = here / "signatures" / f"{kid}.jws"
    assert done.output == f"signed {revision} (serial 1) with `{kid}`: wrote {written}\n"
    assert [each.name for each in (here / "signatures").iterdir()] == [written.name]
    assert load_trust((public,), 1).require(read_directory(here), 1) == (kid,)

    listed = run("signatures", here, "--trusted", public)
    first, second, last = listed.output.splitlines()
    assert listed.exit_code == 0
    assert first == f"{revision} (serial 1)"
    assert second.startswith(f"good  signatures/{kid}.jws: signed by `{kid}` at 20")
    assert second.endswith(f" ({public})")
    assert last == "signed as it is by 1 of the trusted keys; 1 needed"


def test_signing_again_replaces_the_signature_and_a_name_makes_another_file(
    here: Path, keyed: tuple[Path, Path]
) -> None:
    path, public = keyed
    for _ in range(2):
        said = json.loads(run("sign", here, "--key", path, "--as", "security", "--format", "json").output)

    assert said["written"] == str(here / "signatures" / "security.jws")
    assert said["policy_revision"] == read_directory(here).revision
    assert {"signed": True, "serial": 1}.items() <= said.items()
    assert [each.name for each in (here / "signatures").iterdir()] == ["security.jws"]
    assert run("signatures", here, "--trusted", public).exit_code == 0


@pytest.mark.parametrize("name", ["../x", ".hidden", "", "a/b"])
def test_a_name_that_leads_elsewhere_is_refused(here: Path, keyed: tuple[Path, Path], name: str) -> None:
    done = run("sign", here, "--key", keyed[0], "--as", name)

    assert done.exit_code == 3
    assert "`--as` takes letters" in done.output


def test_a_bundle_that_would_not_load_is_not_signed(tmp_path: Path, keyed: tuple[Path, Path]) -> None:
    failing = write(bundle(more=NO_CLOUD), tmp_path / "failing")
    broken = write(bundle(more={"routes.yaml": b"{"}), tmp_path / "broken")

    done = run("sign", failing, "--key", keyed[0])
    assert done.exit_code == 1
    assert "not signed: the bundle does not load until these hold" in done.output
    as_json = run("sign", failing, "--key", keyed[0], "--format", "json")
    assert (as_json.exit_code, json.loads(as_json.output)["signed"]) == (1, False)
    assert run("sign", broken, "--key", keyed[0]).exit_code == 3
    assert not (failing / "signatures").exists()
    assert not (broken / "signatures").exists()


def test_every_signature_is_listed_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    files = bundle()
    signatures = {
        "signatures/1-ann.jws": signature(files, ANN),
        "signatures/2-old.jws": signature(bundle(2), BOB, 2),
        "signatures/3-serial.jws": signature(files, BOB, 9),
        "signatures/4-eve.jws": signature(files, EVE),
        "signatures/5-garbage.jws": b"\x1b[2Jgarbage",
        "signatures/6-altered.jws": signature(files, ANN)[:-3] + b"A\n",
    }
    directory = write(Files(files.content, signatures), tmp_path / "bundle")
    trusted = ("--trusted", pem(ANN, tmp_path / "ann.pem"), "--trusted", jwk(BOB, tmp_path / "bob.json"))
    text, as_json = (
        run("signatures", directory, *trusted),
        run("signatures", directory, *trusted, "--needed", "2", "--format", "json"),
    )

    assert text.exit_code == 0
    assert [line[:4].strip() for line in text.output.splitlines()[1:-1]] == ["good", *["BAD"] * 5]
    assert "\x1b" not in text.output
    assert as_json.exit_code == 1
    said = json.loads(as_json.output)
    assert (said["good"], said["signed_by"], said["needed"]) == (False, [ANN.kid], 2)
    assert [(one["standing"], one["good"]) for one in said["signatures"]][:5] == [
        ("good", True),
        ("other_bundle", False),
        ("other_serial", False),
        ("foreign_key", False),
        ("malformed", False),
    ]
    assert said["signatures"][1]["serial"] == 2
    assert said["signatures"][1]["key_file"] == str(tmp_path / "bob.json")
    assert not said["signatures"][5]["good"]


def test_nobody_having_signed_ends_with_1_and_nobody_being_trusted_with_3(tmp_path: Path, here: Path) -> None:
    unsigned = run("signatures", here, "--trusted", pem(ANN, tmp_path / "ann.pem"))
    assert unsigned.exit_code == 1
    assert (
        "nobody has signed this bundle; sign it with `douane policy sign DIR --key PATH`" in unsigned.output
    )

    write(signed(bundle(), ANN), here)
    untold = run("signatures", here)
    assert untold.exit_code == 3
    assert untold.output.splitlines()[1].startswith("?  ")
    assert "nothing was checked: no key is trusted" in untold.output


@pytest.mark.parametrize(
    "arguments",
    [("signatures",), ("signatures", "gone"), ("sign", "DIR"), ("signatures", "DIR", "--trusted", "gone"),
     ("signatures", "DIR", "--needed", "0"), ("public-key",), ("new-signing-key",)],
    ids=" ".join,
)  # fmt: skip
def test_input_that_cannot_be_used_ends_with_3(here: Path, arguments: tuple[str, ...]) -> None:
    assert run(*(str(here) if word == "DIR" else word for word in arguments)).exit_code == 3


def test_a_signed_bundle_is_checked_compared_and_linted_as_before(tmp_path: Path, here: Path) -> None:
    write(signed(bundle(), ANN), here)
    plain = write(bundle(), tmp_path / "plain")

    checked = run("check", here)
    assert checked.exit_code == 0
    assert "signatures: 1, not checked here; see `douane policy signatures`" in checked.output.splitlines()
    assert run("diff", plain, here).exit_code == 0
    assert "nothing is newly allowed, nothing newly denied" in run("diff", plain, here).output


@pytest.fixture
def examined(tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the doctor finds of policies, under settings that trust Ann."""
    settings = {
        "state_dir": str(tmp_path),
        "policies": str(here),
        "policy_trusted_keys": [str(pem(ANN, tmp_path / "ann.pem"))],
    }
    (tmp_path / "douane.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("DOUANE_CONFIG", str(tmp_path / "douane.yaml"))

    def examine() -> dict[str, tuple[str, str, str]]:
        found = json.loads(CliRunner().invoke(doctor, ["--format", "json"]).output)["findings"]
        return {
            one["check"]: (one["status"], one["seen"], one["fix"])
            for one in found
            if one["check"].startswith("policy ")
        }

    return examine


def test_the_doctor_says_that_a_signature_is_missing_and_how_to_sign(here: Path, examined: Any) -> None:
    assert examined()["policy signatures"] == (
        "fail",
        "the bundle is not signed, and only signed ones are loaded here",
        "sign it with `douane policy sign DIR --key PATH`",
    )
    write(signed(bundle(), ANN), here)
    assert examined() == {
        "policy signatures": ("ok", "signed as it is by 1 of 1 trusted keys (1 needed)", ""),
        "policy serial": ("ok", "1: no newer bundle was in force here", ""),
    }


def test_the_doctor_says_that_a_newer_bundle_was_in_force(tmp_path: Path, examined: Any) -> None:
    SerialFile(tmp_path).advance("sha256:newer", 9)

    status, seen, fix = examined()["policy serial"]
    assert (status, "the serial 1 is lower than 9" in seen) == ("fail", True)
    assert "give the bundle a serial above 9 and sign it" in fix
