"""The three engines of the flow meter, for tests that all of them must pass."""

import pytest

from contract.features import INDEX
from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.fast.engine import FastMeter
from device_agent.flows.fast.library import load
from device_agent.flows.meter import FlowMeter, MeterSettings
from device_agent.flows.records import EndReason, FlowBatch
from tests.unit.device_agent.frames import EPOCH_US, batch

compiled = pytest.mark.skipif(load() is None, reason="no compiled meter; run scripts/build-fast")
engines = pytest.mark.parametrize(
    "engine",
    [
        pytest.param(FlowMeter, id="packet"),
        pytest.param(ColumnarMeter, id="columnar"),
        pytest.param(FastMeter, id="fast", marks=compiled),
    ],
)


def run(engine, timed, *, at_once=1_000, dissector=None, **settings):
    """Return all records of ``[(seconds, frame), ...]``, ``at_once`` packets a batch, and the meter's counters."""
    meter = engine(MeterSettings(**settings), dissector=dissector)
    found = [meter.feed(batch(timed[at : at + at_once])) for at in range(0, len(timed), at_once)]
    return FlowBatch.concat([*found, meter.flush()]), meter.counters


def column(flows, name):
    return flows.features[:, INDEX[name]].tolist()


def reasons(flows):
    return [EndReason(reason).name for reason in flows.identity["end_reason"]]


def spans(flows):
    """Return for each record its reason, packets, and begin and end in seconds of the test."""
    times = [(flows.identity[name] - EPOCH_US) / 1e6 for name in ("ts_start_us", "ts_end_us")]
    pkts = [int(f + b) for f, b in zip(column(flows, "fwd_pkts"), column(flows, "bwd_pkts"), strict=True)]
    return list(zip(reasons(flows), pkts, times[0].tolist(), times[1].tolist(), strict=True))
