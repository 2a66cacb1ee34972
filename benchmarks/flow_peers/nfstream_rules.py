"""What NFStream 6.6 does with a frame and with a flow, as its source says, for predicting its flows exactly."""

import ipaddress
import struct
from collections import defaultdict
from dataclasses import dataclass

Endpoint = tuple[str, int]
Key = tuple[Endpoint, Endpoint, int, int]
Flow = tuple[Endpoint, int, int, int, int, int, int]
"""Sender of the first packet; first and last time in ms; packets and bytes, forward and backward."""

LINK_TYPE = "link type unknown to it"

_NETWORK_START = {1: 14, 113: 16, 0: 4}
_RAW = frozenset((12, 14, 101, 228, 229))
_EXTENSIONS = frozenset((0, 43, 44, 60, 135))


@dataclass(frozen=True)
class View:
    """A packet as NFStream takes it."""

    src: Endpoint
    dst: Endpoint
    proto: int
    vlan: int
    size: int
    inner: bool


def key_of(src: Endpoint, dst: Endpoint, proto: int, vlan: int) -> Key:
    """Return the key of both directions."""
    return (*sorted((src, dst)), proto, vlan)


def view(frame: bytes, link_type: int) -> View | str:
    """Return the packet, or why NFStream ignores the frame."""
    start = 0 if link_type in _RAW else _NETWORK_START.get(link_type, -1)
    if start < 0:
        return LINK_TYPE
    if len(frame) < 28:
        return "fewer than 28 bytes captured"
    kind, vlan = 0, 0
    if link_type in (1, 113):
        kind = int.from_bytes(frame[start - 2 : start], "big")
    if link_type == 1 and kind <= 1500:
        return "no EtherType"
    while kind == 0x8100:
        if start + 4 >= len(frame):
            return "cut inside the link header"
        vlan, kind = struct.unpack_from("!HH", frame, start)
        vlan, start = vlan & 0x0FFF, start + 4
    if kind in (0x8847, 0x8848):
        while start + 4 <= len(frame) and not frame[start + 2] & 1:
            start += 4
        start += 4
    elif kind == 0x8864:
        start += 8
    return _network(frame, start, vlan, outer_start=start)


def _network(  # noqa: C901, PLR0912 -- one rule after the other, as they are asked there
    frame: bytes, start: int, vlan: int, outer_start: int
) -> View | str:
    while True:
        if len(frame) < start + 20:
            return "cut inside the IP header"
        version = frame[start] >> 4
        if version == 4:
            header, total = (frame[start] & 15) * 4, int.from_bytes(frame[start + 2 : start + 4], "big")
            fragment = int.from_bytes(frame[start + 6 : start + 8], "big")
            proto = frame[start + 9]
            if proto in (4, 41) and header:
                start += header
                continue
            if fragment & 0x1FFF:
                return "later fragments ignored"
            ends = [str(ipaddress.IPv4Address(frame[at : at + 4])) for at in (start + 12, start + 16)]
            size, length, at = total, (total - header) & 0xFFFF, header
            if header > len(frame) - start:
                return "cut inside the IP header"
        elif version == 6:
            if len(frame) < start + 40:
                return "cut inside the IP header"
            length, proto = int.from_bytes(frame[start + 4 : start + 6], "big"), frame[start + 6]
            size, at = 40 + length, 40
            if len(frame) < start + size:
                return "IPv6 packets not captured to their end ignored"
            stepped = _extensions(frame, start, length, proto)
            if isinstance(stepped, str):
                return stepped
            at, length, proto = stepped
            if proto in (4, 41):
                start += at
                continue
            ends = [str(ipaddress.IPv6Address(frame[a : a + 16])) for a in (start + 8, start + 24)]
        else:
            return "not IP"
        if max(size, len(frame) - start) < at + length:
            return "length field 0 or below the header's"
        ports = (0, 0)
        l4 = start + at
        if (proto == 6 and length >= 20) or (proto == 17 and length >= 8):
            if len(frame) < l4 + 4:
                return "cut before the ports"
            ports = struct.unpack_from("!HH", frame, l4)
        return View((ends[0], ports[0]), (ends[1], ports[1]), proto, vlan, size, inner=start != outer_start)


def _extensions(frame: bytes, start: int, length: int, proto: int) -> tuple[int, int, int] | str:
    at, left = 40, len(frame) - start - 40
    while left > 1 and (proto in _EXTENSIONS or proto == 59):
        if proto == 59:
            return "no next header"
        here = start + at
        if proto == 44:
            if length < 8 or left < 5:
                return "malformed extension header"
            if int.from_bytes(frame[here + 2 : here + 4], "big") >> 3:
                return "later fragments ignored"
            proto, size, left = frame[here], 8, left - 5
        else:
            size, left = frame[here + 1] * 8 + 8, left - 2
            if size > left or length < size:
                return "malformed extension header"
            proto, left = frame[here], left - size
        at, length = at + size, length - size
    return at, length, proto


class Model:
    """Flows of a capture by NFStream's rules: one clock that never goes back, no TCP end, times in milliseconds.

    Attributes
    ----------
    late
        Keys with packets behind that clock.
    """

    def __init__(self, idle_s: float, active_s: float) -> None:
        self._idle_ms, self._active_ms = round(idle_s * 1_000), round(active_s * 1_000)
        self._clock_ms = 0
        self._live: dict[Key, list] = {}
        self.flows: dict[Key, list[Flow]] = defaultdict(list)
        self.late: set[Key] = set()
        self.edges: set[Key] = set()
        self._exact: dict[Key, tuple[int, int]] = {}

    def take(self, packet: View, time_us: int) -> None:
        """Meter a packet."""
        key = key_of(packet.src, packet.dst, packet.proto, packet.vlan)
        time_ms = time_us // 1_000
        if time_ms < self._clock_ms:
            self.late.add(key)
        time_ms = self._clock_ms = max(time_ms, self._clock_ms)
        flow = self._live.get(key)
        if flow is not None:
            first_us, last_us = self._exact[key]
            cut = time_ms - flow[2] >= self._idle_ms or time_ms - flow[1] >= self._active_ms
            cut_us = time_us - last_us >= self._idle_ms * 1_000 or time_us - first_us >= self._active_ms * 1_000
            if cut != cut_us:
                self.edges.add(key)
            if cut:
                self.flows[key].append(tuple(flow))
                flow = None
        if flow is None:
            flow = self._live[key] = [packet.src, time_ms, time_ms, 0, 0, 0, 0]
            self._exact[key] = (time_us, time_us)
        side = int(packet.src != flow[0])
        flow[2] = time_ms
        flow[3 + side] += 1
        flow[5 + side] += packet.size
        self._exact[key] = (self._exact[key][0], time_us)

    def finish(self) -> dict[Key, list[Flow]]:
        """Return all flows by key."""
        for key, flow in self._live.items():
            self.flows[key].append(tuple(flow))
        self._live = {}
        return self.flows
