"""Cases of the columnar meter that random streams hardly reach, each against the per-packet meter."""

from math import sqrt

import numpy as np
import pytest

from contract.features import INDEX
from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.columnar.export import deviation
from device_agent.flows.meter import AFTER_TCP_END, FlowMeter, MeterSettings
from tests.property.packet_streams import assert_same_records
from tests.unit.device_agent.frames import A, B, batch, ethernet, ipv4, tcp, udp

ACK, FIN_ACK, RST, SYN, SYN_ACK = 0x10, 0x11, 0x04, 0x02, 0x12


def backwards(flags):
    return tcp(src=B, dst=A, sport=80, dport=40000, flags=flags)


def both(timed, **settings):
    """Meter with both; compare, and return the counters."""
    meters = FlowMeter(MeterSettings(**settings)), ColumnarMeter(MeterSettings(**settings))
    assert_same_records(*(meter.feed(batch(timed)) for meter in meters))
    assert_same_records(*(meter.flush() for meter in meters))
    assert meters[0].counters == meters[1].counters
    return meters[1].counters


@pytest.mark.parametrize(("after_s", "dropped", "flows"), [(4.9, 2, 1), (5.0, 1, 2), (9.0, 1, 2)])
def test_trailing_packets_are_dropped_for_five_seconds(after_s, dropped, flows):
    """All in one batch and without an idle gap, so that only the five seconds decide."""
    timed = [(0.0, tcp(flags=SYN)), (0.1, backwards(SYN_ACK)), (0.2, tcp(flags=ACK)), (0.3, tcp(flags=RST))]
    counters = both([*timed, (0.4, backwards(ACK)), (0.3 + after_s, backwards(ACK))], idle_s=120.0, active_s=1_800.0)
    assert counters.ignored[AFTER_TCP_END] == dropped
    assert counters.flows == flows


def test_both_fins_and_the_last_ack_end_a_connection():
    timed = [(0.0, tcp(flags=SYN)), (0.1, backwards(SYN_ACK)), (0.2, tcp(flags=ACK)), (0.3, tcp(flags=FIN_ACK))]
    counters = both([*timed, (0.4, backwards(FIN_ACK)), (0.5, tcp(flags=ACK)), (0.6, tcp(flags=ACK))])
    assert counters.records["tcp_end"] == 1
    assert counters.ignored[AFTER_TCP_END] == 1


@pytest.mark.parametrize("gap_us", [100, 14_999_000, 119_000_000])
@pytest.mark.parametrize("n", [2, 3, 1_000, 100_000])
def test_deviation_of_nearly_equal_values_is_not_lost_to_cancellation(gap_us, n):
    """Gaps that differ by a microsecond: the squares have 17 digits, what remains of them has one."""
    values = [gap_us + i % 2 for i in range(n)]
    total, squares = sum(values), sum(v * v for v in values)
    exact = sqrt((n * squares - total * total) / (n * (n - 1)))
    got = deviation(np.array([n]), np.array([total]), np.array([squares % 2**64], dtype=np.uint64))
    assert got[0] == pytest.approx(exact, rel=1e-9, abs=0)


def test_deviation_of_equal_values_is_zero():
    n, value = 1_000, 14_999_999
    squares = np.array([n * value * value % 2**64], dtype=np.uint64)
    assert deviation(np.array([n]), np.array([n * value]), squares)[0] == 0.0
    assert deviation(np.array([1, 0]), np.array([7, 0]), np.array([49, 0], dtype=np.uint64)).tolist() == [0.0, 0.0]


def test_an_end_that_is_forgotten_later_makes_no_room_before():
    """Two TCP ends fill the memory for them: a third one pushes out the first, although the second goes behind it."""
    ends = [(0.0, tcp(sport=1, flags=RST)), (0.1, tcp(sport=2, flags=RST))]
    trailing = [(0.11, tcp(sport=2, flags=ACK))] * 6
    third_then_again = [*trailing, (0.2, tcp(sport=3, flags=RST)), (0.3, tcp(sport=2, flags=SYN))]
    meters = FlowMeter(MeterSettings(max_flows=2)), ColumnarMeter(MeterSettings(max_flows=2))
    for timed in (ends, third_then_again, [(0.4, tcp(sport=1, flags=ACK))]):
        assert_same_records(*(meter.feed(batch(timed)) for meter in meters))
    assert meters[0].counters == meters[1].counters
    assert meters[1].counters.ignored[AFTER_TCP_END] == len(trailing)
    assert meters[1].counters.flows == 5


def test_a_flow_without_tcp_state_is_answered_behind_a_reset():
    """It began with a fragment, so a RST does not end it, and the next packet back is its answer."""
    back = [tcp(src=B, dst=A, sport=0, dport=0, flags=flags) for flags in (RST, ACK)]
    fragment = ethernet(ipv4(b"f" * 24, A, B, proto=6, fragment=9))
    meters = FlowMeter(), ColumnarMeter()
    timed = batch([(0.0, fragment), (0.1, back[0]), (0.2, back[1])])
    for meter in meters:
        assert not len(meter.feed(timed))
    later = batch([(0.3, tcp(sport=5, flags=SYN))])
    for meter in meters:
        meter.feed(later)
    records = [meter.flush() for meter in meters]
    assert_same_records(*records)
    failed = records[0].features[:, INDEX["initiator_failed"]]
    assert failed.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("most_reserved", [131_072, 1_024, 2_048])
def test_flows_live_on_while_the_table_grows(most_reserved, monkeypatch):
    """Within the space set aside, beyond it, and out of it."""
    monkeypatch.setattr("device_agent.flows.columnar.flows._MOST_RESERVED", most_reserved)
    reference, meter = FlowMeter(), ColumnarMeter()
    for second, n in enumerate((500, 1_500, 4_000)):
        packets = batch([(second + i * 1e-5, udp(sport=10_000 + i, payload=b"x" * second)) for i in range(n)])
        assert_same_records(reference.feed(packets), meter.feed(packets))
    assert len(meter._table.flows) >= 4_000
    assert_same_records(reference.flush(), meter.flush())
