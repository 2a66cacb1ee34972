"""A browser fetches a page over IPv4 TCP; a second connection is reset; packets trail both ends."""

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

CLIENT, SERVER = "192.0.2.10", "198.51.100.80"
UP = Ether(src="02:00:00:00:00:10", dst="02:00:00:00:00:01") / IP(src=CLIENT, dst=SERVER, id=1)
DOWN = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:10") / IP(src=SERVER, dst=CLIENT, id=2)

REQUEST = b"GET /index.html HTTP/1.1\r\nHost: example.org\r\n\r\n"
MSS = [("MSS", 1460), ("SAckOK", b""), ("NOP", None), ("WScale", 7)]


def up(sport, flags, seq, ack=0, *, payload=b"", window=502, options=()):
    return (
        UP
        / TCP(sport=sport, dport=80, flags=flags, seq=seq, ack=ack, window=window, options=list(options))
        / Raw(payload)
    )


def down(dport, flags, seq, ack=0, *, payload=b"", window=509, options=()):
    return (
        DOWN
        / TCP(sport=80, dport=dport, flags=flags, seq=seq, ack=ack, window=window, options=list(options))
        / Raw(payload)
    )


FRAMES = [
    (0.000000, up(49152, "S", 1000, window=64240, options=MSS)),
    (0.012000, down(49152, "SA", 5000, 1001, window=65160, options=MSS)),
    (0.012150, up(49152, "A", 1001, 5001)),
    (0.013000, up(49152, "PA", 1001, 5001, payload=REQUEST)),
    (0.025000, down(49152, "A", 5001, 1048)),
    (0.031000, down(49152, "A", 5001, 1048, payload=b"h" * 1460)),
    (0.031100, down(49152, "PA", 6461, 1048, payload=b"h" * 700)),
    (0.031300, up(49152, "A", 1048, 7161)),
    (0.500000, up(49152, "FA", 1048, 7161)),
    (0.512000, down(49152, "FA", 7161, 1049)),
    (0.512100, up(49152, "A", 1049, 7162)),
    (0.600000, down(49152, "FA", 7161, 1049)),
    (1.000000, up(49153, "S", 2000, window=64240, options=MSS)),
    (1.012000, down(49153, "RA", 0, 2001, window=0)),
    (1.100000, up(49153, "R", 2001, window=0)),
    (2.000000, up(49152, "S", 9000, window=64240, options=MSS)),
]
