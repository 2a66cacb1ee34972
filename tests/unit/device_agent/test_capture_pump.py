"""The pump: bounded, lossy for live sources, patient for the others."""

import threading

import pytest

from device_agent.capture.errors import CaptureInputError
from device_agent.capture.pump import Pump
from device_agent.flows.records import PacketBatch


class FakeSource:
    """Hands out given batches, then ends or raises; ``gate`` holds back what follows the first ``free`` reads."""

    def __init__(self, sizes, *, live=False, failure=None):
        self.live = live
        self._batches = [PacketBatch.from_frames([b"x"] * n, list(range(n))) for n in sizes]
        self._failure = failure
        self.reads = 0
        self.drained = threading.Event()
        self.closed = 0

    def read(self, max_packets, timeout_s):
        self.reads += 1
        if self._batches:
            return self._batches.pop(0)
        self.drained.set()
        if self._failure is not None:
            raise self._failure
        return None

    def counters(self):
        return {"packets": 7}

    def close(self):
        self.closed += 1


def take_all(pump):
    sizes = []
    while (batch := pump.read(5.0)) is not None:
        sizes.append(len(batch))
    return sizes


def test_all_batches_come_in_order():
    pump = Pump(FakeSource([3, 0, 4, 1]))
    assert take_all(pump) == [3, 4, 1]
    assert pump.read(0.0) is None
    pump.close()


def test_a_file_waits_for_room():
    source = FakeSource([4, 4, 4])
    pump = Pump(source, max_packets=8, batch_packets=4)
    assert not source.drained.wait(0.1), "the third batch has no room"
    assert pump.counters()["queue_packets"] == 8
    assert take_all(pump) == [4, 4, 4]
    assert pump.counters() == {"packets": 7, "queue_packets": 0, "queue_dropped_packets": 0}
    pump.close()


def test_a_live_source_loses_the_newest_and_counts_them():
    source = FakeSource([4, 3, 4], live=True)
    pump = Pump(source, max_packets=8, batch_packets=4)
    assert source.drained.wait(5.0)
    assert take_all(pump) == [4, 3, 1]
    assert pump.counters()["queue_dropped_packets"] == 3
    pump.close()


def test_a_failure_comes_after_all_packets():
    pump = Pump(FakeSource([2], failure=CaptureInputError("x: cut")))
    assert len(pump.read(5.0)) == 2
    with pytest.raises(CaptureInputError, match="x: cut"):
        pump.read(5.0)
    assert pump.read(0.0) is None
    pump.close()


def test_a_fault_in_the_thread_is_not_lost():
    pump = Pump(FakeSource([], failure=RuntimeError("bug")))
    with pytest.raises(RuntimeError, match="bug"):
        pump.read(5.0)
    pump.close()


def test_closing_frees_a_waiting_thread():
    source = FakeSource([8, 8])
    pump = Pump(source, max_packets=8, batch_packets=8)
    pump.close()
    assert source.closed == 1
    assert not pump._thread.is_alive()


def test_nothing_in_time_is_an_empty_batch():
    class Slow(FakeSource):
        def read(self, max_packets, timeout_s):
            self.drained.wait(5.0)

    source = Slow([])
    pump = Pump(source)
    assert len(pump.read(0.01)) == 0
    source.drained.set()
    assert pump.read(5.0) is None
    pump.close()


def test_a_queue_holds_something():
    with pytest.raises(ValueError, match="holds nothing"):
        Pump(FakeSource([]), max_packets=0)
