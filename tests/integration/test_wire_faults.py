"""Faults on a seeded schedule against real processes: rounds end by rule, nothing is lost or counted twice."""

import json
import os
from pathlib import Path

import pytest

from tests.integration.agent_rig import MOSQUITTO, make_capture
from tests.integration.wire_faults import ALL_FAULTS, Fleet, Plan

pytestmark = [
    pytest.mark.broker,
    pytest.mark.netns,
    pytest.mark.timeout(240),
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed; apt-get install mosquitto"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and mounts need root"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no /dev/net/tun for the emulated links"),
]


def test_a_fleet_survives_every_fault(tmp_path):
    learn, _ = make_capture(tmp_path)
    fleet = Fleet(tmp_path, Plan(rounds=9), learn)
    try:
        outcome = fleet.run()
    finally:
        fleet.close()
    assert outcome.violations == [], json.dumps(outcome.figures, indent=1)
    assert all(outcome.planted.values()), outcome.planted
    assert sorted(entry["fault"] for entry in outcome.applied) == sorted(ALL_FAULTS)
    assert outcome.figures["updates_stored"] >= 12
