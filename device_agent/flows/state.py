"""State of one live flow and the feature row it becomes.

Every number is kept as an exact integer (counts, bytes, microseconds, sums of squares), so a mean or a standard
deviation suffers no cancellation and does not depend on the order of additions. The state does not grow with the flow.
"""

from math import sqrt

from contract.features import APPLICATIONS, N_FEATURES
from device_agent.flows.packets import ICMP, ICMPV6, TCP, UDP, Packet
from device_agent.flows.tcp import TcpState
from device_agent.flows.windows import Opened

_FLAG_BITS = (0x02, 0x10, 0x01, 0x04, 0x08, 0x20)
"""SYN, ACK, FIN, RST, PSH, URG: the order of the schema."""
_LANE_BITS = 40
_LANE_MASK = (1 << _LANE_BITS) - 1
_LANES = tuple(
    sum(1 << (_LANE_BITS * lane) for lane, bit in enumerate(_FLAG_BITS) if flags & bit) for flags in range(64)
)
"""Flag byte to six counters side by side in one integer: one addition counts all flags of a packet."""

_SECOND_US = 1_000_000


class Gaps:
    """Gaps between packets, microseconds: count and sum follow from first and last time."""

    __slots__ = ("max", "min", "squares")

    def __init__(self) -> None:
        self.min = 0
        self.max = 0
        self.squares = 0

    def add(self, gap_us: int, *, first: bool) -> None:
        """Note a gap; ``first`` if it is the first one."""
        if first:
            self.min = self.max = gap_us
        elif gap_us > self.max:
            self.max = gap_us
        elif gap_us < self.min:
            self.min = gap_us
        self.squares += gap_us * gap_us


class Side:
    """One direction of a flow."""

    __slots__ = (
        "bytes",
        "first_us",
        "flags",
        "gaps",
        "last_us",
        "len_max",
        "len_min",
        "len_squares",
        "payload_bytes",
        "payload_pkts",
        "pkts",
        "retransmitted",
    )

    def __init__(self) -> None:
        self.pkts = 0
        self.bytes = 0
        self.payload_bytes = 0
        self.payload_pkts = 0
        self.first_us = 0
        self.last_us = 0
        self.len_min = 0
        self.len_max = 0
        self.len_squares = 0
        self.flags = 0
        self.retransmitted = 0
        self.gaps = Gaps()

    def add(self, packet: Packet, time_us: int) -> None:
        """Count one packet."""
        length = packet.ip_len
        if self.pkts:
            self.gaps.add(time_us - self.last_us, first=self.pkts == 1)
            if length > self.len_max:
                self.len_max = length
            elif length < self.len_min:
                self.len_min = length
        else:
            self.first_us = time_us
            self.len_min = self.len_max = length
        self.last_us = time_us
        self.pkts += 1
        self.bytes += length
        self.len_squares += length * length
        if packet.payload_len:
            self.payload_bytes += packet.payload_len
            self.payload_pkts += 1
        self.flags += _LANES[packet.tcp_flags]


class Flow:
    """One live flow, or one part of it.

    Attributes
    ----------
    src, dst, src_port, dst_port
        Endpoints, the initiator first.
    applications
        Packets by what application dissection told of them, in the order of ``contract.features.APPLICATIONS``.
    opened
        ``initiator_*`` features from the opening of the flow.
    number
        Which opened flow it is.
    answered
        Whether a packet other than a RST came back.
    init_win_fwd, init_win_bwd
        Window of the first TCP packet of each side; -1 before it. A later part has those of the connection.
    part_index
        0 for the first part.
    early
        Whether the flow's early record was given.
    """

    __slots__ = (
        "answered",
        "applications",
        "bwd",
        "dst",
        "dst_port",
        "early",
        "first_us",
        "fwd",
        "gaps",
        "init_win_bwd",
        "init_win_fwd",
        "last_us",
        "number",
        "opened",
        "part_index",
        "proto",
        "src",
        "src_port",
        "tcp",
        "vlan",
    )

    def __init__(self, packet: Packet, time_us: int, opened: Opened, number: int, *, reverse: bool) -> None:
        self.src, self.dst = (packet.dst, packet.src) if reverse else (packet.src, packet.dst)
        self.src_port, self.dst_port = (
            (packet.dst_port, packet.src_port) if reverse else (packet.src_port, packet.dst_port)
        )
        self.proto = packet.proto
        self.vlan = packet.vlan
        self.opened = opened
        self.number = number
        self.answered = False
        self.tcp = TcpState() if packet.has_tcp else None
        self.init_win_fwd = -1
        self.init_win_bwd = -1
        self.part_index = 0
        self.early = False
        self._begin(time_us)

    def _begin(self, time_us: int) -> None:
        self.first_us = time_us
        self.last_us = time_us
        self.fwd = Side()
        self.bwd = Side()
        self.gaps = Gaps()
        self.applications = [0] * len(APPLICATIONS)

    def next_part(self, time_us: int) -> None:
        """Begin the next part: counters start again; endpoints, TCP state and what the opening told stay."""
        self.part_index = min(self.part_index + 1, 0xFFFF)
        self._begin(time_us)

    def tell(self, bits: int) -> None:
        """Count what dissection told of a packet, see ``applications.bits_of``."""
        if bits:
            for number in range(len(self.applications)):
                self.applications[number] += bits >> number & 1

    def is_forward(self, packet: Packet) -> bool:
        """Whether the packet comes from the initiator."""
        return packet.src_port == self.src_port and packet.src == self.src

    def add(self, packet: Packet, time_us: int, *, forward: bool) -> bool:
        """Count one packet at ``time_us`` (not before ``last_us``); return whether TCP ended with it."""
        fwd, bwd = self.fwd, self.bwd
        before = fwd.pkts + bwd.pkts
        if before:
            self.gaps.add(time_us - self.last_us, first=before == 1)
        self.last_us = time_us
        side = fwd if forward else bwd
        side.add(packet, time_us)
        tcp = self.tcp
        if tcp is None:
            return False
        if forward:
            if self.init_win_fwd < 0:
                self.init_win_fwd = packet.window
        elif self.init_win_bwd < 0:
            self.init_win_bwd = packet.window
        side.retransmitted += tcp.repeats(packet, forward=forward)
        return tcp.note(packet.tcp_flags, packet.seq, forward=forward)


def feature_row(flow: Flow) -> list[float]:
    """Return the features of a flow in the order of the schema, raw units."""
    fwd, bwd = flow.fwd, flow.bwd
    pkts, size = fwd.pkts + bwd.pkts, fwd.bytes + bwd.bytes
    duration_us = flow.last_us - flow.first_us
    per_second = _SECOND_US / max(duration_us, 1)
    len_min = min(side.len_min for side in (fwd, bwd) if side.pkts)
    row: list[float] = [
        flow.proto == TCP,
        flow.proto == UDP,
        flow.proto in (ICMP, ICMPV6),
        fwd.pkts,
        bwd.pkts,
        fwd.bytes,
        bwd.bytes,
        fwd.payload_bytes,
        bwd.payload_bytes,
        fwd.payload_pkts,
        bwd.payload_pkts,
        duration_us / _SECOND_US,
        (fwd.last_us - fwd.first_us) / _SECOND_US,
        (bwd.last_us - bwd.first_us) / _SECOND_US,
        size * per_second,
        pkts * per_second,
        fwd.bytes * per_second,
        bwd.bytes * per_second,
        bwd.pkts / fwd.pkts if fwd.pkts else 0.0,
        len_min,
        max(fwd.len_max, bwd.len_max),
        size / pkts,
        _deviation(pkts, size, fwd.len_squares + bwd.len_squares),
    ]
    for side in (fwd, bwd):
        mean = side.bytes / side.pkts if side.pkts else 0.0
        row += (side.len_min, side.len_max, mean, _deviation(side.pkts, side.bytes, side.len_squares))
    row += _gap_features(pkts - 1, duration_us, flow.gaps)
    for side in (fwd, bwd):
        row += _gap_features(side.pkts - 1, side.last_us - side.first_us, side.gaps)
    for side in (fwd, bwd):
        row += [(side.flags >> (_LANE_BITS * lane)) & _LANE_MASK for lane in range(len(_FLAG_BITS))]
    row += (
        max(flow.init_win_fwd, 0),
        max(flow.init_win_bwd, 0),
        flow.tcp is not None and flow.tcp.established,
        fwd.retransmitted,
        bwd.retransmitted,
        *flow.applications,
        *flow.opened,
    )
    if len(row) != N_FEATURES:
        raise AssertionError(f"{len(row)} values for {N_FEATURES} features")
    return row


def _gap_features(count: int, total_us: int, gaps: Gaps) -> tuple[float, float, float, float]:
    """Return min, max, mean and standard deviation of ``count`` gaps in seconds."""
    if count < 1:
        return 0.0, 0.0, 0.0, 0.0
    return (
        gaps.min / _SECOND_US,
        gaps.max / _SECOND_US,
        total_us / count / _SECOND_US,
        _deviation(count, total_us, gaps.squares) / _SECOND_US,
    )


def _deviation(count: int, total: int, squares: int) -> float:
    """Sample standard deviation from exact sums; 0 for fewer than two values."""
    if count < 2:
        return 0.0
    return sqrt((count * squares - total * total) / (count * (count - 1)))
