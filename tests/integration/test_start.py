"""What must be right before the gateway starts, and what its operator reads when it is not: exit status 3."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.demo.stack import DEMO_MODEL, prepare_state
from tests.integration.bundle import bundle_with_keys, edit
from tests.integration.gateway_process import ROOT

NO_COPIES = """
- id: no-copies
  basis: a promise that the rules do not keep
  never: [cache]
"""

REAL: dict[str, str] = {"DOUANE_BEDROCK": "aws", "DOUANE_PORT": "0"}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    prepare_state(tmp_path / "state")
    return tmp_path / "state"


def refused(environ: Mapping[str, str], *arguments: str) -> str:
    """Runs `douane serve`, which must end by itself with exit status 3; what it printed."""
    command = [sys.executable, "-m", "gateway.cli.main", "serve", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 3, printed
    assert "Traceback" not in printed
    assert all(line.startswith("douane: ") for line in printed.splitlines()), printed
    return printed


@pytest.mark.parametrize(
    ("variable", "demo"),
    [
        ("AWS_ENDPOINT_URL", False),
        ("AWS_ENDPOINT_URL", True),
        ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", False),
        ("HTTPS_PROXY", True),
        ("https_proxy", False),
    ],
)
def test_a_variable_that_could_redirect_requests_stops_the_start(
    variable: str, demo: bool, state: Path
) -> None:
    value = "http://user:password-in-it@elsewhere.example:3128"
    environ = {variable: value, "DOUANE_STATE_DIR": str(state), **({} if demo else REAL)}
    printed = refused(environ, *(["--demo"] if demo else []))

    assert f"`{variable}` is set" in printed
    assert "unset it" in printed
    assert "elsewhere" not in printed


def test_an_endpoint_in_the_aws_profile_stops_the_start(tmp_path: Path, state: Path) -> None:
    config = tmp_path / "aws-config"
    config.write_text(
        "[profile work]\nregion = eu-central-1\nservices = local\n"
        "[services local]\nbedrock_runtime =\n  endpoint_url = http://elsewhere.example/\n"
    )
    environ = {
        **REAL,
        "AWS_CONFIG_FILE": str(config),
        "AWS_PROFILE": "work",
        "DOUANE_STATE_DIR": str(state),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }
    printed = refused(environ)

    assert "aws profile `work`" in printed
    assert "`endpoint_url`" in printed
    assert "elsewhere" not in printed


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"DOUANE_BEDROCK": "emulator"}, "DOUANE_BEDROCK=aws"),
        ({"DOUANE_DEMO_KEY": "sk-demo"}, "DOUANE_DEMO_KEY"),
        ({"DOUANE_HOST": "0.0.0.0"}, "DOUANE_BEHIND_PROXY=true"),
        ({"DOUANE_PROT": "8080"}, "did you mean `DOUANE_PORT`?"),
        ({"DOUANE_POLICIES": "nowhere"}, "nowhere"),
        ({"DOUANE_REDIS_URL": "http://x"}, "redis://"),
    ],
)
def test_a_setting_that_cannot_be_meant_stops_the_start(
    environ: dict[str, str], named: str, state: Path
) -> None:
    assert named in refused({"DOUANE_STATE_DIR": str(state), "DOUANE_PORT": "0", **environ})


def test_a_gateway_without_its_keys_does_not_start(tmp_path: Path) -> None:
    printed = refused({"DOUANE_STATE_DIR": str(tmp_path / "empty"), "DOUANE_PORT": "0"})

    assert "there is no master key" in printed


@pytest.mark.parametrize(
    ("file", "old", "new", "where", "said", "demo"),
    [
        ("routes.yaml", "attempts_max: 3", "atempts_max: 3", ":17:5:", "did you mean `attempts_max`?", False),
        ("routes.yaml", "attempts_max: 3", "atempts_max: 3", ":17:5:", "did you mean `attempts_max`?", True),
        ("places.yaml", "region: eu-west-1", "region: eu-west-9", r":\d+", "`eu-west-9`", False),
        (
            "tenants.yaml",
            "purpose: customer-support",
            "purpose: customer-suport",
            r":\d+",
            "customer-support",
            False,
        ),
        ("zones.yaml", "unions:", "unions: [", r":\d+", "YAML", False),
        (
            "tests/eea.yaml",
            "bedrock-london: work-of-eea-tenants-stays-in-the-eea",
            "bedrock-london: our-premises-serve-every-tenant",
            r":\d+",
            "`bedrock-london`",
            True,
        ),
    ],
)
def test_a_broken_bundle_stops_the_start_and_is_told_by_file_and_line(
    tmp_path: Path, state: Path, file: str, old: str, new: str, where: str, said: str, demo: bool
) -> None:
    bundle = bundle_with_keys(tmp_path / "bundle")
    edit(bundle / file, old, new)
    if demo:
        (state / DEMO_MODEL).mkdir()
        (state / DEMO_MODEL / "config.json").write_text("{}")  # as if one had been written before

    environ = {"DOUANE_STATE_DIR": str(state), "DOUANE_POLICIES": str(bundle), "DOUANE_PORT": "0"}
    printed = refused(environ, *(["--demo"] if demo else []))

    assert re.search(f"{file}{where}", printed)
    assert said in printed


def test_a_claim_that_does_not_hold_is_said_with_the_request_that_breaks_it(
    tmp_path: Path, state: Path
) -> None:
    bundle = bundle_with_keys(tmp_path / "bundle")
    with (bundle / "claims.yaml").open("a") as claims:
        claims.write(NO_COPIES)
    line = (bundle / "claims.yaml").read_text().split("- id: no-copies")[0].count("\n") + 1

    printed = refused({"DOUANE_STATE_DIR": str(state), "DOUANE_POLICIES": str(bundle), "DOUANE_PORT": "0"})

    assert printed == (
        f"douane: claims.yaml:{line}: the claim `no-copies` does not hold for tenant `acme-de` in `DE`, "
        "labels `public`, purpose `analytics`, model `gpt-oss-120b`, coming in at `gateway`: `cache` at "
        "`store-memory` is permitted by `our-premises-serve-every-tenant` (residency/90-permits.yaml:5); "
        "correct the rule, or the claim if it promises too much\n"
    )


def test_a_port_that_is_taken_is_said_in_one_line(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        printed = refused({"DOUANE_STATE_DIR": str(state), "DOUANE_PORT": str(taken.getsockname()[1])})

    assert "address already in use; set DOUANE_PORT" in printed
