"""Endpoints of a flow, by any part of their addresses and ports in which they differ."""

import pytest

from device_agent.flows.packets import UDP
from tests.unit.device_agent.engines import column, engines, run
from tests.unit.device_agent.frames import ethernet, ipv4, ipv6, udp_header


@engines
@pytest.mark.parametrize(
    ("src", "dst"),
    [
        ("2001:db8::1", "2001:db8::2"),
        ("2001:db8::2", "2001:db8::1"),
        ("2001:db8::1", "fe80::1"),
        ("fe80::1", "2001:db8::1"),
        ("2001:db8::2", "fe80::1"),
        ("2001:db8::8000:0:0:0", "2001:db8::1"),
        ("8000::", "::1"),
        ("10.0.0.1", "200.0.0.1"),
        ("200.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
    ],
)
@pytest.mark.parametrize("ports", [(40_000, 53), (53, 40_000), (53, 53)])
def test_both_directions_are_one_flow(engine, src, dst, ports):
    def packet(here, there, sport, dport):
        body = udp_header(sport=sport, dport=dport, payload=b"x")
        if ":" in here:
            return ethernet(ipv6(body, src=here, dst=there, next_header=UDP), ethertype=0x86DD)
        return ethernet(ipv4(body, here, there, proto=UDP))

    there, back = packet(src, dst, *ports), packet(dst, src, *ports[::-1])
    flows, _ = run(engine, [(0.0, there), (0.1, back), (0.2, there)])
    same_end = src == dst and ports[0] == ports[1]
    assert column(flows, "fwd_pkts") == [3 if same_end else 2]
    assert column(flows, "bwd_pkts") == [0 if same_end else 1]
    assert flows.ip_text(0) == (src.replace("2001:db8::8000:0:0:0", "2001:db8:0:0:8000::"), dst)
    assert (int(flows.identity["src_port"][0]), int(flows.identity["dst_port"][0])) == ports
