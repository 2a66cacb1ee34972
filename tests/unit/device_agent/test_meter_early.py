"""Early records, by hand: when they come, what they tell, and that the flow does not notice."""

import pytest

from device_agent.flows.meter import MeterSettings
from device_agent.flows.packets import ACK, RST, SYN
from tests.unit.device_agent.engines import column, engines, run, spans
from tests.unit.device_agent.frames import tcp, udp

batches = pytest.mark.parametrize("at_once", [1, 2, 3, 1_000])


def flow(*times, sport=40000):
    """UDP packets of one flow, each one byte longer than the one before it."""
    return [(at, udp(sport=sport, payload=b"x" * (i + 1))) for i, at in enumerate(times)]


@engines
@batches
def test_at_a_number_of_packets(engine, at_once):
    flows, counters = run(engine, flow(0, 1, 2, 3), at_once=at_once, early_pkts=3)
    assert spans(flows) == [("EARLY", 3, 0.0, 2.0), ("FLUSH", 4, 0.0, 3.0)]
    assert column(flows, "fwd_payload_bytes") == [6, 10]
    assert column(flows, "all_iat_max_s") == [1.0, 1.0]
    assert flows.identity["flow_id"][0] == flows.identity["flow_id"][1]
    assert flows.identity["part_index"].tolist() == [0, 0]
    assert counters.records["early"] == counters.records["flush"] == counters.flows == 1


@engines
@batches
def test_at_its_own_packet_after_a_time(engine, at_once):
    """Time alone makes no record: a packet must come."""
    flows, _ = run(engine, flow(0, 4.9, 5, 6), at_once=at_once, early_s=5)
    assert spans(flows) == [("EARLY", 3, 0.0, 5.0), ("FLUSH", 4, 0.0, 6.0)]
    flows, _ = run(engine, [*flow(0, 1), (9.0, udp(sport=1))], at_once=at_once, early_s=5)
    assert [row[0] for row in spans(flows)] == ["FLUSH", "FLUSH"]


@engines
@batches
def test_whichever_comes_first_and_only_once(engine, at_once):
    flows, _ = run(engine, flow(0, 1, 2, 3, 9), at_once=at_once, early_pkts=2, early_s=3)
    assert spans(flows) == [("EARLY", 2, 0.0, 1.0), ("FLUSH", 5, 0.0, 9.0)]
    flows, _ = run(engine, flow(0, 4, 5, 6), at_once=at_once, early_pkts=3, early_s=3)
    assert spans(flows) == [("EARLY", 2, 0.0, 4.0), ("FLUSH", 4, 0.0, 6.0)]


@engines
@batches
def test_not_in_a_later_part(engine, at_once):
    """The first part has two packets; the third one cuts, and the next part has enough for a record but gets none."""
    flows, _ = run(engine, flow(0, 5, 10, 11, 12, 13), at_once=at_once, early_pkts=3, active_s=10)
    assert spans(flows) == [("ACTIVE", 2, 0.0, 5.0), ("FLUSH", 4, 10.0, 13.0)]
    flows, _ = run(engine, flow(0, 5, 10, 11), at_once=at_once, early_s=10, active_s=10)
    assert spans(flows) == [("ACTIVE", 2, 0.0, 5.0), ("FLUSH", 2, 10.0, 11.0)]


@engines
@batches
def test_before_the_cut_of_the_same_part(engine, at_once):
    flows, _ = run(engine, flow(0, 5, 9, 10, 11), at_once=at_once, early_pkts=2, active_s=10)
    assert spans(flows) == [("EARLY", 2, 0.0, 5.0), ("ACTIVE", 3, 0.0, 9.0), ("FLUSH", 2, 10.0, 11.0)]


@engines
@batches
def test_not_with_the_packet_that_ends_the_flow(engine, at_once):
    packets = [(0.0, tcp(flags=SYN)), (1.0, tcp(src="10.0.0.2", dst="10.0.0.1", sport=80, dport=40000, flags=RST))]
    flows, _ = run(engine, packets, at_once=at_once, early_pkts=2)
    assert spans(flows) == [("TCP_END", 2, 0.0, 1.0)]


@engines
@batches
def test_again_for_the_next_flow_of_the_same_endpoints(engine, at_once):
    """Idle for 15 s: the packet that closes the old flow opens another, which gets its own record."""
    flows, _ = run(engine, flow(0, 1, 16, 17), at_once=at_once, early_pkts=2, idle_s=15)
    assert spans(flows) == [
        ("EARLY", 2, 0.0, 1.0),
        ("IDLE", 2, 0.0, 1.0),
        ("EARLY", 2, 16.0, 17.0),
        ("FLUSH", 2, 16.0, 17.0),
    ]


@engines
@batches
def test_in_the_order_of_the_packets_among_other_records(engine, at_once):
    """A reset closes one flow between the early records of two others; the one with one packet has none."""
    packets = [
        (0.0, udp(sport=1)),
        (0.1, udp(sport=2)),
        (0.2, tcp(sport=3)),
        (0.3, udp(sport=1)),
        (0.4, tcp(sport=3, flags=RST | ACK)),
        (0.5, udp(sport=2)),
        (0.6, udp(sport=4)),
    ]
    flows, _ = run(engine, packets, at_once=at_once, early_pkts=2)
    got = list(zip([row[0] for row in spans(flows)], flows.identity["src_port"].tolist(), strict=True))
    assert got[:3] == [("EARLY", 1), ("TCP_END", 3), ("EARLY", 2)]
    assert got[3:] == [("FLUSH", 1), ("FLUSH", 2), ("FLUSH", 4)]


@engines
def test_it_has_the_counts_of_the_opening(engine):
    flows, _ = run(engine, [*flow(0, sport=1), *flow(0.1, 0.2, sport=2)], early_pkts=2)
    assert column(flows, "initiator_flows") == [2, 1, 2]


@engines
def test_the_first_packet_may_do(engine):
    flows, _ = run(engine, flow(0, 1), early_pkts=1)
    assert spans(flows) == [("EARLY", 1, 0.0, 0.0), ("FLUSH", 2, 0.0, 1.0)]


@engines
def test_off_by_default(engine):
    flows, counters = run(engine, flow(*range(200)))
    assert {row[0] for row in spans(flows)} == {"ACTIVE", "FLUSH"}
    assert counters.records["early"] == 0


@pytest.mark.parametrize("wrong", [{"early_pkts": -1}, {"early_s": -1.0}, {"dissect_pps": -1}])
def test_settings_below_zero_are_refused(wrong):
    with pytest.raises(ValueError, match="must not be negative"):
        MeterSettings(**wrong)
