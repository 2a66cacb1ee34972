"""TCP, UDP and ICMP conversations seen at the device, both directions, with handshakes, acknowledgements and losses."""

from typing import Final

from testbed.traffic.scene import US_PER_S, Scene
from testbed.traffic.wire import (
    ACK,
    FIN,
    MSS_BYTES,
    PSH,
    RST,
    SYN,
    Host,
    TcpHeader,
    icmp_echo_frame,
    tcp_frame,
    udp_frame,
)

LAN_RTT_S: Final = 0.004
WAN_RTT_S: Final = 0.045
_STACK_S: Final = 0.00015
_LOSS_SHARE: Final = 0.004
_SEGMENTS_PER_ACK: Final = 2
_SYN_WINDOWS: Final = (64240, 65160)
_SCALED_WINDOW: Final = 502


def _round_trip_s(scene: Scene, client: Host, server: Host) -> float:
    """Return this conversation's round-trip time, seconds: the LAN's or the Internet's, varied."""
    base_s = WAN_RTT_S if client.outside or server.outside else LAN_RTT_S
    return base_s * scene.lognormal(1.0, 0.25, low=0.5, high=3.0)


class TcpConversation:
    """One TCP connection; every method moves its clock ``t_us`` forward.

    Parameters
    ----------
    scene
        Stage, randomness and tape.
    client, server
        The two ends; one of them is the observed device.
    dport
        The server's port.
    at_us
        Start, microseconds since the capture's start.
    """

    def __init__(self, scene: Scene, client: Host, server: Host, dport: int, at_us: int) -> None:
        self.scene = scene
        self.t_us = at_us
        self.rtt_s = _round_trip_s(scene, client, server)
        self._ends = (client, server)
        self._ports = (scene.tape.next_port(client), dport)
        self._seq = [scene.integer(0, 0xFFFFFFFF), scene.integer(0, 0xFFFFFFFF)]

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.t_us += int(seconds * US_PER_S)

    def open(self) -> "TcpConversation":
        """Shake hands."""
        self._emit(0, SYN)
        self._seq[0] += 1
        self._turn(1)
        self._emit(1, SYN | ACK)
        self._seq[1] += 1
        self._turn(0)
        self._emit(0, ACK)
        return self

    def unanswered(self, tries: int = 3) -> None:
        """Send SYNs that nobody answers, with the usual back-off of 1, 2, 4 s."""
        for attempt in range(tries):
            self._emit(0, SYN)
            self.wait(2**attempt * self.scene.uniform(0.98, 1.04))

    def half_open(self) -> None:
        """Send a SYN whose answer is never acknowledged; the server repeats its answer once."""
        self._emit(0, SYN)
        self._seq[0] += 1
        self._turn(1)
        self._emit(1, SYN | ACK)
        if self.scene.chance(0.5):
            self.wait(1.0)
            self._emit(1, SYN | ACK)

    def refused(self) -> None:
        """Send a SYN that is answered by a reset: a closed port."""
        self._emit(0, SYN)
        self._seq[0] += 1
        self._turn(1)
        self._seq[1] = 0
        self._emit(1, RST | ACK)

    def client_sends(self, payload: bytes, *, pace_s: float = 0.0004) -> None:
        """Send a payload from the client, cut into segments and acknowledged."""
        self._transfer(0, payload, pace_s)

    def server_sends(self, payload: bytes, *, pace_s: float = 0.0004) -> None:
        """Send a payload from the server, cut into segments and acknowledged."""
        self._transfer(1, payload, pace_s)

    def exchange(self, request: bytes, response: bytes, *, think_s: float = 0.003) -> None:
        """Send a request and its answer; the answer carries the acknowledgement of the request."""
        self._segment(0, request)
        self._turn(1)
        self.wait(think_s * self.scene.lognormal(1.0, 0.5, low=0.3, high=6.0))
        self._transfer(1, response, 0.0004)

    def close(self, *, by_client: bool = True) -> None:
        """Close with FINs from both ends."""
        first = 0 if by_client else 1
        self._emit(first, FIN | ACK)
        self._seq[first] += 1
        self._turn(1 - first)
        self._emit(1 - first, FIN | ACK)
        self._seq[1 - first] += 1
        self._turn(first)
        self._emit(first, ACK)

    def reset(self, *, by_client: bool = True) -> None:
        """End abruptly with a reset."""
        self._emit(0 if by_client else 1, RST | ACK)

    def _transfer(self, sender: int, payload: bytes, pace_s: float) -> None:
        """Send segments of at most one MSS; the other end acknowledges every second one and the last."""
        unacked = 0
        for offset in range(0, len(payload), MSS_BYTES):
            self._segment(sender, payload[offset : offset + MSS_BYTES])
            unacked += 1
            if unacked == _SEGMENTS_PER_ACK or offset + MSS_BYTES >= len(payload):
                self._turn(1 - sender)
                self._emit(1 - sender, ACK)
                unacked = 0
            self.wait(pace_s * self.scene.lognormal(1.0, 0.6, low=0.2, high=8.0))

    def _segment(self, sender: int, payload: bytes) -> None:
        """Send one segment; now and then it is lost behind the tap and sent again."""
        self._emit(sender, PSH | ACK, payload)
        if self.scene.chance(_LOSS_SHARE):
            self.wait(0.2 + self.rtt_s * self.scene.uniform(1.0, 2.0))
            self._emit(sender, PSH | ACK, payload)
        self._seq[sender] += len(payload)

    def _turn(self, responder: int) -> None:
        """Wait for the next packet of one end: its own stack at the tap, a round trip when it is far away."""
        if self._ends[responder] == self.scene.device:
            self.wait(self.scene.lognormal(_STACK_S, 0.4, low=0.2 * _STACK_S, high=20 * _STACK_S))
        else:
            self.wait(self.rtt_s * self.scene.lognormal(1.0, 0.2, low=0.5, high=4.0))

    def _emit(self, sender: int, flags: int, payload: bytes = b"") -> None:
        source, target = self._ends[sender], self._ends[1 - sender]
        header = TcpHeader(
            sport=self._ports[sender],
            dport=self._ports[1 - sender],
            seq=self._seq[sender],
            ack=self._seq[1 - sender] if flags & ACK else 0,
            flags=flags,
            window=0 if flags & RST else _SYN_WINDOWS[sender] if flags & SYN else _SCALED_WINDOW,
        )
        tape = self.scene.tape
        tape.add(self.t_us, tcp_frame(source, target, header, tape.next_ident(source), payload))
        self.t_us += 5


class UdpConversation:
    """One UDP five-tuple; every method moves its clock ``t_us`` forward.

    Parameters
    ----------
    scene
        Stage, randomness and tape.
    client, server
        The two ends; one of them is the observed device.
    dport
        The server's port.
    at_us
        Start, microseconds since the capture's start.
    sport
        The client's port; None takes the next ephemeral one.
    """

    def __init__(
        self, scene: Scene, client: Host, server: Host, dport: int, at_us: int, *, sport: int | None = None
    ) -> None:
        self.scene = scene
        self.t_us = at_us
        self._ends = (client, server)
        self._ports = (sport if sport is not None else scene.tape.next_port(client), dport)
        self.rtt_s = _round_trip_s(scene, client, server)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.t_us += int(seconds * US_PER_S)

    def client_sends(self, payload: bytes) -> None:
        """Send one datagram from the client."""
        self._emit(0, payload)

    def server_sends(self, payload: bytes) -> None:
        """Send one datagram from the server."""
        self._emit(1, payload)

    def exchange(self, request: bytes, response: bytes) -> None:
        """Send a request and, one round trip later, its answer."""
        self._emit(0, request)
        self.wait(self.rtt_s * self.scene.lognormal(1.0, 0.3, low=0.5, high=5.0))
        self._emit(1, response)

    def _emit(self, sender: int, payload: bytes) -> None:
        source, target = self._ends[sender], self._ends[1 - sender]
        ports = (self._ports[sender], self._ports[1 - sender])
        tape = self.scene.tape
        tape.add(self.t_us, udp_frame(source, target, ports, tape.next_ident(source), payload))
        self.t_us += 3


def ping(scene: Scene, client: Host, server: Host, at_us: int, *, count: int = 2) -> None:
    """Send ICMP echo requests one second apart and their replies."""
    tape = scene.tape
    body = bytes(range(0x10, 0x38))
    for sequence in range(1, count + 1):
        tape.add(at_us, icmp_echo_frame(client, server, sequence, tape.next_ident(client), body, reply=False))
        back_us = at_us + int(LAN_RTT_S * US_PER_S * scene.uniform(0.2, 1.0))
        tape.add(back_us, icmp_echo_frame(server, client, sequence, tape.next_ident(server), body, reply=True))
        at_us += int(US_PER_S * scene.uniform(1.0, 1.002))
