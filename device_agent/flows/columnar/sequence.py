"""Where flows begin and end among the packets of one key, packet by packet.

The array path of ``cut.py`` settles the keys whose packets meet at most one end. What is left (another connection on
the same ports, trailing packets, times out of order) is walked here, by the rules of the per-packet meter.
"""

from dataclasses import dataclass, field

from device_agent.flows.packets import ACK, FIN, RST, SYN
from device_agent.flows.records import EndReason

GOES_ON, OPENS, NEXT_PART, DROPPED = 0, 1, 2, 3
"""What a packet does: continues its flow, opens one, begins the next part of it, or trails a TCP end."""
NO_REASON = -1

TRAILING_US = 5_000_000
"""For so long after a TCP end, packets other than a SYN are trailing ones."""


@dataclass(slots=True)
class KeyState:
    """What is known of a key before its packets: a flow if ``live``, a TCP end if ``ended_us >= 0``."""

    live: bool
    first_us: int
    last_us: int
    has_tcp: bool
    answered: bool
    isn: int
    fin_forward: bool
    fin_backward: bool
    closed_forward: bool
    swapped: bool
    ended_us: int


@dataclass(slots=True)
class Walk:
    """What the packets of a key do, one entry a packet.

    Attributes
    ----------
    time_us
        Times that never go back within a flow.
    does
        ``GOES_ON``, ``OPENS``, ``NEXT_PART`` or ``DROPPED``.
    before
        Why the flow, or its part, before this packet was closed by it; ``NO_REASON`` if none was.
    after
        Why the flow was closed after this packet, if no packet that entered a flow followed; else ``NO_REASON``.
    forgets
        Whether the packet makes an end of an earlier TCP end.
    stored
        Why the flow known before was closed, if none of the packets entered it or followed it.
    """

    time_us: list[int]
    does: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    forgets: list[bool] = field(default_factory=list)
    stored: int = NO_REASON


def walk(  # noqa: C901, PLR0912, PLR0915 -- one rule after the other, in the order in which the meter asks them
    times: list[int],
    flags: list[int],
    seqs: list[int],
    swapped: list[bool],
    has_tcp: list[bool],
    *,
    symmetric: bool,
    state: KeyState,
    idle_us: int,
    active_us: int,
) -> Walk:
    """Walk the packets of a key; ``state`` is changed to what holds after them."""
    out = Walk(time_us=times)
    live, first, last, ended = state.live, state.first_us, state.last_us, state.ended_us
    tcp, answered, isn, forward_is = state.has_tcp, state.answered, state.isn, state.swapped
    fin_forward, fin_backward, closed_forward = state.fin_forward, state.fin_backward, state.closed_forward
    kept = -1
    for i, flag in enumerate(flags):
        time_us, does, before, after, forgets = times[i], GOES_ON, NO_REASON, NO_REASON, False
        opens_tcp = flag & (SYN | ACK) == SYN
        if live:
            time_us = max(time_us, last)
            if time_us - last >= idle_us:
                live, before = False, EndReason.IDLE
            elif tcp and opens_tcp and answered and seqs[i] != isn:
                live, before = False, EndReason.TCP_END
            elif time_us - first >= active_us:
                does, before, first = NEXT_PART, EndReason.ACTIVE, time_us
        if not live:
            if has_tcp[i] and ended >= 0:
                if opens_tcp or time_us - ended >= TRAILING_US:
                    ended, forgets = -1, True
                else:
                    does = DROPPED
            if does != DROPPED:
                live, does, first, tcp = True, OPENS, time_us, has_tcp[i]
                answered, isn, fin_forward, fin_backward = False, -1, False, False
                forward_is = swapped[i] ^ (flag & (SYN | ACK) == SYN | ACK and not symmetric)
        if does != DROPPED:
            last = time_us
            forward = swapped[i] == forward_is or symmetric
            ends = False
            if tcp:
                if not opens_tcp:
                    answered = True
                elif forward:
                    isn = seqs[i]
                if flag & RST:
                    ends = True
                elif flag & FIN:
                    if not (fin_forward and fin_backward):
                        closed_forward = forward
                    fin_forward |= forward
                    fin_backward |= not forward
                else:
                    ends = bool(flag & ACK) and fin_forward and fin_backward and forward != closed_forward
            if ends:
                forgets |= ended >= 0
                live, after, ended = False, EndReason.TCP_END, time_us
        elif before != NO_REASON:
            if kept < 0:
                out.stored = before
            else:
                out.after[kept] = before
            before = NO_REASON
        times[i] = time_us
        out.does.append(does)
        out.before.append(before)
        out.after.append(after)
        out.forgets.append(forgets)
        if does != DROPPED:
            kept = i
    state.live, state.ended_us = live, ended
    return out
