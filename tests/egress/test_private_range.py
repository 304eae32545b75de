"""`private_range` of a place: read with file and line, and part of the bundle's revision."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.policy.load import compile_files
from gateway.policy.problems import PolicyInvalid
from gateway.policy.source.directory import read_directory
from tests.integration.bundle import bundle_with_keys, edit

REGION = "    region: eu-central-1\n"


def declared(folder: Path, text: str) -> Path:
    bundle = bundle_with_keys(folder / "bundle")
    edit(bundle / "places.yaml", REGION, f"{REGION}    private_range: {text}\n")
    return bundle


def test_networks_of_both_families_and_single_addresses_are_read(tmp_path: Path) -> None:
    files = read_directory(declared(tmp_path, '[10.20.0.0/16, "fd00::/8", 192.168.1.7]'))
    loaded = compile_files(files).bundle

    assert loaded.places["bedrock-frankfurt"].private_range == (
        ip_network("10.20.0.0/16"),
        ip_network("fd00::/8"),
        ip_network("192.168.1.7/32"),
    )
    assert loaded.places["bedrock-ireland"].private_range == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[10.20.0.1/16]", "`10.20.0.1/16` is not a network; write the first address and the length"),
        ("[10.20/16]", "`10.20/16` is not a network"),
        ("[vpc]", "`vpc` is not a network"),
        ("[]", "private_range"),
        ("10.0.0.0/8", "private_range"),
        ("", "`private_range` has no value"),
    ],
)
def test_what_is_no_network_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    bundle = declared(tmp_path, text)
    line = (bundle / "places.yaml").read_text().split("private_range")[0].count("\n") + 1

    with pytest.raises(PolicyInvalid) as refused:
        compile_files(read_directory(bundle))

    (problem,) = refused.value.problems
    assert (problem.file, problem.line) == ("places.yaml", line)
    assert said in problem.text()
