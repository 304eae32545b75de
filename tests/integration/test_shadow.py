"""A candidate that would send personal data abroad: no region that only it permits hears anything."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gateway.shadow.tally import read_tallies
from tests.integration.conftest import StartGateway
from tests.integration.gateway_process import until
from tests.integration.regions import Regions
from tests.integration.scripted_engine import ScriptedEngine
from tests.shadow.bundles import candidate, live_bundle

FORBIDDEN = ("us-east-1", "us-east-2")


def test_no_region_that_only_the_candidate_permits_receives_anything(
    scripted_settings: dict[str, Any], script: ScriptedEngine, regions: Regions, start: StartGateway,
    tmp_path: Path,
) -> None:  # fmt: skip
    live = live_bundle(tmp_path / "live").directory
    loose = ("residency/20-personal-data.yaml", "place_in: EEA", "place_in: [EEA, US]")
    looser = candidate(live, tmp_path / "looser", loose)
    shadow = tmp_path / "shadow"
    gateway = start({**scripted_settings, "policies": str(live), "shadow_policies": str(shadow),
                     "policy_poll_s": 0.1})  # fmt: skip
    shutil.copytree(looser, shadow)
    until(lambda: gateway.events("shadow_loaded"), "the candidate is loaded")

    said = [
        gateway.caller().ask(f"{number}", labels="personal", stream=bool(number % 2)) for number in range(6)
    ]

    assert [one.status for one in said] == [200] * 6
    assert regions.touched().isdisjoint(FORBIDDEN)
    assert gateway.stop() == 0
    (tally,) = read_tallies(gateway.state_dir / "shadow")
    assert (tally.judged, tally.failed) == (6, 0)
    assert tally.kinds == {"wider": 6}
    (group,) = tally.groups
    assert group.gained == ("infer at bedrock-ohio", "infer at bedrock-virginia")
