"""The feeder writes a capture stream that survives the death of its reader."""

import os
import struct
import threading
import time

import pytest

from testbed.captures.reader import RawPacket
from testbed.feeder import Feeder, Part, pcap_header, pcap_record

BOUND_S = 10.0


def packets(count, *, first=0, size=60):
    return [RawPacket(1_000_000 * (first + i) + 7, size + 4, bytes([i % 251]) * size, 1) for i in range(count)]


def gate(*, is_open):
    event = threading.Event()
    if is_open:
        event.set()
    return event


@pytest.fixture
def feed(tmp_path):
    """Make feeders that are stopped at the end of the test."""
    made = []

    def make(*parts, speed=0.0):
        feeder = Feeder(tmp_path / "cam-1.pcap", link_type=1, parts=parts, speed=speed)
        feeder.start()
        made.append(feeder)
        return feeder, tmp_path / "cam-1.pcap"

    yield make
    for feeder in made:
        feeder.stop()
        assert not feeder._thread.is_alive()


def read_packets(data):
    """Parse a stream by hand: file header, then records; fails on a record that is cut."""
    assert data[:24] == pcap_header(1)
    at, found = 24, []
    while at < len(data):
        seconds, micros, kept, original = struct.unpack_from("<IIII", data, at)
        body = data[at + 16 : at + 16 + kept]
        assert len(body) == kept
        found.append(RawPacket(seconds * 1_000_000 + micros, original, body, 1))
        at += 16 + kept
    return found


def read_exactly(reader, count):
    data = b""
    while len(data) < count:
        data += reader.read(count - len(data))
    return data


def wait_for(condition):
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reader_gets_both_parts_in_order_and_the_end(feed):
    learn, exam = packets(3000), packets(500, first=3000)
    _, fifo = feed(Part("learn", learn, gate(is_open=True)), Part("exam", exam, gate(is_open=True)))
    assert read_packets(fifo.read_bytes()) == learn + exam


def test_the_exam_waits_for_its_gate(feed):
    closed = gate(is_open=False)
    feeder, fifo = feed(Part("learn", packets(2), gate(is_open=True)), Part("exam", packets(2), closed))
    with fifo.open("rb", buffering=0) as reader:
        assert feeder.done["learn"].wait(BOUND_S)
        assert len(read_packets(read_exactly(reader, 24 + 2 * 76))) == 2
        assert feeder.sent == {"learn": 2, "exam": 0}
        closed.set()
        assert len(reader.read(76)) == 76


def test_a_new_reader_gets_a_header_and_goes_on_with_whole_packets(feed):
    everything = packets(4000, size=400)
    feeder, fifo = feed(Part("learn", everything, gate(is_open=True)))
    with fifo.open("rb", buffering=0) as first:
        first.read(10_000)  # and dies in the middle of a record
    wait_for(lambda: feeder.reopened == 1)
    got = read_packets(fifo.read_bytes())
    assert got[-1] == everything[-1]
    assert got == everything[-len(got) :]
    assert len(got) > 3700


def test_a_reader_that_dies_at_the_gate_is_noticed(feed):
    closed = gate(is_open=False)
    feeder, fifo = feed(Part("learn", packets(1), gate(is_open=True)), Part("exam", packets(5), closed))
    with fifo.open("rb", buffering=0) as first:
        assert read_exactly(first, 24 + 76)[:24] == pcap_header(1)
    wait_for(lambda: feeder.reopened == 1)
    reader = os.open(fifo, os.O_RDONLY)
    try:
        closed.set()
        assert feeder.done["exam"].wait(BOUND_S)
        data = b""
        while chunk := os.read(reader, 4096):
            data += chunk
    finally:
        os.close(reader)
    assert read_packets(data) == packets(5)


def test_after_the_end_a_restarted_reader_gets_an_empty_stream(feed):
    feeder, fifo = feed(Part("learn", packets(3), gate(is_open=True)))
    assert len(read_packets(fifo.read_bytes())) == 3
    feeder.reader_restarted()
    assert read_packets(fifo.read_bytes()) == []


def test_stop_ends_a_feeder_that_nobody_reads(feed):
    feeder, _ = feed(Part("learn", packets(3), gate(is_open=True)))
    began = time.monotonic()
    feeder.stop()
    assert time.monotonic() - began < 2.0


def test_stop_ends_a_feeder_whose_reader_has_stalled(feed):
    feeder, fifo = feed(Part("learn", packets(4000, size=1000), gate(is_open=True)))
    reader = os.open(fifo, os.O_RDONLY)
    try:
        wait_for(lambda: feeder.sent["learn"] > 0 or feeder._fd >= 0)
        feeder.stop()
        assert not feeder._thread.is_alive()
    finally:
        os.close(reader)


def test_a_speed_paces_packets_by_their_own_clock(feed):
    five = packets(5)  # 4 s of packet time
    _, fifo = feed(Part("learn", five, gate(is_open=True)), speed=10.0)
    began = time.monotonic()
    assert read_packets(fifo.read_bytes()) == five
    assert 0.3 < time.monotonic() - began < 3.0


def test_a_record_has_the_fields_of_the_format():
    record = pcap_record(RawPacket(5_000_009, 90, b"abc", 1))
    assert record == struct.pack("<IIII", 5, 9, 3, 90) + b"abc"
