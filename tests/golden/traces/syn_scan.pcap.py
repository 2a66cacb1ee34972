"""One host probes 40 addresses for telnet and one address for 40 ports; a few answer, most do not."""

from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import ARP, Ether

SCANNER = "10.20.0.66"
FRAMES = []


def probe(dst, dport, sport):
    ether = Ether(src="02:00:00:00:00:66", dst="02:00:00:00:00:01")
    return ether / IP(src=SCANNER, dst=dst, id=54321) / TCP(sport=sport, dport=dport, flags="S", seq=dport, window=1024)


def answer(src, sport, dport, flags):
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:66")
    return (
        ether
        / IP(src=src, dst=SCANNER, id=0)
        / TCP(sport=sport, dport=dport, flags=flags, seq=9, ack=dport + 1, window=0)
    )


for i in range(40):
    at = 100.0 + i * 0.02
    target = f"10.20.1.{i + 1}"
    FRAMES.append((at, probe(target, 23, 40000 + i)))
    if i % 8 == 3:
        FRAMES.append((at + 0.004, answer(target, 23, 40000 + i, "SA")))
        FRAMES.append(
            (
                at + 0.0045,
                Ether(src="02:00:00:00:00:66", dst="02:00:00:00:00:01")
                / IP(src=SCANNER, dst=target, id=0)
                / TCP(sport=40000 + i, dport=23, flags="R", seq=24, window=0),
            )
        )
    elif i % 8 == 5:
        FRAMES.append((at + 0.004, answer(target, 23, 40000 + i, "RA")))
    elif i % 8 == 6:
        unreachable = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:66") / IP(src="10.20.0.1", dst=SCANNER, id=7)
        FRAMES.append((at + 0.003, unreachable / ICMP(type=3, code=1) / bytes(probe(target, 23, 40000 + i)[IP])[:28]))
FRAMES += [(112.0 + i * 0.01, probe("10.20.1.7", 1000 + i, 50000)) for i in range(40)]
FRAMES.append(
    (
        113.0,
        Ether(src="02:00:00:00:00:66", dst="ff:ff:ff:ff:ff:ff")
        / ARP(psrc=SCANNER, pdst="10.20.1.99", hwsrc="02:00:00:00:00:66"),
    )
)
FRAMES.sort(key=lambda timed: timed[0])
