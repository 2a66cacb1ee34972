"""From the bytes of a golden capture to decisions, with both engines."""

import json

import pytest

from contract.model import DEFAULT_SPEC
from device_agent.inference.select import load_engine
from tests.golden.regenerate import BASELINES, SCENARIOS
from tests.golden.regenerate_decisions import decisions_text, theta


@pytest.mark.parametrize("prefer", ["numpy", "auto"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_capture_to_decisions(scenario, prefer):
    want = (BASELINES / f"{scenario}.decisions.jsonl").read_text().splitlines()
    got = decisions_text(scenario, load_engine(DEFAULT_SPEC, prefer).engine, theta()).splitlines()
    assert len(got) == len(want) > 0
    for got_line, want_line in zip(got, want, strict=True):
        got_row, want_row = json.loads(got_line), json.loads(want_line)
        assert got_row.pop("score") == pytest.approx(want_row.pop("score"), abs=1e-4)
        assert got_row == want_row


def test_the_scan_is_what_raises_alerts():
    """The baselines hold both kinds of decision, so that either going wrong is seen."""
    classes = {
        scenario: {
            json.loads(line)["class"] for line in (BASELINES / f"{scenario}.decisions.jsonl").read_text().splitlines()
        }
        for scenario in SCENARIOS
    }
    assert "scan" in classes["syn_scan"]
    assert all("scan" not in found for scenario, found in classes.items() if scenario != "syn_scan")
