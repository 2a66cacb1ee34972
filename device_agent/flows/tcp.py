"""What a TCP flow's headers say: handshake, end, retransmissions, whether a SYN belongs to another connection."""

from device_agent.flows.packets import ACK, FIN, RST, SYN, Packet

_SYN_SEEN, _SYN_ACK_SEEN, _DONE = 1, 2, 3
_MASK, _HALF = (1 << 32) - 1, 1 << 31


class TcpState:
    """Handshake and end of one TCP connection, from its flags.

    A connection ends with a RST of either side, or with the ACK that answers the second of two FINs (one a side).

    Attributes
    ----------
    handshake
        How far the handshake went; see ``established``.
    """

    __slots__ = ("_fin_bwd", "_fin_fwd", "_isn", "_last_fin_forward", "_only_syn", "_tops", "handshake")

    def __init__(self) -> None:
        self.handshake = 0
        self._isn: int | None = None
        self._only_syn = True
        self._fin_fwd = False
        self._fin_bwd = False
        self._last_fin_forward = False
        self._tops: list[int | None] = [None, None]

    @property
    def established(self) -> bool:
        """Whether SYN, SYN-ACK and ACK were seen, in this order."""
        return self.handshake == _DONE

    def starts_anew(self, flags: int, seq: int) -> bool:
        """Whether this packet opens another connection between the same endpoints.

        It is a SYN of another sequence number than the one that opened this connection, after anything but SYNs was
        seen here. A repeated SYN, with or without a new number, is the same attempt as long as nobody answered.
        """
        return flags & (SYN | ACK) == SYN and not self._only_syn and seq != self._isn

    def repeats(self, packet: Packet, *, forward: bool) -> bool:
        """Take in where a segment's payload ends; return whether it is a retransmission.

        The payload of a segment ends at its sequence number plus its length, plus one with SYN, which counts as one
        byte before the payload. It is a retransmission if an earlier segment with payload went the same way and this
        end is not beyond the highest one so far: ``(end - highest) mod 2**32`` is 0 or at least ``2**31``. Otherwise
        this end is the highest from now on. Segments without payload do not matter. So a keep-alive probe that repeats
        a byte counts, a segment that brings at least one new byte does not, and one that fills a gap left by a lost or
        reordered segment counts: nothing here remembers gaps.
        """
        if not (packet.has_tcp and packet.payload_len):
            return False
        end = packet.seq + packet.payload_len + (packet.tcp_flags & SYN != 0) & _MASK
        top = self._tops[forward]
        if top is not None and not 0 < (end - top & _MASK) < _HALF:
            return True
        self._tops[forward] = end
        return False

    def note(self, flags: int, seq: int, *, forward: bool) -> bool:
        """Take in one packet's flags; return whether the connection ended with it."""
        if flags & SYN:
            if flags & ACK:
                self._only_syn = False
                if not forward and self.handshake == _SYN_SEEN:
                    self.handshake = _SYN_ACK_SEEN
            elif forward:
                self._isn = seq
                self.handshake = max(self.handshake, _SYN_SEEN)
        else:
            self._only_syn = False
            if flags & ACK and forward and self.handshake == _SYN_ACK_SEEN:
                self.handshake = _DONE
        if flags & RST:
            return True
        if flags & FIN:
            if not (self._fin_fwd and self._fin_bwd):
                self._last_fin_forward = forward
            if forward:
                self._fin_fwd = True
            else:
                self._fin_bwd = True
            return False
        return bool(flags & ACK) and self._fin_fwd and self._fin_bwd and forward != self._last_fin_forward
