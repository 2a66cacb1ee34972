"""The windows of initiators, one by one and many at once, and the meters around them, against their whole history."""

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.features import INDEX
from device_agent.flows import windows as windows_module
from device_agent.flows.columnar import openings as openings_module
from device_agent.flows.columnar import window_runs as runs_module
from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.columnar.openings import Openings
from device_agent.flows.columnar.state import EVENT
from device_agent.flows.fast.engine import FastMeter
from device_agent.flows.fast.library import load
from device_agent.flows.meter import FlowMeter, MeterSettings
from device_agent.flows.records import FlowBatch, PacketBatch
from device_agent.flows.windows import WINDOW_US, InitiatorWindows, Opened
from tests.property.examples import examples
from tests.property.opening_history import History, PastFlow

ENGINES = [FlowMeter, ColumnarMeter] + ([FastMeter] if load() is not None else [])
COLUMNS = [INDEX[f"initiator_{name}"] for name in Opened._fields]
SECOND_US = 1_000_000
STEPS_US = (0, 0, 0, 1, 40_000, 3 * SECOND_US, 10 * SECOND_US, 20 * SECOND_US, 3_590 * SECOND_US, 7_200 * SECOND_US)

quick = settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def long_address(address: int) -> bytes:
    return bytes(8) + address.to_bytes(8)


class Told:
    """Tells the windows, or arrays of them, and the history the same."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.single = InitiatorWindows(history.max_initiators, history.max_values)
        self.many = Openings(history.max_initiators, history.max_values)
        self.past: list[tuple[object, PastFlow]] = []
        self.clock_us = 3_600 * SECOND_US * 1_000 - 5 * SECOND_US

    def batch(self, rng: np.random.Generator, n: int, kind: dict) -> None:
        """Tell ``n`` openings and answers."""
        events, want, alone = np.zeros(n, dtype=EVENT), [], []
        for event in events:
            self.clock_us += int(rng.choice(kind["steps"]))
            answerable = [i for i, (_, flow) in enumerate(self.past) if not flow.answered]
            if answerable and rng.random() < kind["answers"]:
                number = int(rng.choice(answerable[-20:]))
                initiator, flow = self.past[number]
                flow.answered = True
                self.single.answer(initiator, number)
                self._write(event, rng, initiator, 0, 0, number, answer=True)
                continue
            six = rng.random() < kind["six"]
            initiator, responder = int(rng.integers(kind["initiators"])), int(rng.integers(kind["responders"]))
            if six:
                initiator, responder = long_address(initiator), long_address(responder)
            port = int(rng.integers(kind["ports"]))
            number = len(self.past)
            flow, features = self.history.open(initiator, responder, port, self.clock_us)
            want.append(features)
            self.past.append((initiator, flow))
            alone.append(self.single.open(initiator, responder, port, self.clock_us // WINDOW_US, number))
            self._write(event, rng, initiator, responder, port, number, answer=False)
        together = self.many.note(events)
        assert together.shape == (len(want), len(COLUMNS))
        if want:
            np.testing.assert_allclose(np.array(alone), np.array(want), rtol=1e-9, atol=0)
            np.testing.assert_array_equal(together, np.array(alone))
        for windows in (self.single, self.many.windows):
            assert list(windows.table) == list(self.history.flows)
            assert windows.evicted == self.history.evicted
            assert windows.stored == sum(entry.values() for entry in windows.table.values())

    def _write(self, event, rng, initiator, responder, port, number, *, answer) -> None:
        swapped = bool(rng.random() < 0.5)
        six = isinstance(initiator, bytes)
        ends = [int.from_bytes(a) if isinstance(a, bytes) else a for a in (initiator, responder)]
        first, second = ends[::-1] if swapped else ends
        event["is_v6"], event["swapped"], event["answer"] = six, swapped, answer
        event["clock"], event["number"] = self.clock_us, number
        if six:
            event["v6_words"] = (0, first, 0, second)
        else:
            event["key_0"] = first << 32 | second
        event["key_1"] = port << 48 | 5 << 32 if swapped else 5 << 48 | port << 32

    def clear(self) -> None:
        """Set the clock back."""
        self.clock_us -= 100 * SECOND_US
        for side in (self.history, self.single, self.many.windows):
            side.clear()


kinds = st.fixed_dictionaries(
    {
        "steps": st.lists(st.sampled_from(STEPS_US), min_size=1, max_size=8),
        "answers": st.sampled_from((0.0, 0.2, 0.5, 0.9)),
        "six": st.sampled_from((0.0, 0.0, 0.3)),
        "initiators": st.sampled_from((1, 1, 2, 5, 30)),
        "responders": st.sampled_from((1, 3, 12, 40)),
        "ports": st.sampled_from((1, 2, 4, 30)),
    }
)


@given(
    seed=st.integers(0, 2**32),
    batches=st.lists(st.tuples(st.sampled_from((1, 7, 25, 60)), kinds), min_size=1, max_size=5),
    bounds=st.tuples(st.sampled_from((1, 4, 10, 1_000)), st.sampled_from((3, 20, 1 << 18))),
    room=st.sampled_from(((4_096, 131_072), (4_096, 131_072), (3, 131_072), (4_096, 25))),
    busy=st.sampled_from((2, 5, 48)),
    clears=st.booleans(),
)
@settings(quick, max_examples=examples(250))
def test_windows_are_what_their_history_says(seed, batches, bounds, room, busy, clears):
    """Window turns, hours, saturation, eviction and clock steps, in batches of many sizes."""
    rng = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        for module in (windows_module, runs_module):
            patch.setattr(module, "SATURATION", bounds[0])
            patch.setattr(module, "MOST_COUNTED", bounds[1])
        patch.setattr(openings_module, "_BUSY", busy)
        told = Told(History(*bounds, *room))
        for i, (n, kind) in enumerate(batches):
            if clears and i == 2:
                told.clear()
            told.batch(rng, n, kind)


def frame(src: int, dst: int, sport: int, dport: int, proto: int, flags: int) -> bytes:
    body = struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 0x50, flags, 512, 0, 0)
    if proto == 17:
        body = struct.pack("!HHHH", sport, dport, 8, 0)
    head = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(body), 1, 0, 64, proto, 0, src, dst)
    return bytes(12) + b"\x08\x00" + head + body


def traffic(seed: int, n_flows: int, *, back: bool) -> tuple[list[tuple[int, bytes]], list[tuple]]:
    """Return packets, and the flows they make, each of its own source port.

    A flow is silent, refused by a RST, answered at once or up to 12 s later, or met by its SYN-ACK. Some go on.
    """
    rng = np.random.default_rng(seed)
    clock, packets, flows = 10**15, [], []
    for number in range(n_flows):
        clock += int(rng.choice([0, 1, 30_000, 700_000, 4_000_000], p=[0.2, 0.3, 0.3, 0.15, 0.05]))
        if back and rng.random() < 0.01:
            clock -= 90 * SECOND_US
        src, dst = 0x0A000000 + int(rng.integers(3)), 0x0B000000 + int(rng.integers(rng.choice([2, 30])))
        sport, dport, proto = 1_024 + number, int(rng.choice([23, 23, 80, 1883, 5000 + number])), 6
        kind = rng.choice(["silent", "refused", "answered", "answered", "midstream", "udp"])
        delay, at = int(rng.choice([0, 5_000, 2_000_000, 12_000_000])), len(packets)
        if kind == "midstream":
            packets.append((clock, at, frame(dst, src, dport, sport, 6, 0x12)))
        else:
            proto = 17 if kind == "udp" else 6
            packets.append((clock, at, frame(src, dst, sport, dport, proto, 0x02)))
        if kind == "refused":
            packets.append((clock + delay, at + 1, frame(dst, src, dport, sport, 6, 0x14)))
        elif kind in {"answered", "udp"}:
            packets.append((clock + delay, at + 1, frame(dst, src, dport, sport, proto, 0x12)))
            packets.append((clock + delay + 3_000_000, at + 2, frame(dst, src, dport, sport, proto, 0x10)))
        flows.append((src, dst, sport, dport, proto))
    packets.sort() if not back else packets.sort(key=lambda packet: packet[1])
    return [(time, data) for time, _, data in packets], flows


def expected(packets: list[tuple[int, bytes]]) -> list[tuple[int, list[float]]]:
    """Return the source port and the features of each flow in the order of openings."""
    history, clock, live, out = History(), 0, {}, []
    for time, data in packets:
        if time < clock - 60 * SECOND_US:
            history.clear()
            live.clear()
            clock = time
        clock = max(clock, time)
        proto, src, dst, first, second = struct.unpack_from("!23xB2xIIHH", data)
        flags = data[47] if proto == 6 else 0
        forward = first >= 1_024 and first != 1883 and src < 0x0B000000
        initiator, responder, sport, dport = (src, dst, first, second) if forward else (dst, src, second, first)
        if sport not in live:
            live[sport], features = history.open(initiator, responder, dport, clock)
            out.append((sport, features))
        if not forward and not flags & 0x04:
            live[sport].answered = True
    return out


@pytest.mark.parametrize("engine", ENGINES)
@given(
    seed=st.integers(0, 2**32),
    n_flows=st.sampled_from((20, 120)),
    sizes=st.lists(st.sampled_from((1, 3, 40, 1_000)), min_size=1, max_size=4),
)
@quick
def test_features_of_flows_in_order(engine, seed, n_flows, sizes):
    check(engine, traffic(seed, n_flows, back=False), sizes)


@pytest.mark.parametrize("engine", ENGINES)
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.sampled_from((1, 3, 40, 1_000)), min_size=1, max_size=4))
@quick
def test_features_of_flows_while_the_clock_steps(engine, seed, sizes):
    check(engine, traffic(seed, 150, back=True), sizes)


def check(engine, made, sizes: list[int]) -> None:
    """Meter in batches of the given sizes; every part of every flow has the features of its opening."""
    packets, _ = made
    meter = engine(MeterSettings(idle_s=20.0, active_s=4.0))
    times, data = [time for time, _ in packets], [frame for _, frame in packets]
    at, turn, parts = 0, 0, []
    while at < len(packets):
        stop = min(at + sizes[turn % len(sizes)], len(packets))
        parts.append(meter.feed(PacketBatch.from_frames(data[at:stop], times[at:stop], [60] * (stop - at))))
        at, turn = stop, turn + 1
    got = FlowBatch.concat([*parts, meter.flush()])
    want = dict(expected(packets))
    assert meter.counters.ignored["after-tcp-end"] == 0
    assert set(got.identity["src_port"].tolist()) == set(want)
    np.testing.assert_allclose(
        got.features[:, COLUMNS], [want[port] for port in got.identity["src_port"].tolist()], rtol=1e-9, atol=0
    )
