"""``FastMeter``: the flow meter in C behind the interface of the others.

Packets, flows, timeouts and records are C (``meter.c``), and so are the windows of initiators (``windows.c``) and the
memory of known message heads (``heads.c``); heads that are not known come here, to be read by the dissector.
"""

import ctypes
from secrets import randbits

import numpy as np
import numpy.typing as npt

from device_agent.flows.applications import KINDS, Dissector, Kind
from device_agent.flows.columnar.timeouts import supports
from device_agent.flows.fast.library import load
from device_agent.flows.fast.output import Output
from device_agent.flows.meter import IGNORE_REASONS, MeterCounters, MeterSettings
from device_agent.flows.records import EndReason, FlowBatch, PacketBatch
from device_agent.flows.windows import MAX_INITIATORS, MAX_VALUES, MOST_COUNTED, SATURATION, WINDOW_US, weights

_SECOND_US = 1_000_000
_EXPIRE_GRACE_US = _SECOND_US
_LATEST_US = 1 << 62
_END_REASONS = tuple(reason.name.lower() for reason in EndReason)
_DONE, _SELECTED, _WEIGHTS = 0, 2, 3
_MALFORMED = 1 << 30
"""Told instead of the bits of a payload."""


class FastMeter:
    """Flow meter with bounded memory; same rules, interface and records as ``FlowMeter``.

    Parameters
    ----------
    settings
        Timeouts and bounds.
    seed
        Secret of the hash, below 2**64; ``None`` draws one.
    dissector
        Reads application payloads; without one their counts are 0.

    Attributes
    ----------
    counters
        Running totals; read them, do not change them.

    Raises
    ------
    ValueError
        If there is no library for this machine, or the timeouts are too long (see ``supports``).
    MemoryError
        If there is no memory for the table.
    """

    def __init__(
        self, settings: MeterSettings | None = None, *, seed: int | None = None, dissector: Dissector | None = None
    ) -> None:
        self._meter: int | None = None
        settings = settings or MeterSettings()
        library = load()
        if library is None:
            raise ValueError("no compiled meter for this machine; run scripts/build-fast or install the extra 'fast'")
        if not supports(settings):
            raise ValueError(f"timeouts too long for the compiled meter, use FlowMeter: {settings}")
        self._library = library
        seed = randbits(64) if seed is None else seed
        idle_us, active_us = round(settings.idle_s * _SECOND_US), round(settings.active_s * _SECOND_US)
        self._weights = weights(1)
        self._windows = library.kw_windows_new(
            *(MAX_INITIATORS, MAX_VALUES, SATURATION, MOST_COUNTED, WINDOW_US, seed),
            *(self._weights.ctypes.data, len(self._weights)),
        )
        self._meter = library.kw_new(idle_us, active_us, settings.max_flows, seed, self._windows)
        if not self._meter:
            raise MemoryError(f"no memory for a table of {settings.max_flows} flows")
        library.kw_early(self._meter, settings.early_pkts, settings.early_us)
        self._dissector = dissector if settings.dissect_pps else None
        if self._dissector is not None:
            remember = self._dissector.by_head
            if not library.kw_select(self._meter, KINDS.ctypes.data, settings.dissect_pps, remember):
                raise MemoryError("no memory for the ports of applications")
        self._selected = (ctypes.c_int64 * 3).from_address(library.kw_selected(self._meter))
        self._output = Output(library, self._meter)
        self._totals = (ctypes.c_int64 * (7 + len(IGNORE_REASONS) + len(_END_REASONS)))()
        self.counters = MeterCounters()

    def __del__(self) -> None:
        if self._meter:
            self._library.kw_free(self._meter)
            self._meter = None

    def __len__(self) -> int:
        """Return the number of live flows."""
        return int(self._library.kw_live(self._meter))

    def feed(self, batch: PacketBatch) -> FlowBatch:
        """Meter a batch and return the records that were closed by it.

        Packets are taken in the order given; nothing in their bytes raises.
        """
        data = np.ascontiguousarray(batch.data)
        offsets = np.ascontiguousarray(batch.offsets, dtype=np.int64)
        times = np.ascontiguousarray(batch.ts_us, dtype=np.int64)
        wire = np.ascontiguousarray(batch.wire_len, dtype=np.int32)
        columns = [column.ctypes.data for column in (data, offsets, times, wire)]
        at, n, why = 0, len(batch), ctypes.c_int32(_DONE)
        while at < n:
            at = self._library.kw_feed(self._meter, *columns, batch.link_type, at, n, ctypes.byref(why))
            if why.value == _SELECTED:
                self._tell(data, int(offsets[at]))
            elif why.value == _WEIGHTS:
                self._weights = weights(self._library.kw_windows_wanted(self._windows))
                self._library.kw_weights(self._meter, self._weights.ctypes.data, len(self._weights))
            elif at < n:
                self._output.grow()
        self.counters.packets += n
        return self._take()

    def expire(self, now_us: int) -> FlowBatch:
        """Close flows that are idle at ``now_us``, as ``FlowMeter.expire``."""
        time_us = min(now_us - _EXPIRE_GRACE_US, _LATEST_US)
        while self._library.kw_expire(self._meter, time_us) != _DONE:
            self._output.grow()
        return self._take()

    def flush(self) -> FlowBatch:
        """Close all flows, the one without packets for longest first."""
        while self._library.kw_flush(self._meter) != _DONE:
            self._output.grow()
        return self._take()

    def _tell(self, data: npt.NDArray[np.uint8], frame_at: int) -> None:
        """Read the selected payload, in the frame that begins at ``frame_at``."""
        kind, start, size = self._selected
        start += frame_at
        found = None
        if self._dissector is not None:
            found = self._dissector.dissect(Kind(kind), data[start : start + size].tobytes())
        self._library.kw_tell(self._meter, _MALFORMED if found is None else found)

    def _take(self) -> FlowBatch:
        """Bring the counters up to date; return and forget the records closed so far."""
        self._library.kw_counters(self._meter, self._totals)
        counters, totals = self.counters, list(self._totals)
        counters.metered, counters.flows, counters.clock_steps = totals[:3]
        counters.dissected, counters.undissected, counters.malformed = totals[3:6]
        counters.initiators_evicted = totals[6]
        counters.ignored.update(zip(IGNORE_REASONS, totals[7:], strict=False))
        counters.records.update(zip(_END_REASONS, totals[7 + len(IGNORE_REASONS) :], strict=True))
        return self._output.take()
