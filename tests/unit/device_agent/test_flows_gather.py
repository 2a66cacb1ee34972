"""Batches that wait for others: the same records, some of them later."""

import pytest

from device_agent.flows import gather
from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.gather import Gathered
from device_agent.flows.meter import FlowMeter, MeterSettings
from device_agent.flows.records import FlowBatch, PacketBatch
from tests.property.packet_streams import assert_same_records, long_stream
from tests.unit.device_agent.frames import EPOCH_US, S, batch, udp

NOTHING = PacketBatch.from_frames([], [])
LIMITS = MeterSettings(idle_s=1.5, active_s=5.0, max_flows=40)
RAW_IP = 101


class Fed:
    """A meter that only notes what it is fed."""

    def __init__(self):
        self.batches = []
        self.inner = FlowMeter()

    def feed(self, packets):
        self.batches.append((len(packets), packets.link_type))
        return self.inner.feed(packets)

    def __len__(self):
        return len(self.inner)

    @property
    def counters(self):
        return self.inner.counters


@pytest.mark.parametrize("size", [3, 64, 1_000])
def test_all_records_in_the_end(size, monkeypatch):
    monkeypatch.setattr(gather, "ENOUGH", 100)
    stream = long_stream(3, 600, in_order=False)
    alone, gathered = ColumnarMeter(LIMITS), Gathered(ColumnarMeter(LIMITS))
    want, got = [], []
    for start in range(0, len(stream), size):
        piece = stream.slice(start, min(start + size, len(stream)))
        want.append(alone.feed(piece))
        got.append(gathered.feed(piece))
    assert_same_records(FlowBatch.concat([*want, alone.flush()]), FlowBatch.concat([*got, gathered.flush()]))
    assert gathered.counters == alone.counters


def test_records_come_when_they_are_asked_for():
    first, second = batch([(0, udp()), (1, udp(sport=41_000))]), batch([(17, udp(sport=42_000))])
    meter = Gathered(FlowMeter())
    assert len(meter.feed(first)) == 0
    assert len(meter.feed(second)) == 0
    assert len(meter.feed(NOTHING)) == 2
    meter.feed(batch([(18, udp(sport=43_000))]))
    assert len(meter.expire(EPOCH_US + 34 * S)) == 2
    meter.feed(batch([(35, udp(sport=44_000))]))
    assert len(meter.flush()) == 1


def test_enough_packets_do_not_wait(monkeypatch):
    monkeypatch.setattr(gather, "ENOUGH", 5)
    inner = Fed()
    meter = Gathered(inner)
    for n in (2, 2, 3, 6, 1):
        meter.feed(batch([(0, udp())] * n))
    assert [n for n, _ in inner.batches] == [7, 6]


def test_link_types_do_not_mix():
    inner = Fed()
    meter = Gathered(inner)
    meter.feed(batch([(0, udp())]))
    meter.feed(PacketBatch.from_frames([udp()[14:]], [EPOCH_US + S], link_type=RAW_IP))
    meter.feed(NOTHING)
    assert inner.batches == [(1, 1), (1, RAW_IP)]
    assert meter.counters.metered == 2
    assert len(meter) == 1


def test_totals_are_of_all_packets_fed():
    meter = Gathered(FlowMeter())
    meter.feed(batch([(0, udp())]))
    assert len(meter) == 1
    meter.feed(batch([(20, udp())]))
    assert meter.counters.packets == 2
    assert len(meter.feed(NOTHING)) == 1, "what the totals made of it was kept"


def test_joined_batches_are_one_of_all_packets():
    stream = long_stream(5, 400, in_order=True)
    joined = PacketBatch.joined([stream.slice(0, 100), stream.slice(100, 101), stream.slice(101, 400)])
    assert joined.offsets.tolist() == stream.offsets.tolist()
    assert joined.data.tobytes() == stream.data.tobytes()
    middle = PacketBatch.joined([stream.slice(50, 60), stream.slice(70, 80)])
    for at, of in ((3, 53), (13, 73)):
        frame = middle.data[middle.offsets[at] : middle.offsets[at + 1]]
        assert frame.tobytes() == stream.data[stream.offsets[of] : stream.offsets[of + 1]].tobytes()
        assert (middle.ts_us[at], middle.wire_len[at]) == (stream.ts_us[of], stream.wire_len[of])
