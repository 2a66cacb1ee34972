"""Suppression and the EVE form."""

import json
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.features import INDEX, N_FEATURES
from contract.model import ModelId
from contract.taxonomy import CLASS_INDEX, CLASSES
from device_agent.detection.alerts import Finding, Judge, build_alert, eve_time
from device_agent.detection.calibration import Calibration
from device_agent.detection.detector import ANOMALY
from device_agent.detection.suppression import Admitted, Summary, Suppressor
from device_agent.flows.records import IDENTITY, FlowBatch, address_bytes

S = 1_000_000
A, B = address_bytes("10.0.0.1"), address_bytes("10.0.0.2")


def flow(src="10.0.0.5", dst="192.0.2.9", version=4, proto=6):
    identity = np.zeros(2, dtype=IDENTITY)
    identity["flow_id"] = [1, 2**63 - 1]
    identity["ts_start_us"], identity["ts_end_us"] = 1_700_000_000_000_001, 1_700_000_002_500_000
    identity["src_ip"] = np.frombuffer(address_bytes(src), np.uint8)
    identity["dst_ip"] = np.frombuffer(address_bytes(dst), np.uint8)
    identity["ip_version"], identity["src_port"], identity["dst_port"], identity["proto"] = version, 40_000, 22, proto
    features = np.zeros((2, N_FEATURES))
    for name, value in (("fwd_pkts", 3), ("bwd_pkts", 2), ("fwd_bytes", 180), ("bwd_bytes", 120)):
        features[1, INDEX[name]] = value
    return FlowBatch(identity, features)


JUDGE = Judge(
    "cam-1",
    ModelId(role="expert", family_id="family-2", digest="b" * 64),
    Calibration(0.8, 1.0, 100, 100.0, 1.0),
)


def test_an_alert_in_the_form_other_tools_read():
    finding = Finding(0.97, "bruteforce", ("fwd_pkts", "duration_s"), repeats=4)
    line = json.loads(build_alert(flow(), 1, finding, JUDGE).model_dump_json())
    assert line == {
        "timestamp": "2023-11-14T22:13:22.500000+0000",
        "flow_id": 2**63 - 1,
        "event_type": "alert",
        "src_ip": "10.0.0.5",
        "src_port": 40_000,
        "dest_ip": "192.0.2.9",
        "dest_port": 22,
        "proto": "TCP",
        "alert": {
            "action": "allowed",
            "gid": 1,
            "signature_id": 9_000_002,
            "rev": 1,
            "signature": "KINWATCH bruteforce: guessing of credentials",
            "category": "Attempted User Privilege Gain",
            "severity": 1,
        },
        "flow": {
            "pkts_toserver": 3,
            "pkts_toclient": 2,
            "bytes_toserver": 180,
            "bytes_toclient": 120,
            "start": "2023-11-14T22:13:20.000001+0000",
        },
        "kinwatch": {
            "device_id": "cam-1",
            "score": 0.97,
            "threshold": 0.8,
            "attack_class": "bruteforce",
            "model": "b" * 64,
            "role": "expert",
            "family_id": "family-2",
            "top_features": ["fwd_pkts", "duration_s"],
            "repeats": 4,
        },
    }


@pytest.mark.parametrize("name", [*CLASSES[1:], ANOMALY])
def test_every_class_has_its_alert(name):
    alert = build_alert(flow(), 0, Finding(0.9, name), JUDGE)
    assert alert.alert.signature_id == 9_000_000 + CLASS_INDEX.get(name, CLASS_INDEX["other_attack"])
    assert name in alert.alert.signature
    assert alert.alert.category


@pytest.mark.parametrize(("proto", "text"), [(17, "UDP"), (58, "IPv6-ICMP"), (89, "089")])
def test_ipv6_and_other_protocols(proto, text):
    alert = build_alert(flow("2001:db8::1", "ff02::1", version=6, proto=proto), 0, Finding(1.0, "scan"), JUDGE)
    assert (alert.src_ip, alert.dest_ip, alert.proto) == ("2001:db8::1", "ff02::1", text)


@given(st.integers(0, 4_102_444_800_000_000))
def test_eve_time_loses_no_microsecond(at_us):
    read = datetime.strptime(eve_time(at_us), "%Y-%m-%dT%H:%M:%S.%f%z")
    assert round(read.timestamp() * 1e6) == at_us


def test_repeats_inside_the_window_are_counted_and_told_with_the_next_alert():
    s = Suppressor(window_s=60)
    assert s.admit(A, "scan", 0) == Admitted(0)
    assert [s.admit(A, "scan", t * S) for t in (1, 30, 59)] == [None, None, None]
    assert s.admit(A, "scan", 60 * S) == Admitted(3)
    assert s.admit(A, "scan", 61 * S) is None


def test_another_source_or_class_is_another_kind():
    s = Suppressor()
    assert all(s.admit(*kind, 0) == Admitted(0) for kind in ((A, "scan"), (B, "scan"), (A, "dos_flood")))


def test_a_score_that_wavers_around_the_threshold_is_one_alert():
    """Flows between both thresholds keep an open alert open; a quiet window clears it."""
    s = Suppressor(window_s=60)
    assert not s.linger(A, "scan", 0), "nothing is open yet"
    assert s.admit(A, "scan", 0) == Admitted(0)
    assert [s.linger(A, "scan", t * S) for t in (30, 80, 130)] == [True, True, True]
    assert not s.linger(B, "scan", 130 * S)
    assert not s.linger(A, "dos_flood", 130 * S)
    assert s.admit(A, "scan", 140 * S) == Admitted(3)
    assert not s.linger(A, "scan", 200 * S), "a window of quiet has cleared it"
    assert s.expire(200 * S) == []


def test_lingering_keeps_a_kind_from_being_forgotten_first():
    s = Suppressor(window_s=60, max_kinds=2)
    s.admit(A, "scan", 0)
    s.admit(B, "scan", 1)
    s.linger(A, "scan", 2)
    s.admit(B, "dos_flood", 3)
    assert s.linger(A, "scan", 4)
    assert not s.linger(B, "scan", 4)


def test_a_kind_that_falls_silent_leaves_a_summary():
    s = Suppressor(window_s=60)
    for at_s in (0, 10, 50):
        s.admit(A, "scan", at_s * S)
    s.admit(B, "scan", 0)
    assert s.expire(100 * S) == []
    assert s.expire(110 * S) == [Summary(A, "scan", 2, 50 * S)]
    assert len(s) == 0
    assert s.expire(200 * S) == []


def test_a_flood_of_kinds_is_bounded_and_loses_no_count():
    s = Suppressor(window_s=60, max_kinds=2)
    s.admit(A, "scan", 0)
    s.admit(A, "scan", 1)
    s.admit(B, "scan", 2)
    s.admit(B, "dos_flood", 3)  # the quietest kind, A's scan, is forgotten
    assert len(s) == 2
    assert s.expire(4) == [Summary(A, "scan", 1, 1)]
    assert s.admit(A, "scan", 5) == Admitted(0)


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B]), st.sampled_from(["scan", "c2_beacon"]), st.integers(0, 300)), max_size=60
    )
)
def test_every_alert_is_sent_or_counted_exactly_once(events):
    s, sent, counted = Suppressor(window_s=20, max_kinds=3), 0, 0
    for source, name, at_s in sorted(events, key=lambda e: e[2]):
        answer = s.admit(source, name, at_s * S)
        if answer is not None:
            sent += 1
            counted += answer.repeats
        counted += sum(summary.repeats for summary in s.expire(at_s * S))
    counted += sum(summary.repeats for summary in s.expire(10_000 * S))
    assert sent + counted == len(events)


@pytest.mark.parametrize("options", [{"window_s": 0}, {"window_s": float("nan")}, {"max_kinds": 0}], ids=str)
def test_suppression_settings_are_positive(options):
    with pytest.raises(ValueError, match="positive"):
        Suppressor(**options)
