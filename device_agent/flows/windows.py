"""Who opens how many flows to whom: tumbling windows per initiator, so that a scan shows in its first flows."""

from collections import OrderedDict
from typing import NamedTuple

from contract.features import WINDOW_S

SATURATION = 1_000
"""Distinct peers and ports are counted up to here."""

MAX_INITIATORS = 4_096
MAX_VALUES = 131_072
"""Addresses and ports stored over all initiators: about 20 MB at worst, with every initiator a scanner."""

_WINDOW_US = WINDOW_S * 1_000_000


class Opened(NamedTuple):
    """The ``initiator_*`` features of a flow as they stood when it was opened, itself included."""

    flows: int
    peers: int
    ports: int


class _Distinct:
    """Distinct values of the current and the last window, and how many there are in both together."""

    __slots__ = ("both", "current", "last")

    def __init__(self) -> None:
        self.current: set[bytes | int] = set()
        self.last: set[bytes | int] = set()
        self.both = 0

    def add(self, value: bytes | int) -> int:
        """Note a value; return by how many the stored ones grew (0 or 1)."""
        if value in self.current or len(self.current) >= SATURATION:
            return 0
        self.current.add(value)
        if value not in self.last:
            self.both += 1
        return 1

    def turn(self) -> int:
        """Begin the next window; return how many stored values were forgotten."""
        forgotten = len(self.last)
        self.last, self.current = self.current, set()
        self.both = len(self.last)
        return forgotten


class _Initiator:
    __slots__ = ("flows", "flows_last", "peers", "ports", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.flows = 0
        self.flows_last = 0
        self.peers = _Distinct()
        self.ports = _Distinct()

    def values(self) -> int:
        """Return how many values are stored here."""
        return sum(len(s) for d in (self.peers, self.ports) for s in (d.current, d.last))


class InitiatorWindows:
    """Counts of the flows each initiator opened in the current and the last window of ``WINDOW_S`` seconds.

    Windows begin at multiples of ``WINDOW_S`` on the packet clock. Port 0 (no port) counts for no port. The table is
    bounded in initiators and in stored values; the initiator that has opened nothing for longest goes first.

    Attributes
    ----------
    evicted
        Initiators forgotten because the table was full.
    """

    def __init__(self, max_initiators: int = MAX_INITIATORS, max_values: int = MAX_VALUES) -> None:
        self._max_initiators = max_initiators
        self._max_values = max_values
        self._table: OrderedDict[bytes, _Initiator] = OrderedDict()
        self._values = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._table)

    def open(self, initiator: bytes, responder: bytes, port: int, clock_us: int) -> Opened:
        """Note a new flow and return the initiator's counts with it.

        Parameters
        ----------
        initiator, responder
            Addresses.
        port
            Port of the responder; 0 for none.
        clock_us
            Packet clock in microseconds; never goes back.
        """
        window = clock_us // _WINDOW_US
        entry = self._table.get(initiator)
        if entry is None:
            entry = self._table[initiator] = _Initiator(window)
        else:
            self._table.move_to_end(initiator)
            if entry.window != window:
                self._turn(entry, window)
        entry.flows += 1
        self._values += entry.peers.add(responder)
        if port:
            self._values += entry.ports.add(port)
        self._evict()
        return Opened(
            entry.flows + entry.flows_last,
            min(entry.peers.both, SATURATION),
            min(entry.ports.both, SATURATION),
        )

    def clear(self) -> None:
        """Forget everything, as after a step of the clock."""
        self._table.clear()
        self._values = 0

    def _turn(self, entry: _Initiator, window: int) -> None:
        """Move an initiator on to ``window``."""
        turns = 1 if window == entry.window + 1 else 2
        for _ in range(turns):
            entry.flows_last, entry.flows = entry.flows, 0
            self._values -= entry.peers.turn() + entry.ports.turn()
        entry.window = window

    def _evict(self) -> None:
        """Forget the longest quiet initiators until the table is within its bounds, never the one just used."""
        while len(self._table) > 1 and (len(self._table) > self._max_initiators or self._values > self._max_values):
            _, entry = self._table.popitem(last=False)
            self._values -= entry.values()
            self.evicted += 1
