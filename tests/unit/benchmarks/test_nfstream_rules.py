"""The rules by which NFStream's flows are predicted, on frames made here."""

import pytest

from benchmarks.flow_peers.beside_nfstream import packet_cause
from benchmarks.flow_peers.nfstream_rules import LINK_TYPE, Model, View, view
from device_agent.flows.packets import parse
from tests.unit.device_agent.frames import A, B, ethernet, ipv4, tcp, tcp_header, udp, udp_header


def test_a_plain_packet_is_seen_alike():
    frame = tcp(payload=b"x" * 20)
    assert view(frame, 1) == View((A, 40_000), (B, 80), 6, 0, 60, inner=False)
    assert packet_cause(parse(frame, len(frame), 1), view(frame, 1)) is None


@pytest.mark.parametrize(
    ("frame", "link_type", "cause"),
    [
        (ethernet(ipv4(b"x" * 40, proto=17, fragment=100)), 1, "ignored there: later fragments ignored"),
        (b"\x08\x00" + b"\x00" * 18 + udp()[14:], 276, f"ignored there: {LINK_TYPE}"),
        (ethernet(ipv4(tcp_header(), total=0)), 1, "ignored there: length field 0 or below the header's"),
        (ethernet(ipv4(b"x" * 10, proto=6)), 1, "metered there, refused here: malformed-transport"),
        (ethernet(ipv4(ipv4(udp_header(), proto=17), proto=4)), 1, "IP in IP is unpacked there"),
        (ethernet(ipv4(udp_header(), proto=17), tags=[(0x88A8, 3), (0x8100, 4)]), 1, "ignored there: not IP"),
    ],
)
def test_what_is_seen_differently_has_a_cause(frame, link_type, cause):
    found = packet_cause(parse(frame, len(frame), link_type), view(frame, link_type))
    assert found is not None
    assert found[0] == cause


def taken(*packets, idle_s=15.0, active_s=60.0):
    model = Model(idle_s, active_s)
    for at_ms, frame in packets:
        model.take(view(frame, 1), round(at_ms * 1_000))
    (flows,) = model.finish().values()
    return model, [flow[1:5] for flow in flows]


def test_cuts_are_made_in_milliseconds():
    there, back = udp(), udp(src=B, dst=A, sport=53, dport=40_000)
    model, flows = taken((0.9, there), (100.0, back), (15_100.2, there))
    assert flows == [(0, 100, 1, 1), (15_100, 15_100, 1, 0)]
    assert not model.edges
    model, flows = taken((0.9, there), (15_000.1, there))
    assert len(flows) == 2
    assert model.edges


def test_the_clock_never_goes_back():
    model, flows = taken((1_000, udp()), (500, udp()))
    assert flows == [(1_000, 1_000, 2, 0)]
    assert model.late
