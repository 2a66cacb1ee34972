"""A thread between a source and its reader, with a bounded queue."""

import threading
from collections import deque
from time import monotonic

from device_agent.capture.source import Source
from device_agent.flows.records import PacketBatch

_READ_TIMEOUT_S = 0.2
_BATCH_PACKETS = 4_096


class Pump:
    """Reads a source in its own thread into a queue bounded in packets.

    When the queue is full, a live source loses the newest packets, which are counted; any other source waits.

    Parameters
    ----------
    source
        Read by this thread alone from now on; closed by ``close``.
    max_packets
        Packets that may wait, >= 1.
    batch_packets
        Packets in one batch at most.
    """

    def __init__(self, source: Source, max_packets: int = 16_384, batch_packets: int = _BATCH_PACKETS) -> None:
        if max_packets < 1 or batch_packets < 1:
            raise ValueError(f"a queue of {max_packets} packets in batches of {batch_packets} holds nothing")
        self._source = source
        self._max_packets = max_packets
        self._batch_packets = min(batch_packets, max_packets)
        self._queue: deque[PacketBatch] = deque()
        self._waiting = 0
        self._dropped = 0
        self._failure: BaseException | None = None
        self._ended = False
        self._stop = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    @property
    def live(self) -> bool:
        """Whether the source is live."""
        return self._source.live

    def read(self, timeout_s: float) -> PacketBatch | None:
        """Return the oldest waiting batch; an empty one if none comes in time; None at the end.

        Raises
        ------
        AgentError
            What ended the source, after all packets before it.
        """
        deadline_s = monotonic() + timeout_s
        with self._changed:
            while not self._queue:
                if self._ended:
                    failure, self._failure = self._failure, None
                    if failure is not None:
                        raise failure
                    return None
                left_s = deadline_s - monotonic()
                if left_s <= 0.0 or not self._changed.wait(left_s):
                    if self._queue or self._ended:
                        continue
                    return PacketBatch.from_frames([], [])
            batch = self._queue.popleft()
            self._waiting -= len(batch)
            self._changed.notify_all()
            return batch

    def counters(self) -> dict[str, int]:
        """Return the counters of the source, ``queue_packets`` and ``queue_dropped_packets``."""
        with self._changed:
            mine = {"queue_packets": self._waiting, "queue_dropped_packets": self._dropped}
        return self._source.counters() | mine

    def close(self) -> None:
        """Stop the thread and close the source."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._thread.join()
        self._source.close()

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            while not self._stop:
                batch = self._source.read(self._batch_packets, _READ_TIMEOUT_S)
                if batch is None:
                    break
                if len(batch):
                    self._put(batch)
        except BaseException as error:  # noqa: BLE001 - a fault of this thread must surface in the reader's
            failure = error
        with self._changed:
            self._failure = failure
            self._ended = True
            self._changed.notify_all()

    def _put(self, batch: PacketBatch) -> None:
        with self._changed:
            if self._source.live:
                room = self._max_packets - self._waiting
                if len(batch) > room:
                    self._dropped += len(batch) - room
                    batch = batch.slice(0, room)
            else:
                while self._waiting + len(batch) > self._max_packets and not self._stop:
                    self._changed.wait()
            if len(batch):
                self._queue.append(batch)
                self._waiting += len(batch)
                self._changed.notify_all()
