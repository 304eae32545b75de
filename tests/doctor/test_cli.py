"""`douane doctor`: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli.doctor import doctor
from gateway.doctor.permissions import ACTIONS
from gateway.keys.opening import MASTER_KEY
from gateway.keys.wrapping import MasterKey
from gateway.opening import RECEIPT_KEY
from gateway.receipts.keys import create_key
from gateway.testing.bedrock.control_plane import Account
from gateway.testing.bedrock.server import running_emulator
from tests.policy.bundles import POLICIES, edited, write


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, list(arguments), prog_name="douane doctor", env={"COLUMNS": "200"})


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `douane.yaml` holds; `configure` writes it."""
    MasterKey.create(tmp_path / MASTER_KEY)
    create_key(tmp_path / RECEIPT_KEY)
    monkeypatch.setenv("DOUANE_CONFIG", str(tmp_path / "douane.yaml"))
    return {"state_dir": str(tmp_path), "policies": str(POLICIES)}


def configure(settings: dict[str, Any], **more: Any) -> None:
    file = Path(settings["state_dir"]) / "douane.yaml"
    file.write_text(yaml.safe_dump({**settings, **more}))


def test_a_machine_that_is_well_ends_with_0(settings: dict[str, Any]) -> None:
    configure(settings)
    text, everything, as_json = run(), run("--all"), run("--format", "json")

    assert text.exit_code == everything.exit_code == as_json.exit_code == 0
    assert "all else" in text.output
    assert "bundle, master key, tenants' keys, receipt key, audit directory, store, bedrock" in text.output
    assert "all else" not in everything.output
    assert everything.output.count("│ ok │") == 7
    assert text.output.splitlines()[-1] == "7 ok, 0 warn, 0 fail, 0 unknown"
    said = json.loads(as_json.output)
    assert (said["healthy"], said["emulated"]) == (True, False)
    assert said["summary"] == {"ok": 7, "warn": 0, "fail": 0, "unknown": 0}
    assert said["findings"][1] == {
        "check": "master key",
        "region": None,
        "status": "ok",
        "seen": f"`{settings['state_dir']}/master.key`, for its owner only",
        "fix": "",
        "emulated": False,
    }


def test_a_failure_ends_with_1_and_says_what_to_do(settings: dict[str, Any]) -> None:
    configure(settings)
    (Path(settings["state_dir"]) / MASTER_KEY).unlink()

    done = run()

    assert done.exit_code == 1
    assert "there is no master key" in done.output
    assert "douane init" in done.output


async def test_what_is_emulated_is_labelled_and_cannot_be_healthy(settings: dict[str, Any]) -> None:
    async with running_emulator("eu-central-1") as running:
        running.emulator.control_plane.account = Account(data_retention="provider_data_share")
        configure(settings, bedrock="emulator", emulator_urls={"eu-central-1": running.url})
        text = await asyncio.to_thread(run)
        as_json = await asyncio.to_thread(run, "--format", "json")

    said = json.loads(as_json.output)
    assert (text.exit_code, as_json.exit_code) == (1, 1)
    assert (said["healthy"], said["emulated"]) == (False, True)
    assert {each["emulated"] for each in said["findings"] if each["region"]} == {True}
    assert "eu-central-1 (emulated)" in text.output
    assert text.output.splitlines()[-1] == (
        "Bedrock was emulated: what is marked so says nothing about an AWS account"
    )
    (retention,) = [
        each
        for each in said["findings"]
        if (each["region"], each["check"]) == ("eu-central-1", "data retention")
    ]
    assert (retention["status"], retention["seen"]) == (
        "fail",
        "`provider_data_share`: content may be given to the model's maker",
    )
    # Regions without an emulator, and services that it does not have, are not taken for good.
    missing = [each for each in said["findings"] if each["seen"].startswith("no emulator of `")]
    assert {each["status"] for each in missing} == {"unknown"}
    assert {each["region"] for each in missing} >= {"eu-central-1", "us-east-1"}


def test_without_credentials_no_region_is_asked(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configure(settings, bedrock="aws")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    said = json.loads(run("--format", "json").output)

    assert said["findings"][-1] == {
        "check": "credentials",
        "region": None,
        "status": "fail",
        "seen": "none for AWS: no region was asked",
        "fix": "give this machine a role, a profile (`aws_profile`) or keys",
        "emulated": False,
    }
    assert {each["region"] for each in said["findings"]} == {None}


@pytest.mark.parametrize(
    ("variable", "named"),
    [
        ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL"),
        ("HTTPS_PROXY", "HTTPS_PROXY"),
        ("DOUANE_POTR", "DOUANE_PORT"),
    ],
)
def test_what_serve_refuses_the_doctor_refuses_too(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, variable: str, named: str
) -> None:
    configure(settings, bedrock="aws")
    monkeypatch.setenv(variable, "http://evil.example")

    done = run()

    assert done.exit_code == 3
    assert named in done.output
    assert "evil" not in done.output


def test_a_bundle_that_does_not_load_is_invalid_input(settings: dict[str, Any], tmp_path: Path) -> None:
    broken = write(edited("places.yaml", "kind: engine", "kind: engin"), tmp_path / "broken")
    configure({**settings, "policies": str(broken)})

    done = run()

    assert done.exit_code == 3
    assert "places.yaml:" in done.output


def test_a_bundle_without_the_places_of_the_settings_is_invalid_input(settings: dict[str, Any]) -> None:
    configure(settings, gateway_place="nowhere")

    done = run()

    assert done.exit_code == 3
    assert "`nowhere`" in done.output


def test_the_policy_that_it_needs_is_printed_for_the_regions_of_the_bundle(settings: dict[str, Any]) -> None:
    configure(settings)

    (statement,) = json.loads(run("--iam-policy").output)["Statement"]

    assert statement["Action"] == sorted(ACTIONS.values())
    assert statement["Condition"] == {
        "StringEquals": {
            "aws:RequestedRegion": [
                "eu-central-1",
                "eu-north-1",
                "eu-south-1",
                "eu-west-1",
                "eu-west-2",
                "us-east-1",
                "us-east-2",
            ]
        }
    }


@pytest.mark.parametrize("option", ["--endpoint", "--endpoint-url", "--emulator"])
def test_no_option_points_it_elsewhere(option: str) -> None:
    assert run(option, "http://127.0.0.1:1").exit_code == 2
