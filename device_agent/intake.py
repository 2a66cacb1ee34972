"""The packet source of an agent as its loop sees it: behind a pump, and opened again where that makes sense."""

import time

from device_agent.boards import Budgets
from device_agent.capture.pump import Pump
from device_agent.capture.source import CaptureSettings, open_source
from device_agent.config import AgentConfig
from device_agent.flows.records import PacketBatch


class Capture:
    """The packet source behind its pump; a live one can be opened again after it was lost.

    Attributes
    ----------
    state
        ``running``, ``ended`` or ``failed``.
    live
        Whether packets come on this host's clock.
    """

    def __init__(self, config: AgentConfig, budget: Budgets) -> None:
        self.state = "running"
        self._spec = config.capture.source
        self._settings = CaptureSettings(bpf=config.capture.bpf)
        self._queue_packets = budget.capture_queue_packets
        self._reopen_s: float | None = None
        self._counted: dict[str, int] = {}
        self._pump: Pump | None = self._open()
        self.live = self._pump.live

    def read(self, timeout_s: float) -> PacketBatch | None:
        """Return the next batch, an empty one after ``timeout_s``, ``None`` at the end; see ``Pump.read``."""
        if self._pump is None:
            time.sleep(timeout_s)
            if self._reopen_s is None or time.monotonic() < self._reopen_s:
                return PacketBatch.from_frames([], [])
            self._pump = self._open()
            self._reopen_s = None
            self.state = "running"
        return self._pump.read(timeout_s)

    def reopen_later(self, at_s: float) -> None:
        """Drop the source and open it again at a monotonic time."""
        self._counted = self.counters()
        if self._pump is not None:
            self._pump.close()
            self._pump = None
        self._reopen_s = at_s
        self.state = "starting"

    def counters(self) -> dict[str, int]:
        """Return totals over all openings of the source."""
        now = self._pump.counters() if self._pump is not None else {}
        return {name: self._counted.get(name, 0) + now.get(name, 0) for name in {*self._counted, *now}}

    def close(self) -> None:
        """Stop reading."""
        if self._pump is not None:
            self._pump.close()

    def _open(self) -> Pump:
        return Pump(open_source(self._spec, self._settings), self._queue_packets)
