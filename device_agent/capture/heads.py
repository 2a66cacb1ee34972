"""Heads of application messages in fields of Scapy.

Scapy's own layers say the same of these bytes, and a test holds both side by side. Importing them loads all of IP,
IPv6, routing and sending with them: 5 MB on every device, for the four heads below.

What Scapy has no default for has none here: a head that is cut short before such a field is no head.
"""

from functools import lru_cache

from device_agent.capture import scapy_setup  # noqa: F401  # isort: skip - before any other module of Scapy

from scapy.fields import BitField, ByteField, Field, ShortField
from scapy.packet import Packet

_REMEMBERED = 1_024
"""Heads of a kind; those asked for longest ago go."""
_MOST_LENGTH_BYTES = 4


class _RemainingLength(Field[int, bytes]):  # type: ignore[misc]  # Scapy has no types for mypy
    """MQTT's length of what follows: seven bits a byte, the lowest first, one to four bytes."""

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, int]:  # noqa: ARG002 - Scapy's signature
        value = 0
        for at, byte in enumerate(s[:_MOST_LENGTH_BYTES]):
            value |= (byte & 127) << 7 * at
            if byte < 128:
                return s[at + 1 :], value
        raise ValueError("the length does not end")


class MqttHead(Packet):  # type: ignore[misc]  # Scapy has no types for mypy
    """The fixed header."""

    name = "MqttHead"
    fields_desc = [  # noqa: RUF012 - Scapy wants a list
        BitField("type", 1, 4),
        BitField("DUP", 0, 1),
        BitField("QOS", 0, 2),
        BitField("RETAIN", 0, 1),
        _RemainingLength("len", None, "B"),
    ]


class CoapHead(Packet):  # type: ignore[misc]  # Scapy has no types for mypy
    """The first two bytes."""

    name = "CoapHead"
    fields_desc = [BitField("ver", 1, 2), BitField("type", 0, 2), BitField("tkl", None, 4), ByteField("code", 0)]  # noqa: RUF012


class DnsHead(Packet):  # type: ignore[misc]  # Scapy has no types for mypy
    """Flags and numbers of records: the header behind the message number."""

    name = "DnsHead"
    fields_desc = [  # noqa: RUF012 - Scapy wants a list
        BitField("qr", 0, 1),
        BitField("opcode", 0, 4),
        BitField("aa", 0, 1),
        BitField("tc", 0, 1),
        BitField("rd", 1, 1),
        BitField("ra", 0, 1),
        BitField("z", 0, 1),
        BitField("ad", 0, 1),
        BitField("cd", 0, 1),
        BitField("rcode", 0, 4),
        ShortField("qdcount", None),
        ShortField("ancount", None),
        ShortField("nscount", None),
        ShortField("arcount", None),
    ]


class BootpHead(Packet):  # type: ignore[misc]  # Scapy has no types for mypy
    """The first four bytes of BOOTP and DHCP."""

    name = "BootpHead"
    fields_desc = [ByteField("op", 1), ByteField("htype", 1), ByteField("hlen", 6), ByteField("hops", 0)]  # noqa: RUF012


class Head:
    """Reads a head, and remembers what it read.

    Parameters
    ----------
    layer
        The head.
    names
        Fields that are asked for, in their order.
    """

    def __init__(self, layer: type[Packet], names: tuple[str, ...]) -> None:
        self._layer = layer
        self._names = names
        self.read = lru_cache(_REMEMBERED)(self._read)

    def _read(self, head: bytes) -> tuple[tuple[int, ...], int]:
        """Return the values of the fields, and how many of the bytes they take.

        Raises
        ------
        Exception
            Whatever Scapy raises, if the bytes are too few or of no such layer.
        """
        packet = self._layer(head)
        values = tuple(int(packet.getfieldval(name)) for name in self._names)
        return values, len(head) - len(packet.payload)
