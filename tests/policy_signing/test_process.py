"""The same over a real process: signals, restarts, and what the command prints when it does not start."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.gateway_process import records_in, running_gateway, until
from tests.policy_signing.signing import ANN, light, pem, signed, write


def test_a_running_gateway_keeps_the_last_good_and_a_restart_with_an_older_one_does_not_start(
    tmp_path: Path,
) -> None:
    policies = write(signed(light(5), ANN, serial=5), tmp_path / "policies")
    settings = {
        "policies": str(policies),
        "policy_poll_s": 3600,
        "bedrock": "off",
        "policy_trusted_keys": [str(pem(ANN, tmp_path / "ann.pem"))],
    }
    with running_gateway(tmp_path / "gateway", settings) as running:
        (policies / "zones.yaml").write_bytes((policies / "zones.yaml").read_bytes() + b"\n")
        running.signal(signal.SIGHUP)
        until(lambda: running.records("policy_refused"), "the altered bundle is refused")
        (logged,) = running.events("policy_refused")
        assert logged["reason"] == "signature"
        assert "signed another content" in logged["problems"]
        assert running.metric("douane_policy_loads_total", outcome="refused") == 1
        assert running.metric("douane_policy_serial") == 5

        write(signed(light(6), ANN, serial=6), policies)
        running.signal(signal.SIGHUP)
        until(lambda: len(running.records("policy_loaded")) == 2, "the signed bundle is recorded")
        assert running.metric("douane_policy_serial") == 6
        state = running.state_dir
    refused, loaded = [record for record in records_in(state) if record["kind"].startswith("policy_")][1:]
    assert (refused["reason"], refused["kept"]) == ("signature", light(5).revision)
    assert (loaded["signed_by"], loaded["previous"]) == ([ANN.kid], light(5).revision)

    write(signed(light(5), ANN, serial=5), policies)
    with pytest.raises(RuntimeError) as raised, running_gateway(tmp_path / "gateway", settings):
        raise AssertionError("it started")
    printed = str(raised.value)
    assert "douane: bundle.yaml: the serial 5 is lower than 6, which was in force here" in printed
    assert "Traceback" not in printed
    last = [record for record in records_in(state) if record["kind"].startswith("policy_")][-1]
    assert (last["kind"], last["reason"], last["kept"]) == ("policy_refused", "serial", None)
