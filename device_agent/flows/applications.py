"""Which packets are worth a look at their payload, and how many a second may have one.

A packet is *selected* if it is TCP or UDP with a port of ``PORTS``, carries payload of which at least one byte was
captured, and, on a port of TLS, begins with the byte of a handshake record. Headers decide, so that the choice costs
next to nothing. What a selected payload says is found out by a ``Dissector``, which costs thousands of times as much:
only the first ``per_s`` selected packets in each second of the packet clock get there, the others are counted. That
depends on the packets and their order alone, so records do not depend on how the packets are cut into batches.
"""

from collections.abc import Callable
from enum import IntEnum, unique
from typing import Protocol

import numpy as np
import numpy.typing as npt

from contract.features import APPLICATIONS
from device_agent.flows.packets import TCP, UDP, Packet

N_APPLICATIONS = len(APPLICATIONS)
MAX_PAYLOAD = 512
"""Bytes of a payload that are looked at: what is asked for is near the beginning, and time is bounded by it."""

_SECOND_US = 1_000_000


@unique
class Kind(IntEnum):
    """What a selected payload claims to be, by its ports."""

    MQTT = 1
    COAP = 2
    DNS = 3
    MDNS = 4
    SSDP = 5
    DHCP = 6
    DHCP6 = 7
    TLS = 8


PORTS: dict[tuple[int, int], Kind] = {
    (TCP, 1883): Kind.MQTT,
    (UDP, 53): Kind.DNS,
    (UDP, 67): Kind.DHCP,
    (UDP, 68): Kind.DHCP,
    (UDP, 546): Kind.DHCP6,
    (UDP, 547): Kind.DHCP6,
    (UDP, 1900): Kind.SSDP,
    (UDP, 5353): Kind.MDNS,
    (UDP, 5683): Kind.COAP,
    **{(TCP, port): Kind.TLS for port in (443, 465, 853, 993, 8443, 8883)},
}
"""Protocol and port to kind. Of two ports the larger kind counts, whichever side has it."""
HANDSHAKE_RECORD = 0x16
"""First byte of a TLS record with handshake messages."""


def _kinds() -> npt.NDArray[np.uint8]:
    kinds = np.zeros((2, 1 << 16), dtype=np.uint8)
    for (proto, port), kind in PORTS.items():
        kinds[int(proto == TCP), port] = kind
    kinds.flags.writeable = False
    return kinds


KINDS = _kinds()
"""Kind by whether it is TCP and by port, uint8, shape ``(2, 65536)``; 0 for none."""


HEADS: dict[Kind, tuple[int, int]] = {
    Kind.COAP: (0, 4),
    Kind.DNS: (2, 12),
    Kind.MDNS: (2, 12),
    Kind.SSDP: (0, 19),
    Kind.DHCP6: (0, 4),
    Kind.TLS: (0, 6),
}
"""Kinds whose head is bytes at one place, from the first to the one behind the last: see ``Dissector``."""
_REMEMBERED = 1_024
_MALFORMED, _NEW = -1, -2


class Dissector(Protocol):
    """Reads application payloads; ``device_agent.capture.applications`` has one.

    Attributes
    ----------
    by_head
        Whether it says the same of payloads with the same head, as ``flows/fast/heads.c`` takes it (never more than
        the bytes of ``HEADS``): then the meters remember what it says.
    """

    by_head: bool

    def dissect(self, kind: Kind, payload: bytes) -> int | None:
        """Return what a payload is: bit ``i`` for ``APPLICATIONS[i]``; None if it is not what it claims to be.

        Never raises, whatever the bytes; they may be cut short.
        """


def bits_of(*names: str) -> int:
    """Return the bits of some of ``APPLICATIONS``."""
    order = [name for name, _ in APPLICATIONS]
    return sum(1 << order.index(name) for name in names)


def payload_of(packet: Packet, frame: bytes) -> tuple[Kind, bytes] | None:
    """Return kind and captured payload of a selected packet; None for any other."""
    if not packet.payload_len:
        return None
    by_port = KINDS[int(packet.proto == TCP)]
    kind = max(by_port[packet.src_port], by_port[packet.dst_port])
    if not kind:
        return None
    start = packet.payload_at
    payload = frame[start : start + min(packet.payload_len, MAX_PAYLOAD)]
    if not payload or (kind == Kind.TLS and payload[0] != HANDSHAKE_RECORD):
        return None
    return Kind(kind), payload


class Applications:
    """A dissector within its budget.

    Parameters
    ----------
    dissector
        None: nothing is selected.
    per_s
        Selected packets dissected in a second of the packet clock, >= 0.

    Attributes
    ----------
    dissected, skipped, malformed
        Selected packets that were dissected, that were not for lack of budget, and dissected ones that were not what
        their port promised.
    heads
        Kinds of which heads are remembered, and where they lie.
    """

    def __init__(self, dissector: Dissector | None, per_s: int) -> None:
        self._dissector = dissector if per_s else None
        self.per_s = per_s
        by_head = dissector is not None and dissector.by_head
        self.heads = HEADS if by_head else {}
        self._known: dict[Kind, dict[bytes, int]] = {kind: {} for kind in self.heads}
        self._second = -1
        self._left = 0
        self.dissected = 0
        self.skipped = 0
        self.malformed = 0

    @property
    def on(self) -> bool:
        """Whether packets are selected at all."""
        return self._dissector is not None

    def read(self, packet: Packet, frame: bytes, clock_us: int) -> int:
        """Return what a packet is, within the budget: see ``Dissector.dissect``; 0 for nothing known.

        Parameters
        ----------
        packet, frame
            Its headers, and the bytes they were parsed from.
        clock_us
            Packet clock at the packet, microseconds.
        """
        if self._dissector is None:
            return 0
        selected = payload_of(packet, frame)
        if selected is None or not self.take(clock_us // _SECOND_US, 1):
            return 0
        return self.dissect(*selected)

    def take(self, second: int, n: int) -> int:
        """Return how many of ``n`` selected packets of a second of the packet clock may be dissected: the first ones.

        Another second than the last one asked about has the whole budget, also an earlier one: the clock was set back.
        """
        if second != self._second:
            self._second, self._left = second, self.per_s
        taken = min(n, self._left)
        self._left -= taken
        self.skipped += n - taken
        return taken

    def dissect_heads(self, kind: Kind, heads: list[bytes], payload: Callable[[int], bytes]) -> list[int]:
        """Return what payloads of one of the kinds of ``heads`` are, as ``dissect``; known heads are not read again.

        Parameters
        ----------
        kind
            Of all of them.
        heads
            Their heads, none of them cut short.
        payload
            Gives a payload by its number.
        """
        known, bits = self._known[kind], []
        for number, head in enumerate(heads):
            found = known.get(head, _NEW)
            if found == _NEW:
                malformed = self.malformed
                found = self.dissect(kind, payload(number))
                self.dissected -= 1
                if self.malformed > malformed:
                    self.malformed, found = malformed, _MALFORMED
                if len(known) >= _REMEMBERED:
                    known.clear()
                known[head] = found
            bits.append(found)
        self.dissected += len(heads)
        n_malformed = bits.count(_MALFORMED)
        if n_malformed:
            self.malformed += n_malformed
            bits = [max(found, 0) for found in bits]
        return bits

    def dissect(self, kind: Kind, payload: bytes) -> int:
        """Return what a payload is, outside the budget; something else than it claims is nothing, and counted."""
        if self._dissector is None:
            return 0
        self.dissected += 1
        bits = self._dissector.dissect(kind, payload)
        if bits is None:
            self.malformed += 1
            return 0
        return bits
