"""The flow meter: packet batches in, flow records out, one packet at a time.

Longer than other modules, since the rules that all meters follow are written down here.

Rules
-----
A flow is all packets between two endpoints (address, port) with one protocol and the same VLAN tags, in both
directions. Its record is closed

- **idle**: when its own next packet comes ``idle_s`` or more after its last one, or, if none comes, at the first whole
  second of the packet clock at which that much time has gone by;
- **active**: when its own next packet comes ``active_s`` or more after its first one; the flow goes on as its next
  part, with the same direction, TCP state and opening counts. A flow without further packets is left to the idle rule;
- **tcp_end**: by a RST, by the ACK that answers the second FIN, or by the SYN of another connection. For 5 s after a
  RST or mutual FIN, packets of the same key other than a SYN are trailing ones: ignored and counted;
- **evict**: when a new flow needs room in the full table; the flow without packets for longest goes;
- **flush**: when the meter is told so, or when the packet clock was set back by more than a minute.

Besides, a flow may be told of before it is closed: with its ``early_pkts``-th packet, or with a packet of its own
``early_s`` or more after its first one, whichever comes first, an **early** record gives what the flow is until then.
The flow goes on as if nothing had happened. There is one early record a flow at most, none for later parts, and none
if that packet ends the flow.

Each rule looks at packet times alone, in the order of the packets. So the same packets give the same records in the
same order, however they are cut into batches. Within a flow a packet time before the last one counts as the last one.

A column engine with the same interface may replace this one; this one is the reference for its tests.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from device_agent.flows.applications import Applications, Dissector
from device_agent.flows.ids import flow_ids
from device_agent.flows.packets import ACK, REASONS, RST, SYN, Packet, parse
from device_agent.flows.records import EMPTY, IDENTITY, V4_PREFIX, EndReason, FlowBatch, PacketBatch
from device_agent.flows.state import Flow, feature_row
from device_agent.flows.windows import WINDOW_US, InitiatorWindows

AFTER_TCP_END = "after-tcp-end"
IGNORE_REASONS = (*REASONS, AFTER_TCP_END)
"""Why a packet enters no flow."""

_SECOND_US = 1_000_000
_TRAILING_US = 5 * _SECOND_US
_CLOCK_STEP_US = 60 * _SECOND_US
_EXPIRE_GRACE_US = _SECOND_US
_LATEST_US = 1 << 62

_Key = tuple[bytes, int, bytes, int, int, int]


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """Timeouts and bounds of the meter.

    Attributes
    ----------
    idle_s
        Seconds without a packet that end a flow, > 0.
    active_s
        Seconds after which a lasting flow is reported and cut, > 0.
    max_flows
        Live flows at most (about 1.5 KB each), >= 1.
    early_pkts
        Packets at which a flow gets its early record; 0: it is not given for packets.
    early_s
        Seconds after its first packet from which a packet brings a flow its early record; 0: it is not given for time.
    dissect_pps
        Application payloads dissected in a second of packet time, if there is a dissector.
    """

    idle_s: float = 15.0
    active_s: float = 60.0
    max_flows: int = 65_536
    early_pkts: int = 0
    early_s: float = 0.0
    dissect_pps: int = 100

    def __post_init__(self) -> None:
        if not (self.idle_s > 0 and self.active_s > 0 and self.max_flows >= 1):
            raise ValueError(f"meter settings must be positive: {self}")
        if self.early_pkts < 0 or self.early_s < 0 or self.dissect_pps < 0:
            raise ValueError(f"meter settings must not be negative: {self}")

    @property
    def early_us(self) -> int:
        """``early_s`` in microseconds; 0 only if that is."""
        return max(1, round(self.early_s * _SECOND_US)) if self.early_s else 0


@dataclass(slots=True)
class MeterCounters:
    """What happened to every packet: ``packets == metered + sum(ignored.values())``.

    Attributes
    ----------
    packets
        Packets fed.
    metered
        Packets counted in a flow.
    ignored
        Packets not metered, by reason (``IGNORE_REASONS``).
    flows
        Flows opened; further parts of a flow do not count.
    records
        Records closed, by reason.
    clock_steps
        Times the packet clock was set back by more than a minute.
    dissected, undissected
        Selected application payloads that were read, and that were not because the second's budget was used up.
    malformed
        Payloads read that were not what their port promised.
    initiators_evicted
        Initiators whose windows were forgotten for lack of room.
    """

    packets: int = 0
    metered: int = 0
    ignored: dict[str, int] = field(default_factory=lambda: dict.fromkeys(IGNORE_REASONS, 0))
    flows: int = 0
    records: dict[str, int] = field(default_factory=lambda: {r.name.lower(): 0 for r in EndReason})
    clock_steps: int = 0
    dissected: int = 0
    undissected: int = 0
    malformed: int = 0
    initiators_evicted: int = 0


class FlowMeter:
    """Per-packet flow meter with bounded memory.

    Parameters
    ----------
    settings
        Timeouts and bounds.
    dissector
        Reads application payloads; without one their counts are 0.

    Attributes
    ----------
    counters
        Running totals; read them, do not change them.
    """

    def __init__(self, settings: MeterSettings | None = None, *, dissector: Dissector | None = None) -> None:
        settings = settings or MeterSettings()
        self._early_pkts, self._early_us = settings.early_pkts, settings.early_us
        self._applications = Applications(dissector, settings.dissect_pps)
        self._idle_us = round(settings.idle_s * _SECOND_US)
        self._active_us = round(settings.active_s * _SECOND_US)
        self._max_flows = settings.max_flows
        self._flows: OrderedDict[_Key, Flow] = OrderedDict()
        # Not a dict: one that is emptied from its front looks through all the places left behind.
        self._ended: OrderedDict[_Key, int] = OrderedDict()
        self._windows = InitiatorWindows()
        self._clock_us = 0
        self._next_tick_us = 0
        self._identities: list[tuple[object, ...]] = []
        self._id_words: list[tuple[int, ...]] = []
        self._rows: list[list[float]] = []
        self.counters = MeterCounters()

    def __len__(self) -> int:
        """Return the number of live flows."""
        return len(self._flows)

    def feed(self, batch: PacketBatch) -> FlowBatch:
        """Meter a batch and return the records that were closed by it.

        Packets are taken in the order given; nothing in their bytes raises.
        """
        buffer = batch.data.tobytes() if batch.data.flags.c_contiguous else bytes(batch.data)
        bounds = batch.offsets.tolist()
        link_type = batch.link_type
        ignored = self.counters.ignored
        start = bounds[0]
        for end, time_us, wire_len in zip(bounds[1:], batch.ts_us.tolist(), batch.wire_len.tolist(), strict=True):
            frame = buffer[start:end]
            packet = parse(frame, wire_len, link_type)
            start = end
            time_us = self._advance(time_us)  # noqa: PLW2901 - the usable time
            if isinstance(packet, str):
                ignored[packet] += 1
            else:
                self._meter(packet, time_us, self._applications.read(packet, frame, self._clock_us))
        self.counters.packets += len(batch)
        self.counters.dissected, self.counters.undissected = self._applications.dissected, self._applications.skipped
        self.counters.malformed = self._applications.malformed
        return self._take()

    def expire(self, now_us: int) -> FlowBatch:
        """Close flows that are idle at ``now_us``: for live capture, while no packet comes.

        ``now_us`` is the capture's clock (epoch microseconds). The last second is left alone: packets of that time may
        still be on their way here. Never call it for traffic that is older than the clock, as from a capture file.
        """
        if now_us - _EXPIRE_GRACE_US > self._clock_us:
            self._advance(now_us - _EXPIRE_GRACE_US)
        return self._take()

    def flush(self) -> FlowBatch:
        """Close all flows, the one without packets for longest first."""
        self._close_all()
        return self._take()

    def _advance(self, time_us: int) -> int:
        """Move the packet clock on, close what is idle at the latest whole second; return the usable time."""
        time_us = min(max(time_us, 0), _LATEST_US)
        if time_us >= self._next_tick_us:
            tick_us = time_us - time_us % _SECOND_US
            self._next_tick_us = tick_us + _SECOND_US
            self._clock_us = time_us
            self._tick(tick_us)
        elif time_us > self._clock_us:
            self._clock_us = time_us
        elif time_us < self._clock_us - _CLOCK_STEP_US:
            self.counters.clock_steps += 1
            self._close_all()
            self._windows.clear()
            self._clock_us = time_us
            self._next_tick_us = time_us - time_us % _SECOND_US + _SECOND_US
        return time_us

    def _tick(self, tick_us: int) -> None:
        flows, idle_before_us = self._flows, tick_us - self._idle_us
        while flows:
            flow = next(iter(flows.values()))
            if flow.last_us > idle_before_us:
                break
            flows.popitem(last=False)
            self._close(flow, EndReason.IDLE)
        ended, forget_before_us = self._ended, tick_us - _TRAILING_US
        while ended:
            key = next(iter(ended))
            if ended[key] > forget_before_us:
                break
            del ended[key]

    def _meter(self, packet: Packet, time_us: int, bits: int) -> None:
        """Count one packet in its flow; cut, open and end flows around it."""
        src, dst = (packet.src, packet.src_port), (packet.dst, packet.dst_port)
        key: _Key = (*src, *dst, packet.proto, packet.vlan) if src <= dst else (*dst, *src, packet.proto, packet.vlan)
        flow = self._flows.get(key)
        if flow is not None:
            time_us = max(time_us, flow.last_us)
            if time_us - flow.last_us >= self._idle_us:
                self._remove(key, flow, EndReason.IDLE)
                flow = None
            elif flow.tcp is not None and flow.tcp.starts_anew(packet.tcp_flags, packet.seq):
                self._remove(key, flow, EndReason.TCP_END)
                flow = None
            elif time_us - flow.first_us >= self._active_us:
                self._close(flow, EndReason.ACTIVE)
                flow.next_part(time_us)
        if flow is None:
            if packet.has_tcp and self._is_trailing(key, packet, time_us):
                self.counters.ignored[AFTER_TCP_END] += 1
                return
            flow = self._open(key, packet, time_us)
        else:
            self._flows.move_to_end(key)
        self.counters.metered += 1
        flow.tell(bits)
        forward = flow.is_forward(packet)
        if not (forward or flow.answered or packet.tcp_flags & RST):
            flow.answered = True
            self._windows.answer(flow.src, flow.number)
        if flow.add(packet, time_us, forward=forward):
            self._remove(key, flow, EndReason.TCP_END)
            self._remember_end(key, time_us)
        elif self._is_early(flow):
            flow.early = True
            self._close(flow, EndReason.EARLY)

    def _is_early(self, flow: Flow) -> bool:
        """Whether enough was seen of a flow for its early record, for the first time."""
        if flow.early or flow.part_index:
            return False
        if self._early_pkts and flow.fwd.pkts + flow.bwd.pkts >= self._early_pkts:
            return True
        return 0 < self._early_us <= flow.last_us - flow.first_us

    def _open(self, key: _Key, packet: Packet, time_us: int) -> Flow:
        """Open a flow for its first packet, making room if needed."""
        if len(self._flows) >= self._max_flows:
            self._close(self._flows.popitem(last=False)[1], EndReason.EVICT)
        reverse = packet.tcp_flags & (SYN | ACK) == SYN | ACK
        initiator, responder, port = (
            (packet.dst, packet.src, packet.src_port) if reverse else (packet.src, packet.dst, packet.dst_port)
        )
        number = self.counters.flows
        opened = self._windows.open(initiator, responder, port, self._clock_us // WINDOW_US, number)
        flow = self._flows[key] = Flow(packet, time_us, opened, number, reverse=reverse)
        self.counters.flows += 1
        self.counters.initiators_evicted = self._windows.evicted
        return flow

    def _is_trailing(self, key: _Key, packet: Packet, time_us: int) -> bool:
        """Whether the packet trails a TCP end; a SYN or five seconds make an end of that."""
        ended_us = self._ended.get(key)
        if ended_us is None:
            return False
        if packet.tcp_flags & (SYN | ACK) == SYN or time_us - ended_us >= _TRAILING_US:
            del self._ended[key]
            return False
        return True

    def _remember_end(self, key: _Key, time_us: int) -> None:
        self._ended.pop(key, None)
        if len(self._ended) >= self._max_flows:
            self._ended.popitem(last=False)
        self._ended[key] = time_us

    def _remove(self, key: _Key, flow: Flow, reason: EndReason) -> None:
        del self._flows[key]
        self._close(flow, reason)

    def _close_all(self) -> None:
        for flow in self._flows.values():
            self._close(flow, EndReason.FLUSH)
        self._flows.clear()
        self._ended.clear()

    def _close(self, flow: Flow, reason: EndReason) -> None:
        """Add the record of a flow, or of its present part, to the output; early, it goes on."""
        src, dst = _long(flow.src), _long(flow.dst)
        numbers = flow.src_port << 48 | flow.dst_port << 32 | flow.vlan << 8 | flow.proto
        self._id_words.append(
            (*(int.from_bytes(half) for half in (src[:8], src[8:], dst[:8], dst[8:])), numbers, flow.first_us)
        )
        self._identities.append(
            (
                0,
                flow.first_us,
                flow.last_us,
                np.frombuffer(src, dtype=np.uint8),
                np.frombuffer(dst, dtype=np.uint8),
                4 if len(flow.src) == 4 else 6,
                flow.src_port,
                flow.dst_port,
                flow.proto,
                flow.vlan & 0x0FFF,
                reason,
                flow.part_index,
            )
        )
        self._rows.append(feature_row(flow))
        self.counters.records[reason.name.lower()] += 1

    def _take(self) -> FlowBatch:
        """Return and forget the records closed so far."""
        if not self._rows:
            return EMPTY
        identity = np.array(self._identities, dtype=IDENTITY)
        identity["flow_id"] = flow_ids(np.array(self._id_words, dtype=np.uint64).T)
        batch = FlowBatch(identity=identity, features=np.array(self._rows, dtype=np.float64))
        self._identities, self._id_words, self._rows = [], [], []
        return batch


def _long(address: bytes) -> bytes:
    return address if len(address) == 16 else V4_PREFIX + address
