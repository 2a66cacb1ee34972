"""What TCP flags say about flows of a batch: first windows, handshakes, FINs, at the end of each part."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar import state as st
from device_agent.flows.columnar.parts import Parts, Sorted
from device_agent.flows.packets import ACK, FIN, SYN

Index = npt.NDArray[np.intp]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_FAR = np.int64(1 << 62)


def fold_windows(flows: npt.NDArray[np.void], given: Sorted, firsts: tuple[Index, Index, Index]) -> None:
    """Fill the first TCP window of each direction; a later part has those of its flow.

    ``firsts``: the parts and directions with packets, and where in ``parts.at`` the first packet of each is.
    """
    parts, packets, old = given.parts, given.packets, given.old
    part, side, at = firsts
    head = parts.place[parts.begin[parts.first_part]]
    has_tcp = np.where(parts.opened, packets.has_tcp[head], (old["tcp"] & st.HAS_TCP) != 0)
    flows["tcp"] = np.where(has_tcp, st.HAS_TCP, 0)[parts.flow]
    flows["window"][part, side] = np.where(
        has_tcp[parts.flow[part]], packets.window[parts.place[at]].astype(np.int32), -1
    )
    first = parts.first_part
    known = ~parts.opened[:, None] & (old["window"] >= 0)
    flows["window"][first] = np.where(known, old["window"], flows["window"][first])
    if len(first) < len(flows):
        is_later = np.ones(len(flows), dtype=np.bool_)
        is_later[first] = False
        for later in is_later.nonzero()[0]:
            before = flows["window"][later - 1]
            flows["window"][later] = np.where(before >= 0, before, flows["window"][later])


def fold_tcp(flows: npt.NDArray[np.void], given: Sorted) -> None:
    """Fill handshake, FINs and sequence numbers as they stand at the end of each part."""
    parts, forward, flags, old = given.parts, given.forward, given.flags, given.old
    is_tcp = flows["tcp"] != 0
    if not is_tcp.any():
        return
    bits: npt.NDArray[np.uint8] = (old["tcp"] * ~parts.opened) & np.uint8(0xFF & ~st.HAS_TCP)
    sizes = parts.end - parts.begin
    special = ((flags & (SYN | FIN)) != 0) & np.repeat(is_tcp, sizes)
    at = special.nonzero()[0]
    state: npt.NDArray[np.uint8] = (bits & np.uint8(0xFF & ~st.HANDSHAKE) | np.uint8(st.ANSWERED))[parts.flow]
    handshake: npt.NDArray[np.uint8] = (bits & np.uint8(st.HANDSHAKE))[parts.flow]
    isn = np.where(parts.opened, -1, old["isn"])
    if len(at):
        few = _Few(at, parts.flow[np.searchsorted(parts.begin, at, side="right") - 1], flags[at], forward[at], bits)
        state = few.fins(state, parts)
        lone = (few.flags & (SYN | ACK)) == SYN
        n_lone = np.bincount(few.flow[lone], minlength=len(bits))
        n_all = np.add.reduceat(sizes, parts.first_part)
        silent = (n_lone == n_all) & ((bits & st.ANSWERED) == 0)
        state[silent[parts.flow]] &= np.uint8(0xFF & ~st.ANSWERED)
        handshake = few.handshake(given)
        sent = lone & few.forward
        isn[few.flow[sent]] = given.packets.seq[parts.place[at[sent]]]
    elif (((handshake == 1) | (handshake == 2)) & is_tcp).any():
        nothing = np.zeros(0, dtype=np.intp)
        few = _Few(nothing, nothing, flags[:0], forward[:0], bits)
        handshake = few.handshake(given)
    flows["tcp"] = np.where(is_tcp, state | handshake | st.HAS_TCP, 0)
    flows["isn"] = isn[parts.flow]


@dataclass(slots=True, eq=False)
class _Few:
    """The packets with SYN or FIN of TCP flows; ``bits`` are the states of the flows before them."""

    at: Index
    flow: Index
    flags: npt.NDArray[np.uint8]
    forward: Bool
    bits: npt.NDArray[np.uint8]

    def first(self, which: Bool, known: Bool) -> I64:
        """Return the first such packet of each flow, -1 where the table knows of one, ``_FAR`` without."""
        seen = np.full(len(self.bits), _FAR)
        found = which.nonzero()[0][::-1]
        seen[self.flow[found]] = self.at[found]
        seen[known] = -1
        return seen

    def fins(self, state: npt.NDArray[np.uint8], parts: Parts) -> npt.NDArray[np.uint8]:
        """Add FINs to the states of parts; right for the last part of each flow, which is all that is asked for."""
        fin, bits = (self.flags & FIN) != 0, self.bits
        if not fin.any():
            return state
        forward = self.first(fin & self.forward, (bits & st.FIN_FORWARD) != 0)
        backward = self.first(fin & ~self.forward, (bits & st.FIN_BACKWARD) != 0)
        known = (forward < 0) & (backward < 0)
        closed_forward = np.where(known, (bits & st.CLOSED_FORWARD) != 0, forward > backward)
        new = np.where(forward < _FAR, st.FIN_FORWARD, 0) | np.where(backward < _FAR, st.FIN_BACKWARD, 0)
        new |= np.where(closed_forward, st.CLOSED_FORWARD, 0)
        kept = np.uint8(0xFF & ~(st.FIN_FORWARD | st.FIN_BACKWARD | st.CLOSED_FORWARD))
        merged: npt.NDArray[np.uint8] = (state & kept) | new.astype(np.uint8)[parts.flow]
        return merged

    def handshake(self, given: Sorted) -> npt.NDArray[np.uint8]:
        """Return how far the handshake of each part's flow was at the end of the part."""
        parts, forward, flags = given.parts, given.forward, given.flags
        had = self.bits & st.HANDSHAKE
        syn_ack = self.flags & (SYN | ACK)
        asked = self.first((syn_ack == SYN) & self.forward, had >= 1)
        answers = (syn_ack == SYN | ACK) & ~self.forward
        granted = self.first(answers & (self.at > asked[self.flow]), had >= 2)
        done = np.full(len(had), _FAR)
        done[had == 3] = -1
        open_flows = ((granted < _FAR) & (had < 3)).nonzero()[0]
        if len(open_flows):
            flow = np.repeat(parts.flow, parts.end - parts.begin)
            acks = (((flags & (SYN | ACK)) == ACK) & forward & (np.arange(len(flags)) > granted[flow])).nonzero()[0][
                ::-1
            ]
            done[flow[acks]] = acks
            done[had == 3] = -1
        reached = np.zeros(len(parts.flow), dtype=np.uint8)
        for seen in (asked, granted, done):
            reached += seen[parts.flow] < parts.end
        return reached
