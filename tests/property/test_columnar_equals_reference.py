"""All meters: same records from the same calls, same counters as the per-packet meter, whatever the input."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from device_agent.flows.columnar import engine
from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.fast import output
from device_agent.flows.fast.engine import FastMeter
from device_agent.flows.fast.library import load
from device_agent.flows.meter import FlowMeter, MeterSettings
from device_agent.flows.records import PacketBatch
from tests.property.examples import examples
from tests.property.packet_streams import Told, ToldByHead, assert_same_records, long_stream, streams

BATCH_SIZES = (1, 7, 64, 1_000, 65_536)

engines = pytest.mark.parametrize(
    "engine_type",
    [
        pytest.param(ColumnarMeter, id="columnar"),
        pytest.param(
            FastMeter,
            id="fast",
            marks=pytest.mark.skipif(load() is None, reason="no compiled meter; run scripts/build-fast"),
        ),
    ],
)
Tested = ColumnarMeter | FastMeter

meter_settings = st.builds(
    MeterSettings,
    idle_s=st.sampled_from((0.01, 1.0, 2.5, 15.0, 120.0)),
    active_s=st.sampled_from((0.02, 3.0, 60.0, 1800.0)),
    max_flows=st.sampled_from((1, 2, 3, 8, 1_000)),
    early_pkts=st.sampled_from((0, 0, 1, 2, 5)),
    early_s=st.sampled_from((0.0, 0.0, 0.04, 2.5)),
    dissect_pps=st.sampled_from((0, 1, 3, 1_000)),
)


def one_bucket(words: list[np.ndarray], seed: int) -> np.ndarray:
    """A hash so weak that nearly all keys collide: what decides must be the stored key."""
    return np.full(len(words[0]), seed & 3, dtype=np.uint64) + (words[-1] & np.uint64(1))


def compare(reference: FlowMeter, columnar: Tested, stream: PacketBatch, batch_size: int) -> None:
    for start in range(0, len(stream), batch_size):
        batch = stream.slice(start, min(start + batch_size, len(stream)))
        assert_same_records(reference.feed(batch), columnar.feed(batch))
        assert columnar.counters == reference.counters
        assert len(columnar) == len(reference)
    assert_same_records(reference.flush(), columnar.flush())
    assert columnar.counters == reference.counters
    assert columnar.counters.packets == columnar.counters.metered + sum(columnar.counters.ignored.values())


@engines
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@given(stream=streams(), limits=meter_settings, seed=st.integers(0, 2**64 - 1))
@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_short_streams(
    engine_type: type[Tested], batch_size: int, stream: PacketBatch, limits: MeterSettings, seed: int
) -> None:
    compare(FlowMeter(limits, dissector=Told()), engine_type(limits, seed=seed, dissector=Told()), stream, batch_size)


@given(stream=streams(), limits=meter_settings, seed=st.integers(0, 3), piece=st.sampled_from((3, 17, 50)))
@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_colliding_hashes_and_small_pieces(stream: PacketBatch, limits: MeterSettings, seed: int, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "PIECE", piece)
        columnar = ColumnarMeter(limits, seed=seed, hash_function=one_bucket, dissector=Told())
        compare(FlowMeter(limits, dissector=Told()), columnar, stream, 1_000)


@engines
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("in_order", [True, False])
@given(seed=st.integers(0, 2**32), max_flows=st.sampled_from((20, 1_000)))
@example(seed=0, max_flows=20)
@example(seed=1_667, max_flows=20)
@settings(max_examples=examples(3), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_long_streams(engine_type: type[Tested], batch_size: int, in_order: bool, seed: int, max_flows: int) -> None:
    n = 300 if batch_size < 64 else 3_000
    limits = MeterSettings(
        idle_s=1.5, active_s=5.0, max_flows=max_flows, early_pkts=7, early_s=1.0, dissect_pps=1 + seed % 50
    )
    compare(
        FlowMeter(limits, dissector=Told()),
        engine_type(limits, seed=seed, dissector=Told()),
        long_stream(seed, n, in_order=in_order),
        batch_size,
    )


@engines
@given(
    parts=st.lists(st.tuples(streams(max_packets=15), st.sampled_from((-2_000_000, 500_000, 3_000_000, 40_000_000)))),
    limits=meter_settings,
)
@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_expiry_by_the_wall_clock(
    engine_type: type[Tested], parts: list[tuple[PacketBatch, int]], limits: MeterSettings
) -> None:
    reference, columnar = FlowMeter(limits, dissector=Told()), engine_type(limits, dissector=Told())
    for batch, wait_us in parts:
        assert_same_records(reference.feed(batch), columnar.feed(batch))
        now_us = int(batch.ts_us[-1]) + wait_us
        assert_same_records(reference.expire(now_us), columnar.expire(now_us))
        assert columnar.counters == reference.counters
    assert_same_records(reference.flush(), columnar.flush())


@engines
@pytest.mark.parametrize("max_flows", [5, 20, 45, 70])
@pytest.mark.parametrize("seed", [0, 1_667])
def test_flows_pushed_out_before_their_next_packet(engine_type: type[Tested], max_flows: int, seed: int) -> None:
    """A table near the number of keys: within one batch many flows are pushed out and come back."""
    limits = MeterSettings(max_flows=max_flows, early_pkts=3, early_s=0.5, dissect_pps=200)
    compare(
        FlowMeter(limits, dissector=Told()),
        engine_type(limits, seed=seed, dissector=Told()),
        long_stream(seed, 1_500, in_order=True),
        300,
    )


@engines
def test_records_do_not_depend_on_the_hash_seed(engine_type: type[Tested]) -> None:
    """Fifty seeds over one stream: the stored key decides, the seed only places it."""
    stream = long_stream(7, 1_500, in_order=True)
    limits = MeterSettings(idle_s=1.0, active_s=4.0, max_flows=30)
    expected = FlowMeter(limits).feed(stream)
    for seed in range(50):
        assert_same_records(expected, engine_type(limits, seed=seed * 0x9E3779B97F4A7C15 % 2**64).feed(stream))


@pytest.mark.skipif(load() is None, reason="no compiled meter; run scripts/build-fast")
@pytest.mark.parametrize("batch_size", [7, 1_000])
@given(
    stream=streams(),
    limits=meter_settings,
    most=st.integers(1, 3),
    seed=st.integers(0, 2**64 - 1),
    told=st.sampled_from((Told, ToldByHead)),
)
@settings(
    max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_a_compiled_meter_that_stops_often(
    batch_size: int, stream: PacketBatch, limits: MeterSettings, most: int, seed: int, told: type[Told]
) -> None:
    """Room for few records, so that it is full before, at and behind packets that are read; heads that are known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "LEAST_ROOM", 4 + most)
        patch.setattr(output, "MOST_ROOM", 4 + most)
        fast = FastMeter(limits, seed=seed, dissector=told())
        compare(FlowMeter(limits, dissector=told()), fast, stream, batch_size)


def test_rows_are_given_back() -> None:
    """Nothing of a flow stays in the table once it was closed and its end was forgotten."""
    meter = ColumnarMeter(MeterSettings(max_flows=40))
    for seed in range(5):
        meter.feed(long_stream(seed, 500, in_order=True))
        assert len(meter._table.keys) <= 80
    meter.flush()
    assert len(meter) == 0
    assert len(meter._table.keys) == 0
