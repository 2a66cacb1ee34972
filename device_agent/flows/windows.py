"""What each initiator opened lately: tumbling windows, so that a scan shows in its first flows.

Longer than most for the rules below, which all engines follow.

Rules
-----
Windows begin at multiples of ``WINDOW_S`` on the packet clock. The ``initiator_*`` features of a flow say how its
initiator stood when the flow was opened. They look at the flows of the current and the last window, itself included.

- **peers, ports**: a window stores the first ``SATURATION`` responders and the first ``SATURATION`` responder ports.
  Port 0 is no port.
- **entropy**: over the flows whose responder (or port) is stored in their window, the first ``MOST_COUNTED`` of a
  window. Counts are weighed in fixed point, so that the sum does not depend on the order of additions.
- **failed**: the other flows that had no packet back but RSTs. A flow is answered once, by the first such packet,
  whichever part of the flow that falls in, and whether or not its window still counts.
- **new peers**: those of the stored responders that are not known. A window that is forgotten hands its responders, in
  the order of their first flows, to the known ones of the hour in which the initiator's newest window lies. They are
  known for the rest of that hour of the packet clock and for the next hour, so for one to two hours after they were
  met. An hour holds ``SATURATION`` of them; what comes later is not remembered and will be new again.

An initiator's windows move on when it opens a flow. Initiators are forgotten when there are too many of them, or too
many values are stored, and all are when the packet clock is set back. Then the counts begin again, from the flows that
are opened afterwards: flows carry numbers, and an answer to a flow with a number from before is for no count.
"""

from collections import OrderedDict
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contract.features import WINDOW_S

SATURATION = 1_000
"""Distinct peers and ports are counted up to here."""

MOST_COUNTED = 1 << 18
"""Flows of a window that count for entropy."""

MAX_INITIATORS = 4_096
MAX_VALUES = 131_072
"""Addresses and ports stored over all initiators: about 20 MB at worst, with every initiator a scanner."""

UNIT = float(1 << 32)
"""Weights are integers in fixed point: this is 1."""

WINDOW_US = WINDOW_S * 1_000_000
_WINDOWS_AN_HOUR = 3_600 // WINDOW_S

Address = int | bytes
"""An address in any form, as long as equal ones compare equal."""


class Opened(NamedTuple):
    """The ``initiator_*`` features of a flow as they stood when it was opened, itself included."""

    flows: int
    peers: int
    ports: int
    failed: int
    new_peers: int
    peer_entropy_bits: float
    port_entropy_bits: float


def weights(count: int) -> npt.NDArray[np.int64]:
    """Return a table of n log2 n in fixed point that reaches ``count`` at least, for 0 <= n <= 2 * MOST_COUNTED."""
    return _weights(max(count.bit_length(), _FEW_BITS))


@cache
def _weights(bits: int) -> npt.NDArray[np.int64]:
    n = np.arange(1 << bits, dtype=np.float64)
    n[1:] *= np.log2(n[1:])
    return np.rint(n * UNIT).astype(np.int64)


_FEW_BITS = 10
_FEW: list[int] = _weights(_FEW_BITS).tolist()
"""The beginning of the table: reading a list costs a fifth of reading an array."""
_FEW_SIZE = len(_FEW) - 1
_FEW_VALUES = 64
"""Up to so many counts, a sum over the list costs less than one over an array."""


def _weight(count: int) -> int:
    return _FEW[count] if count <= _FEW_SIZE else weights(count).item(count)


class Distinct:
    """Values of the flows of the current and the last window.

    Attributes
    ----------
    current, last
        How many counted flows of each window had each value, in the order of first flows.
    both
        Distinct values of both windows.
    counted, counted_last
        Flows that count for entropy, in the current and in the last window.
    weight
        Sum of the weights of the values' flows in both windows.
    """

    __slots__ = ("both", "counted", "counted_last", "current", "last", "weight")

    def __init__(self) -> None:
        self.current: dict[Address, int] = {}
        self.last: dict[Address, int] = {}
        self.both = 0
        self.counted = 0
        self.counted_last = 0
        self.weight = 0

    def add(self, value: Address) -> int:
        """Note a value; return by how many the stored ones grew (0 or 1)."""
        current = self.current
        here, before = current.get(value), self.last.get(value)
        grown = 0
        if here is None:
            if len(current) >= SATURATION:
                return 0
            if before is None:
                self.both += 1
            current[value] = here = 0
            grown = 1
        if self.counted < MOST_COUNTED:
            current[value] = here + 1
            self.counted += 1
            of_value = here + (before or 0)
            if of_value < _FEW_SIZE:
                self.weight += _FEW[of_value + 1] - _FEW[of_value]
            else:
                self.weight += _weight(of_value + 1) - _weight(of_value)
        return grown

    def turn(self) -> Iterable[Address]:
        """Begin the next window; return the values forgotten."""
        gone, self.last, self.current = self.last, self.current, {}
        self.both = len(self.last)
        self.counted_last, self.counted = self.counted, 0
        counts = self.last.values()
        if self.counted_last <= _FEW_SIZE and len(counts) <= _FEW_VALUES:
            self.weight = sum([_FEW[count] for count in counts])
        else:
            self.weight = int(weights(self.counted_last)[list(counts)].sum())
        return gone

    def entropy_bits(self) -> float:
        """Return the Shannon entropy of the values over the counted flows of both windows."""
        if self.both < 2:
            return 0.0
        n = self.counted + self.counted_last
        return (_weight(n) - self.weight) / (n * UNIT)


class Initiator:
    """What one initiator opened.

    Attributes
    ----------
    window
        Number of the current window.
    flows, failed, since
        Of the current window: flows, those without an answer, and the number of the first flow that may be of it.
    flows_last, failed_last, since_last
        The same of the last window.
    peers, ports
        Responders and their ports.
    known, known_last
        Responders met before the last window, of the current hour and of the last one.
    new
        Responders of both windows that are not known.
    """

    __slots__ = (
        "failed",
        "failed_last",
        "flows",
        "flows_last",
        "known",
        "known_last",
        "new",
        "peers",
        "ports",
        "since",
        "since_last",
        "window",
    )

    def __init__(self, window: int, number: int) -> None:
        self.window = window
        self.flows = self.flows_last = 0
        self.failed = self.failed_last = 0
        self.since = self.since_last = number
        self.peers, self.ports = Distinct(), Distinct()
        self.known: set[Address] = set()
        self.known_last: set[Address] = set()
        self.new = 0

    def values(self) -> int:
        """Return how many values are stored here."""
        peers, ports = self.peers, self.ports
        windows = len(peers.current) + len(peers.last) + len(ports.current) + len(ports.last)
        return windows + len(self.known) + len(self.known_last)

    def knows(self, responder: Address) -> bool:
        """Whether a responder was met before the last window."""
        return responder in self.known or responder in self.known_last

    def turn(self, window: int, number: int) -> int:
        """Move on to ``window``, in which flow ``number`` is the first; return by how many the stored values grew."""
        before = self.values()
        for _ in range(1 if window == self.window + 1 else 2):
            self.flows_last, self.flows = self.flows, 0
            self.failed_last, self.failed = self.failed, 0
            self.since_last, self.since = self.since, number
            known = self.known
            gone = [peer for peer in self.peers.turn() if peer not in known]
            known.update(gone[: max(SATURATION - len(known), 0)])
            self.ports.turn()
        hours = window // _WINDOWS_AN_HOUR - self.window // _WINDOWS_AN_HOUR
        if hours:
            self.known_last = self.known if hours == 1 else set()
            self.known = set()
        self.window = window
        self.new = len(self.peers.last.keys() - self.known - self.known_last)
        return self.values() - before

    def open(self, responder: Address, port: int) -> int:
        """Note a flow in the current window; return by how many the stored values grew."""
        self.flows += 1
        self.failed += 1
        both = self.peers.both
        grown = self.peers.add(responder)
        if self.peers.both > both and not self.knows(responder):
            self.new += 1
        return grown + self.ports.add(port) if port else grown

    def answer(self, number: int) -> None:
        """Note the answer to a flow."""
        if number >= self.since:
            self.failed -= 1
        elif number >= self.since_last:
            self.failed_last -= 1

    def opened(self) -> Opened:
        """Return how things stand with the flow just opened."""
        peers, ports, new = self.peers, self.ports, self.new
        return Opened(
            self.flows + self.flows_last,
            min(SATURATION, peers.both),
            min(SATURATION, ports.both),
            self.failed + self.failed_last - 1,
            min(SATURATION, new),
            peers.entropy_bits(),
            ports.entropy_bits(),
        )


class InitiatorWindows:
    """The windows of all initiators, in bounded memory: the one that has opened nothing for longest goes first.

    Attributes
    ----------
    table
        Initiators by address, the one that has opened nothing for longest first.
    stored
        Values stored over all of them.
    evicted
        Initiators forgotten because the table was full.
    """

    def __init__(self, max_initiators: int = MAX_INITIATORS, max_values: int = MAX_VALUES) -> None:
        self.max_initiators = max_initiators
        self.max_values = max_values
        self.table: OrderedDict[Address, Initiator] = OrderedDict()
        self.stored = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self.table)

    def open(self, initiator: Address, responder: Address, port: int, window: int, number: int) -> Opened:
        """Note a new flow and return its initiator's features with it.

        Parameters
        ----------
        initiator, responder
            Addresses.
        port
            Port of the responder; 0 for none.
        window
            Window of the packet clock, ``clock_us // WINDOW_US``; never goes back.
        number
            Which opened flow this is; numbers go up, whether or not all is forgotten in between.
        """
        entry = self.entry(initiator, window, number)
        self.table.move_to_end(initiator)
        self.stored += entry.open(responder, port)
        self._evict()
        return entry.opened()

    def entry(self, initiator: Address, window: int, number: int) -> Initiator:
        """Return an initiator, moved on to the window in which it opens a flow."""
        entry = self.table.get(initiator)
        if entry is None:
            entry = self.table[initiator] = Initiator(window, number)
        elif entry.window != window:
            self.stored += entry.turn(window, number)
        return entry

    def answer(self, initiator: Address, number: int) -> None:
        """Note the first packet back, other than a RST, to a flow of an initiator."""
        entry = self.table.get(initiator)
        if entry is not None:
            entry.answer(number)

    def clear(self) -> None:
        """Forget everything, as after a step of the clock."""
        self.table.clear()
        self.stored = 0

    def _evict(self) -> None:
        """Forget the longest quiet initiators until the table is within its bounds, never the one just used."""
        while len(self.table) > 1 and (len(self.table) > self.max_initiators or self.stored > self.max_values):
            _, entry = self.table.popitem(last=False)
            self.stored -= entry.values()
            self.evicted += 1
