"""Ids of flows: the same from every engine, and different for flows that differ in anything."""

import numpy as np

from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.ids import N_WORDS, flow_ids
from device_agent.flows.meter import FlowMeter
from device_agent.flows.records import PacketBatch
from tests.unit.device_agent.frames import tcp

ALL = (1 << 64) - 1


def mixed(value: int) -> int:
    """SplitMix64 in plain numbers."""
    z = value + 0x9E3779B97F4A7C15 & ALL
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & ALL
    z = (z ^ z >> 27) * 0x94D049BB133111EB & ALL
    return z ^ z >> 31


def chained(words: list[int]) -> int:
    left, right = 0, 0x9E3779B97F4A7C15
    for word in words:
        left, right = mixed(left ^ word), mixed(right + word & ALL)
    return (left ^ right) >> 1


def test_two_chains_of_splitmix64():
    words = np.random.default_rng(0).integers(ALL, size=(N_WORDS, 50), dtype=np.uint64, endpoint=True)
    assert flow_ids(words).tolist() == [chained(column) for column in words.T.tolist()]
    assert flow_ids(np.zeros((N_WORDS, 0))).shape == (0,)


def test_the_id_of_a_packet_is_that_of_its_words():
    frame = tcp(src="10.0.0.2", dst="10.0.0.1", sport=40_000, dport=1_883)
    batch = PacketBatch.from_frames([frame], [1_700_000_000_000_123])
    v4 = 0xFFFF << 32
    words = [0, v4 | 0x0A000002, 0, v4 | 0x0A000001, 40_000 << 48 | 1_883 << 32 | 6, 1_700_000_000_000_123]
    for meter in (FlowMeter(), ColumnarMeter()):
        meter.feed(batch)
        assert meter.flush().identity["flow_id"].tolist() == [chained(words)]


def test_every_bit_of_a_flow_counts():
    base = np.random.default_rng(1).integers(ALL, size=N_WORDS, dtype=np.uint64)
    words = np.repeat(base[:, None], 1 + 64 * N_WORDS, axis=1)
    for bit in range(64 * N_WORDS):
        words[bit // 64, 1 + bit] ^= np.uint64(1 << bit % 64)
    ids = flow_ids(words)
    assert len(set(ids.tolist())) == len(ids)
    changed = np.unpackbits((ids[1:] ^ ids[0]).view(np.uint8)).reshape(-1, 64).sum(axis=1)
    assert 28 < changed.mean() < 35
    assert changed.min() > 10
