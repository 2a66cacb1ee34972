"""The windows of initiators in C against those in Python: the same numbers, bit by bit."""

import ctypes
import struct

import numpy as np
import pytest

from contract.features import INDEX
from device_agent.flows import windows as module
from device_agent.flows.fast.engine import FastMeter
from device_agent.flows.fast.library import load
from device_agent.flows.meter import MeterSettings
from device_agent.flows.records import FlowBatch, PacketBatch
from device_agent.flows.windows import MAX_INITIATORS, MAX_VALUES, WINDOW_US, InitiatorWindows, weights
from tests.unit.device_agent.engines import compiled

pytestmark = compiled

HOUR_US = 3_600_000_000


class Flow(ctypes.Structure):
    """``keyed_t``."""

    _fields_ = (
        ("key_0", ctypes.c_uint64),
        ("key_1", ctypes.c_uint64),
        ("v6_words", ctypes.c_uint64 * 4),
        ("is_v6", ctypes.c_uint8),
    )


class Both:
    """The windows in C and in Python, told the same."""

    def __init__(self, max_initiators=MAX_INITIATORS, max_values=MAX_VALUES, seed=1):
        self.single = InitiatorWindows(max_initiators, max_values)
        # A library object of its own, so that signatures are set for no other test.
        self.library = ctypes.CDLL(load()._name)
        for name in ("new", "wanted", "stored", "evicted"):
            getattr(self.library, f"kw_windows_{name}").restype = ctypes.c_void_p if name == "new" else ctypes.c_int64
        self.table = weights(1)
        self.windows = ctypes.c_void_p(
            self.library.kw_windows_new(
                *(ctypes.c_int32(bound) for bound in (max_initiators, max_values, module.SATURATION)),
                *(ctypes.c_int64(bound) for bound in (module.MOST_COUNTED, WINDOW_US)),
                ctypes.c_uint64(seed),
                ctypes.c_void_p(self.table.ctypes.data),
                ctypes.c_int64(len(self.table)),
            )
        )
        self.slots = []

    def free(self):
        self.library.kw_windows_free(self.windows)

    def open(self, initiator, responder, port, clock_us, *, six=False, swapped=False):
        """Tell both of a flow; return its number and its features."""
        number = len(self.slots)
        ends = (responder, initiator) if swapped else (initiator, responder)
        words = [word for end in ends for word in divmod(end, 1 << 64)]
        flow = Flow(0 if six else ends[0] << 32 | ends[1], port << 48 | 5 << 32 if swapped else 5 << 48 | port << 32)
        if six:
            flow.v6_words[:], flow.is_v6 = words, 1
        got = (ctypes.c_double * 7)()
        slot = self.library.kw_windows_open(
            self.windows, ctypes.byref(flow), int(swapped), ctypes.c_int64(clock_us), ctypes.c_int64(number), got
        )
        addresses = [end.to_bytes(16) if six else end for end in (initiator, responder)]
        want = self.single.open(*addresses, port, clock_us // WINDOW_US, number)
        assert tuple(got) == tuple(map(float, want))
        assert self.library.kw_windows_stored(self.windows) == self.single.stored
        assert self.library.kw_windows_evicted(self.windows) == self.single.evicted
        if wanted := self.library.kw_windows_wanted(self.windows):
            self.table = weights(wanted)
            self.library.kw_windows_weights(
                self.windows, ctypes.c_void_p(self.table.ctypes.data), ctypes.c_int64(len(self.table))
            )
            assert not self.library.kw_windows_wanted(self.windows)
        self.slots.append((slot, addresses[0]))
        return number, tuple(got)

    def answer(self, number):
        """Tell both that a flow was answered."""
        slot, address = self.slots[number]
        self.library.kw_windows_answer(self.windows, slot, ctypes.c_int64(number))
        self.single.answer(address, number)

    def clear(self):
        self.library.kw_windows_clear(self.windows)
        self.single.clear()
        assert not self.library.kw_windows_stored(self.windows)


@pytest.fixture
def both():
    made = Both()
    yield made
    made.free()


@pytest.mark.parametrize("room", [(), (5, 131_072), (4_096, 60), (3, 40), (1, 131_072), (4_096, 1)])
@pytest.mark.parametrize("bounds", [(1_000, 1 << 18), (4, 6), (1, 3), (30, 50)])
@pytest.mark.parametrize("seed", range(6))
def test_c_counts_what_python_does(room, bounds, seed, monkeypatch):
    """Windows and hours that turn, saturation, eviction, answers of any age, IPv6 and steps of the clock."""
    monkeypatch.setattr(module, "SATURATION", bounds[0])
    monkeypatch.setattr(module, "MOST_COUNTED", bounds[1])
    told = Both(*room, seed=seed)
    rng = np.random.default_rng(seed)
    clock = 500 * HOUR_US - WINDOW_US * 3
    steps = [0, 1, 40_000, WINDOW_US // 2, WINDOW_US, 3 * WINDOW_US, HOUR_US - WINDOW_US, HOUR_US, 2 * HOUR_US]
    asked = []
    for part in range(12):
        initiators, peers, ports = rng.choice([1, 2, 12]), rng.choice([1, 5, 40]), rng.choice([1, 3, 60])
        chances = rng.dirichlet(np.array([60, 30, 20, 4, 4, 1, 1, 1, 1]))
        for _ in range(60):
            clock += int(rng.choice(steps, p=chances))
            if asked and rng.random() < 0.4:
                told.answer(asked.pop(int(rng.integers(max(len(asked) - 25, 0), len(asked)))))
                continue
            six = rng.random() < 0.2
            far = 1 << 64 if six and rng.random() < 0.5 else 0
            ends = int(rng.integers(initiators)) + far, int(rng.integers(peers)) + far
            number, _ = told.open(*ends, int(rng.integers(ports)), clock, six=six, swapped=rng.random() < 0.5)
            asked.append(number)
        if part in {4, 8}:
            told.clear()
            asked.clear()
            clock -= 100_000_000
    told.free()


@pytest.mark.parametrize("peers", [1_500, 1 << 32])
def test_a_scan_saturates(both, peers):
    """Addresses and ports by the thousand, and what is left of them in the next windows and hours."""
    rng = np.random.default_rng(1)
    for window in (0, 1, 2, 3, 359, 360, 361, 725):
        targets, ports = rng.integers(peers, size=2_500).tolist(), rng.integers(1, 60_000, size=2_500).tolist()
        for target, port in zip(targets, ports, strict=True):
            _, features = both.open(7, target, port, 500 * HOUR_US + window * WINDOW_US)
        assert features[1:3] == (1_000, 1_000)


def test_the_table_of_weights_grows_on_demand(both):
    """From the first table to the next, at 1,024 counted flows."""
    for i in range(1_200):
        _, features = both.open(7, i % 3, 1 + i % 2, 500 * HOUR_US)
    assert len(both.table) == 2_048
    assert features[5:] == (pytest.approx(np.log2(3)), 1.0)


def test_every_initiator_is_forgotten_in_turn(both):
    """A flood of forged sources: as many initiators are kept as may be, and those that were evicted are counted."""
    for source in range(MAX_INITIATORS + 500):
        both.open(source, 1, 23, 500 * HOUR_US)
    assert both.single.evicted == 500
    _, features = both.open(0, 1, 23, 500 * HOUR_US)
    assert features[0] == 1, "was forgotten"
    _, features = both.open(MAX_INITIATORS, 1, 23, 500 * HOUR_US)
    assert features[0] == 2, "was not"


def test_scanners_share_the_room_for_values(both):
    """Each stores 2,000 values a window; sixty-six of them are one too many."""
    rng = np.random.default_rng(2)
    for scanner in range(68):
        for _ in range(1_000):
            both.open(scanner, int(rng.integers(1 << 32)), int(rng.integers(1, 1 << 16)), 500 * HOUR_US)
    assert both.single.evicted >= 2
    assert both.single.stored <= MAX_VALUES


def test_an_answer_to_an_evicted_initiator_is_for_no_count():
    told = Both(1)
    number, _ = told.open(1, 2, 3, 500 * HOUR_US)
    told.open(4, 2, 3, 500 * HOUR_US)
    told.answer(number)
    assert told.open(4, 2, 3, 500 * HOUR_US)[1][3] == 1
    told.answer(number)
    assert told.open(1, 2, 3, 500 * HOUR_US)[1][3] == 0
    told.answer(number)
    assert told.open(1, 2, 3, 500 * HOUR_US)[1][3] == 1
    told.free()


def mixed(words):
    """``mix`` of table.h."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ words >> np.uint64(shift)) * np.uint64(factor)
    return words ^ words >> np.uint64(31)


def test_responders_of_one_hash_are_different(both):
    """IPv6 responders that share the hash and the low half of the address, as nobody finds without the seed."""
    low = 5
    high = np.arange(1, 300_000, dtype=np.uint64)
    hashes = mixed(mixed(mixed(np.full(1, low + 1, dtype=np.uint64)) + high)).astype(np.uint32)
    order = np.argsort(hashes, kind="stable")
    pairs = (hashes[order][1:] == hashes[order][:-1]).nonzero()[0]
    assert len(pairs)
    for at in pairs[:3].tolist():
        for responder in high[order[at : at + 2]].tolist():
            _, features = both.open(1 << 64, responder << 64 | low, 23, 500 * HOUR_US, six=True)
    assert features[1] == 2 * len(pairs[:3])


def syn(number: int) -> bytes:
    head = struct.pack("!BBHHHBBHII", 0x45, 0, 40, 1, 0, 64, 6, 0, 0x0A000000, 0x0B000000 + number % 3)
    return bytes(12) + b"\x08\x00" + head + struct.pack("!HHIIBBHHH", number & 0xFFFF, 23, 1, 0, 0x50, 2, 512, 0, 0)


def test_a_meter_brings_longer_tables_in_the_middle_of_a_batch():
    """More flows of one initiator in a batch than the first table of weights reaches."""
    n = 3_000
    meter = FastMeter(MeterSettings())
    frames = [syn(number) for number in range(n)]
    fed = meter.feed(PacketBatch.from_frames(frames, [10**15] * n, [54] * n))
    flows = FlowBatch.concat([fed, meter.flush()])
    told = InitiatorWindows()
    want = [told.open(0, number % 3, 23, 10**15 // WINDOW_US, number) for number in range(n)]
    order = np.argsort(flows.identity["src_port"])
    columns = [INDEX[f"initiator_{name}"] for name in module.Opened._fields]
    np.testing.assert_array_equal(flows.features[order][:, columns], np.array(want, dtype=flows.features.dtype))
