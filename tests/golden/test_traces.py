"""Golden captures: their scripts still give the same bytes, and the meter still gives the same flows."""

import json

import pytest

from tests.golden.regenerate import BASELINES, SCENARIOS, TRACES, baseline_text, capture_bytes


def test_every_scenario_is_here():
    assert SCENARIOS == ["dns_udp", "fragments_ipv6_vlan", "mqtt_session", "syn_scan", "tcp_http"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_script_gives_the_stored_capture(scenario):
    assert capture_bytes(scenario) == (TRACES / f"{scenario}.pcap").read_bytes()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_meter_gives_the_stored_flows(scenario):
    want = (BASELINES / f"{scenario}.flows.jsonl").read_text().splitlines()
    got = baseline_text(scenario).splitlines()
    assert len(got) == len(want)
    assert json.loads(got.pop()) == json.loads(want.pop()), "the counters"
    for got_line, want_line in zip(got, want, strict=True):
        got_row, want_row = json.loads(got_line), json.loads(want_line)
        assert list(got_row) == list(want_row)
        for name, value in want_row.items():
            assert got_row[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name
