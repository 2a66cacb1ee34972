"""Retransmitted segments, by hand."""

import pytest

from device_agent.flows.packets import ACK, FIN, SYN
from tests.unit.device_agent.engines import column, engines, run, spans
from tests.unit.device_agent.frames import A, B, ethernet, ipv4, tcp, tcp_header

batches = pytest.mark.parametrize("at_once", [1, 2, 1_000])
TOP = 1 << 32


def up(seq, size, *, at=0.0, flags=ACK):
    return at, tcp(seq=seq % TOP, payload=b"x" * size, flags=flags)


def down(seq, size, *, at=0.0):
    return at, tcp(src=B, dst=A, sport=80, dport=40000, seq=seq % TOP, payload=b"y" * size)


@engines
@batches
@pytest.mark.parametrize(
    ("segments", "repeated"),
    [
        pytest.param([up(100, 10), up(110, 10), up(120, 10)], 0, id="in order"),
        pytest.param([up(100, 10), up(100, 10), up(110, 10)], 1, id="the same again"),
        pytest.param([up(100, 10), up(110, 10), up(105, 5), up(100, 20)], 2, id="parts and joined segments"),
        pytest.param([up(100, 10), up(105, 10)], 0, id="overlap with a new byte"),
        pytest.param([up(100, 10), up(120, 10), up(110, 10)], 1, id="a gap filled later counts"),
        pytest.param([up(100, 10), up(110, 0), up(110, 0), up(90, 0)], 0, id="without payload nothing counts"),
        pytest.param([up(100, 10), up(109, 1)], 1, id="a keep-alive probe with one byte"),
        pytest.param([up(99, 0, flags=SYN), up(100, 10), up(100, 10)], 1, id="a SYN does not hide the first byte"),
        pytest.param([up(99, 10, flags=SYN), up(100, 10)], 1, id="payload of a SYN begins one later"),
        pytest.param([up(99, 10, flags=SYN), up(100, 11)], 0, id="and ends one later"),
        pytest.param([up(100, 10, flags=FIN | ACK), up(100, 10, flags=FIN | ACK)], 1, id="a FIN adds nothing"),
        pytest.param([up(TOP - 5, 10), up(5, 10), up(TOP - 5, 10), up(15, 1)], 1, id="numbers wrap"),
        pytest.param([up(0, 1), up(TOP // 2, 1)], 1, id="half of all numbers ahead is behind"),
        pytest.param([up(0, 1), up(TOP // 2 - 1, 1), up(0, 1)], 1, id="one less is ahead"),
        pytest.param([up(0, 1), up(1 << 30, 1), up(2 << 30, 1), up(3 << 30, 1), up(0, 1)], 0, id="all the way round"),
    ],
)
def test_one_direction(engine, at_once, segments, repeated):
    flows, _ = run(engine, segments, at_once=at_once)
    assert column(flows, "fwd_retrans_pkts") == [repeated]
    assert column(flows, "bwd_retrans_pkts") == [0]


@engines
@batches
def test_directions_have_their_own_numbers(engine, at_once):
    segments = [up(100, 10), down(100, 10), down(110, 10), up(110, 10), down(100, 10), down(120, 1), down(110, 10)]
    flows, _ = run(engine, segments, at_once=at_once)
    assert (column(flows, "fwd_retrans_pkts"), column(flows, "bwd_retrans_pkts")) == ([0], [2])


@engines
@batches
def test_numbers_survive_a_cut_and_counts_do_not(engine, at_once):
    segments = [up(100, 10), up(100, 10, at=1), up(100, 10, at=10), up(110, 10, at=11), up(110, 10, at=12)]
    flows, _ = run(engine, segments, at_once=at_once, active_s=10)
    assert [row[:2] for row in spans(flows)] == [("ACTIVE", 2), ("FLUSH", 3)]
    assert column(flows, "fwd_retrans_pkts") == [1, 2]


@engines
@batches
def test_an_early_record_has_those_until_then(engine, at_once):
    segments = [up(100, 10), up(100, 10), up(100, 10)]
    flows, _ = run(engine, segments, at_once=at_once, early_pkts=2)
    assert column(flows, "fwd_retrans_pkts") == [1, 2]


@engines
@batches
def test_another_connection_has_other_numbers(engine, at_once):
    segments = [up(500, 0, flags=SYN), up(501, 10), up(100, 0, flags=SYN), up(101, 10)]
    flows, _ = run(engine, segments, at_once=at_once)
    assert column(flows, "fwd_retrans_pkts") == [0, 0]


@engines
@batches
def test_a_later_fragment_is_no_segment(engine, at_once):
    """It meets a flow between ports 0, has payload and no sequence number."""
    whole = ethernet(ipv4(tcp_header(sport=0, dport=0, seq=100) + b"x" * 10))
    fragment = ethernet(ipv4(b"z" * 50, fragment=3))
    flows, _ = run(engine, [(0.0, whole), (0.1, fragment), (0.2, fragment), (0.3, whole)], at_once=at_once)
    assert column(flows, "fwd_pkts") == [4]
    assert column(flows, "fwd_retrans_pkts") == [1]
