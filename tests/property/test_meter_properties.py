"""The meter against a plain re-count: the same packets, taken apart by other code, give the same sums."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.features import INDEX
from device_agent.flows.meter import FlowMeter, MeterSettings
from device_agent.flows.packets import ACK, FIN, PSH, RST, SYN
from device_agent.flows.records import EndReason, FlowBatch
from tests.property.examples import examples
from tests.unit.device_agent.frames import EPOCH_US, arp, batch, ethernet, icmp, ipv4, tcp, udp

HOSTS = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
PORTS = [1883, 40000]
FLAGS = [SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK, RST, 0]

endpoints = st.tuples(st.sampled_from(HOSTS), st.sampled_from(HOSTS), st.sampled_from(PORTS), st.sampled_from(PORTS))
gaps = st.sampled_from([0.0, 0.000001, 0.000001, 0.1, 0.3, 0.3, 1.0, 4.9, 5.0, 14.999999, 15.0, 61.0])
payloads = st.integers(0, 40).map(lambda n: b"p" * n)


@st.composite
def frames(draw):
    """One frame and what it is: (frame, key of its flow or None, IP length, payload length)."""
    src, dst, sport, dport = draw(endpoints)
    payload = draw(payloads)
    kind = draw(st.sampled_from(["tcp", "tcp", "tcp", "udp", "icmp", "fragment", "arp", "junk"]))
    if kind == "tcp":
        frame = tcp(
            src=src,
            dst=dst,
            sport=sport,
            dport=dport,
            flags=draw(st.sampled_from(FLAGS)),
            seq=draw(st.integers(0, 2)),
            payload=payload,
        )
        return frame, flow_key(6, src, dst, sport, dport), 40 + len(payload), len(payload)
    if kind == "udp":
        frame = udp(src=src, dst=dst, sport=sport, dport=dport, payload=payload)
        return frame, flow_key(17, src, dst, sport, dport), 28 + len(payload), len(payload)
    if kind == "icmp":
        return icmp(src=src, dst=dst, payload=payload), flow_key(1, src, dst, 0, 0), 28 + len(payload), len(payload)
    if kind == "fragment":
        frame = ethernet(ipv4(b"f" * 24, src, dst, proto=17, fragment=9))
        return frame, flow_key(17, src, dst, 0, 0), 44, 24
    return (arp() if kind == "arp" else draw(st.binary(max_size=40))), None, 0, 0


def flow_key(proto, src, dst, sport, dport):
    return proto, frozenset(Counter([(src, sport), (dst, dport)]).items())


short = st.lists(st.tuples(gaps, frames()), min_size=1, max_size=20)
dense = st.lists(st.tuples(gaps, frames()), min_size=40, max_size=80)
traffic = short | dense


def run(items, size, **chosen):
    """Meter the items in batches of ``size``; return all records and the meter."""
    meter = FlowMeter(MeterSettings(**chosen))
    times = np.cumsum([gap for gap, _ in items])
    timed = [(time, frame) for time, (_, (frame, *_)) in zip(times, items, strict=True)]
    parts = [meter.feed(batch(timed[i : i + size])) for i in range(0, len(timed), size)]
    assert len(meter) <= chosen.get("max_flows", 65_536)
    return FlowBatch.concat([*parts, meter.flush()]), meter


SHORT = {"idle_s": 1.0, "active_s": 3.0}


def table(flows):
    return flows.identity.tobytes(), flows.features.tobytes()


def rows(flows):
    """Return each record, identity and features, as bytes."""
    return [a.tobytes() + b.tobytes() for a, b in zip(flows.identity, flows.features, strict=True)]


quick = settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@quick
@given(traffic, st.sampled_from([{}, {"max_flows": 3}, SHORT]))
def test_batch_borders_do_not_matter(items, chosen):
    whole = table(run(items, len(items), **chosen)[0])
    for size in (1, 7, 64):
        assert table(run(items, size, **chosen)[0]) == whole


@quick
@given(traffic, st.sampled_from([1, 4, 65_536]))
def test_every_packet_is_metered_or_ignored_with_a_reason(items, max_flows):
    flows, meter = run(items, 50, max_flows=max_flows)
    counters = meter.counters
    assert counters.packets == len(items)
    assert counters.metered + sum(counters.ignored.values()) == len(items)
    in_flows = flows.features[:, [INDEX["fwd_pkts"], INDEX["bwd_pkts"]]].sum()
    assert in_flows == counters.metered
    assert sum(counters.records.values()) == len(flows)
    parts_cut = counters.records["active"]
    assert counters.flows == len(flows) - parts_cut
    assert not len(meter)


@quick
@given(traffic, st.sampled_from([{}, SHORT]))
def test_sums_equal_an_independent_count(items, chosen):
    """Per flow key, packets, bytes and payload of all records together, but for what trailed a TCP end."""
    flows, meter = run(items, 50, **chosen)
    want = defaultdict(lambda: np.zeros(3))
    for _, (_, key, ip_len, payload) in items:
        if key is not None:
            want[key] += (1, ip_len, payload)
    got = defaultdict(lambda: np.zeros(3))
    columns = [[INDEX[f"{side}_{name}"] for side in ("fwd", "bwd")] for name in ("pkts", "bytes", "payload_bytes")]
    for row, record in enumerate(flows.identity):
        src, dst = flows.ip_text(row)
        key = flow_key(int(record["proto"]), src, dst, int(record["src_port"]), int(record["dst_port"]))
        got[key] += [flows.features[row, pair].sum() for pair in columns]
    trailing = meter.counters.ignored["after-tcp-end"]
    assert set(got) <= set(want)
    missing = 0
    for key, sums in want.items():
        missing += sums[0] - got[key][0]
        if key[0] != 6:
            assert got[key].tolist() == sums.tolist()
        else:
            assert (got[key] <= sums).all()
    assert missing == trailing


@quick
@given(traffic, st.sampled_from([{"idle_s": 15.0, "active_s": 60.0}, SHORT]))
def test_records_keep_their_limits(items, chosen):
    flows, _ = run(items, 50, **chosen)
    features = flows.features
    assert np.isfinite(features).all()
    assert (features >= 0).all()
    span_us = flows.identity["ts_end_us"] - flows.identity["ts_start_us"]
    assert (span_us >= 0).all()
    assert (span_us < chosen["active_s"] * 1e6).all(), "the active timeout bounds a record"
    assert (features[:, INDEX["all_iat_max_s"]] < chosen["idle_s"]).all(), "the idle timeout bounds a gap"
    for prefix in ("all", "fwd", "bwd"):
        for kind in ("len_{}", "iat_{}_s"):
            low, mean, high = (features[:, INDEX[f"{prefix}_{kind.format(n)}"]] for n in ("min", "mean", "max"))
            assert (low <= mean * (1 + 1e-12)).all()
            assert (mean <= high * (1 + 1e-12)).all()
    started = flows.identity["ts_start_us"]
    assert (started >= EPOCH_US).all()
    assert set(flows.identity["end_reason"].tolist()) <= {int(r) for r in EndReason}


@quick
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1_400), st.integers(0, 900_000)), min_size=1, max_size=40))
def test_statistics_equal_those_of_numpy(items):
    """Lengths and gaps of one flow, whatever their order, against NumPy on the whole list."""
    times_us = np.cumsum([gap for *_, gap in items])
    forward = np.array([items[0][0] == way for way, *_ in items])
    lengths = np.array([28 + size for _, size, _ in items])
    timed = [
        (
            time / 1e6,
            udp(payload=b"x" * size)
            if way
            else udp(src="10.0.0.2", dst="10.0.0.1", sport=53, dport=40000, payload=b"x" * size),
        )
        for time, (way, size, _) in zip(times_us, items, strict=True)
    ]
    meter = FlowMeter()
    row = FlowBatch.concat([meter.feed(batch(timed)), meter.flush()]).features[0]
    for prefix, mask in (("all", np.ones(len(items), bool)), ("fwd", forward), ("bwd", ~forward)):
        for pattern, values in (("len_{}", lengths[mask]), ("iat_{}_s", np.diff(times_us[mask]) / 1e6)):
            want = (0, 0, 0, 0) if not len(values) else (values.min(), values.max(), values.mean(), spread(values))
            got = [row[INDEX[f"{prefix}_{pattern.format(name)}"]] for name in ("min", "max", "mean", "std")]
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def spread(values):
    return values.std(ddof=1) if len(values) > 1 else 0


@quick
@given(traffic, st.sets(st.integers(0, 79)))
def test_extra_ticks_change_no_record(items, ticks):
    """A wall clock that expires flows before a packet comes only closes earlier what would be closed anyway."""
    meter = FlowMeter()
    times = np.cumsum([gap for gap, _ in items])
    parts = []
    for i, (time, (_, (frame, *_))) in enumerate(zip(times, items, strict=True)):
        one = batch([(time, frame)])
        if i in ticks:
            parts.append(meter.expire(int(one.ts_us[0])))
        parts.append(meter.feed(one))
    ticked = FlowBatch.concat([*parts, meter.flush()])
    plain, _ = run(items, 1)
    assert sorted(rows(ticked)) == sorted(rows(plain))


@pytest.mark.parametrize("seed", range(1))
def test_a_flood_of_new_keys_keeps_the_tables_small(seed):
    """20,000 spoofed SYNs: the tables stay within their bounds and every packet is in some record."""
    rng = np.random.default_rng(seed)
    meter = FlowMeter(MeterSettings(max_flows=500))
    total = 0
    for start in range(0, 20_000, 2_000):
        sources = rng.integers(0, 2**16, 2_000)
        timed = [
            ((start + i) * 1e-4, tcp(src=f"10.9.{s >> 8}.{s & 255}", sport=int(rng.integers(1, 65_536)), flags=SYN))
            for i, s in enumerate(sources)
        ]
        total += len(meter.feed(batch(timed)))
        assert len(meter) <= 500
        assert len(meter._windows) <= 4_096
    total += len(meter.flush())
    assert total == meter.counters.flows
    assert meter.counters.records["evict"] >= 19_000
    assert meter.counters.initiators_evicted > 0
