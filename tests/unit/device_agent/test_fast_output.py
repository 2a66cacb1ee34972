"""The memory that the compiled meter writes records to: what was returned stays as it is, and little is kept."""

import numpy as np
import pytest

from device_agent.flows.fast import output
from device_agent.flows.fast.engine import FastMeter
from device_agent.flows.meter import FlowMeter, MeterSettings
from tests.property.packet_streams import assert_same_records, long_stream
from tests.unit.device_agent.engines import compiled
from tests.unit.device_agent.frames import batch, udp

pytestmark = compiled


@pytest.mark.parametrize("most", [8, 64, 16_384])
def test_records_that_were_returned_are_not_written_again(monkeypatch, most):
    """Feeds that close none, few and more records than there is room for; all are looked at only when all is done."""
    monkeypatch.setattr(output, "LEAST_ROOM", 8)
    monkeypatch.setattr(output, "MOST_ROOM", most)
    meters = [kind(MeterSettings(idle_s=0.5, max_flows=20)) for kind in (FlowMeter, FastMeter)]
    stream = long_stream(3, 4_000, in_order=True)
    at, rng, found = 0, np.random.default_rng(1), []
    while at < len(stream):
        some = stream.slice(at, min(at + int(rng.choice((1, 10, 400))), len(stream)))
        at += len(some)
        found.append([meter.feed(some) for meter in meters])
    found.append([meter.flush() for meter in meters])
    sizes = {len(left) for left, _ in found}
    assert {0, 1} < sizes
    assert max(sizes) > 100
    for left, right in found:
        assert_same_records(left, right)


def test_the_room_grows_to_its_most_and_few_records_do_not_hold_it():
    meter = FastMeter(MeterSettings(max_flows=60_000))

    def flows(n):
        meter.feed(batch([(0.0, udp(src=0x0A000000 + i, payload=b"x")) for i in range(n)]))
        return meter.flush()

    assert len(flows(40_000)) == 40_000
    assert len(meter._output._batch) == output.MOST_ROOM
    few = flows(3)
    assert len(few) == 3
    assert few.features.base is None
    many = flows(10_000)
    assert len(many.features.base) == output.MOST_ROOM
    assert len(flows(0)) == 0
