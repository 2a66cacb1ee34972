"""The meters agree on recorded traffic: a sample of all captures; ``scripts/acceptance-flows`` takes every one."""

import os
from pathlib import Path

import pytest

from device_agent.capture.errors import CaptureInputError
from device_agent.capture.source import open_source
from device_agent.flows.fast.library import load
from device_agent.flows.meter import FlowMeter
from device_agent.flows.records import FlowBatch
from device_agent.flows.select import make_meter
from tests.property.packet_streams import assert_same_records

DATA = Path(os.environ.get("KINWATCH_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
SAMPLE = 40

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets at {DATA}; set KINWATCH_DATA"),
]


def sampled():
    """Return every n-th capture of each folder, so that each kind of traffic and link type is among them."""
    paths = sorted(p for p in (DATA / "pcap").rglob("*") if p.suffix in {".pcap", ".pcapng", ".cap"})
    return paths[:: max(1, len(paths) // SAMPLE)]


def read(path):
    source, batches = open_source(str(path)), []
    try:
        while (batch := source.read(65_536, 0.0)) is not None:
            batches.append(batch)
    except CaptureInputError:
        pass
    finally:
        source.close()
    return batches


def run(meter, batches, size):
    parts = [meter.feed(b.slice(at, min(at + size, len(b)))) for b in batches for at in range(0, len(b), size)]
    return FlowBatch.concat([*parts, meter.flush()])


@pytest.mark.parametrize("engine", ["columnar", "fast"])
def test_sampled_captures_give_the_same_records(engine):
    if engine == "fast" and load() is None:
        pytest.skip("no compiled meter; run scripts/build-fast")
    paths = sampled()
    assert len(paths) >= SAMPLE
    packets = 0
    for path in paths:
        batches = read(path)
        reference = FlowMeter()
        expected = run(reference, batches, 65_536)
        packets += reference.counters.packets
        for size in (64, 1_000, 65_536):
            meter = make_meter(prefer=engine)
            assert_same_records(expected, run(meter, batches, size))
            assert meter.counters == reference.counters, path.name
    assert packets > 10_000
