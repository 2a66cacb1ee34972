"""All short sequences of TCP packets, each on its own ports, through all meters: what random streams hardly reach."""

import struct
from itertools import product

import numpy as np
import pytest

from device_agent.flows.columnar.engine import ColumnarMeter
from device_agent.flows.fast.engine import FastMeter
from device_agent.flows.fast.library import load
from device_agent.flows.meter import FlowMeter, MeterSettings
from device_agent.flows.records import PacketBatch
from tests.property.packet_streams import assert_same_records

ENGINES = [ColumnarMeter] + ([FastMeter] if load() is not None else [])
FIN, SYN, RST, ACK = 1, 2, 4, 16

PACKETS = {
    "S": (True, SYN, 1),
    "s": (True, SYN, 2),
    "t": (False, SYN, 3),
    "B": (False, SYN | ACK, 1),
    "a": (True, ACK, 2),
    "b": (False, ACK, 2),
    "F": (True, FIN | ACK, 3),
    "G": (False, FIN | ACK, 3),
    "R": (False, RST, 3),
}
"""Forward or not, flags, sequence number."""

PREFIXES = {
    "nothing": "",
    "asked": "S",
    "established": "SBa",
    "half closed": "SBaF",
    "half closed by the server": "SBaG",
    "closed forward": "SBaGF",
    "closed backward": "SBaFG",
    "refused": "SR",
    "gone": "SBaFGa",
    "gone twice": "SRsR",
}
STEP_US = 1_000
START_US = 10**15


def frame(port: int, *, forward: bool, flags: int, seq: int) -> bytes:
    """Return a TCP frame between a client's port and port 80."""
    ports = (port, 80) if forward else (80, port)
    ends = b"\x0a\x00\x00\x01\x0a\x00\x00\x02" if forward else b"\x0a\x00\x00\x02\x0a\x00\x00\x01"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + ends
    body = struct.pack("!HHIIBBHHH", *ports, seq, 0, 0x50, flags, 500 + seq, 0, 0)
    return bytes(12) + b"\x08\x00" + head + body


def compare(engine: type, batches: list[PacketBatch], **chosen: float) -> FlowMeter:
    """Meter with the engine and the reference, compare call by call, and return the reference."""
    limits = MeterSettings(**chosen)  # type: ignore[arg-type]
    meters = FlowMeter(limits), engine(limits, seed=5)
    for batch in batches:
        assert_same_records(*(meter.feed(batch) for meter in meters))
    assert_same_records(*(meter.flush() for meter in meters))
    assert meters[0].counters == meters[1].counters
    return meters[0]


def packed(packets: list[tuple[int, bytes]]) -> PacketBatch:
    return PacketBatch.from_frames([data for _, data in packets], [time for time, _ in packets])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("apart", [False, True], ids=["one batch", "prefix before"])
@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES.keys())
def test_every_sequence_of_flags(engine, prefix, apart):
    """Three packets of any kind behind each state of a connection."""
    early, late = [], []
    for number, tail in enumerate(product(PACKETS, repeat=3)):
        for at, name in enumerate((*prefix, *tail)):
            forward, flags, seq = PACKETS[name]
            data = frame(1_024 + number, forward=forward, flags=flags, seq=seq)
            (early if apart and at < len(prefix) else late).append((START_US + at * STEP_US, data))
    batches = [packed(sorted(part, key=lambda packet: packet[0])) for part in (early, late) if part]
    counters = compare(engine, batches, idle_s=15.0, active_s=60.0).counters
    assert counters.flows >= len(PACKETS) ** 3


GAPS_US = (0, 999_999, 1_000_000, 1_500_000, 4_999_999, 5_000_000)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("prefix", ["", "SBa", "SR", "SRsBa"])
@pytest.mark.parametrize(("idle_s", "active_s"), [(1.5, 2.5), (30.0, 5.0), (30.0, 6.999999), (5.0, 1.0)])
def test_every_sequence_of_gaps(engine, prefix, idle_s, active_s):
    """Gaps at, below and above each limit, with kinds of packets that begin, continue and end connections."""
    timed: list[tuple[int, int, bytes]] = []
    for number, steps in enumerate(product(product(GAPS_US, "aS"), product(GAPS_US, "bsR"), product(GAPS_US, "a"))):
        time_us = START_US
        for at, (gap_us, name) in enumerate((*((STEP_US, name) for name in prefix), *steps)):
            time_us += gap_us
            forward, flags, seq = PACKETS[name]
            timed.append((time_us, at, frame(1_024 + number, forward=forward, flags=flags, seq=seq)))
    timed.sort(key=lambda packet: packet[:2])
    whole = packed([(time_us, data) for time_us, _, data in timed])
    for size in (len(whole), 500):
        batches = [whole.slice(at, min(at + size, len(whole))) for at in range(0, len(whole), size)]
        compare(engine, batches, idle_s=idle_s, active_s=active_s)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("max_flows", [40, 100, 10_000])
def test_sequences_in_which_times_go_back(engine, max_flows):
    """One connection after the other, each from the same second on, so that all but the first are late."""
    packets, rng = [], np.random.default_rng(4)
    for number in range(60):
        time_us = START_US + int(rng.integers(3)) * 1_000_000
        for _ in range(6):
            time_us += int(rng.choice([-1_500_000, -1, 0, 1, 999_999, 1_000_000, 2_500_000, 5_000_000]))
            forward, flags, seq = PACKETS[str(rng.choice(list(PACKETS)))]
            packets.append((time_us, frame(1_024 + number, forward=forward, flags=flags, seq=seq)))
    compare(engine, [packed(packets)], idle_s=2.5, active_s=4.0, max_flows=max_flows)
