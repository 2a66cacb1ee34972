"""The ``initiator_*`` counts of flows that a batch opens: the windows of ``device_agent.flows.windows``, by group.

A scanner opens thousands of flows in a batch. As long as no initiator has to be forgotten for lack of room, initiators
do not touch each other, so each one's flows are counted together, and a saturated count costs nothing more. When room
runs short, flows are counted one by one in their order.
"""

from collections import OrderedDict
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from contract.features import WINDOW_S
from device_agent.flows.windows import MAX_INITIATORS, MAX_VALUES, SATURATION

I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_WINDOW_US = WINDOW_S * 1_000_000
_32, _16, _LOW_32, _LOW_16 = np.uint64(32), np.uint64(16), np.uint64(0xFFFFFFFF), np.uint64(0xFFFF)
_FEW = 16
"""Up to so many openings are counted one by one: grouping costs more."""

_Address = int | bytes
_first = itemgetter(0)


class _Distinct:
    """Distinct values of the current and the last window, and how many there are in both together."""

    __slots__ = ("both", "current", "last")

    def __init__(self) -> None:
        self.current: set[_Address] = set()
        self.last: set[_Address] = set()
        self.both = 0

    def turn(self) -> int:
        """Begin the next window; return how many stored values were forgotten."""
        forgotten = len(self.last)
        self.last, self.current = self.current, set()
        self.both = len(self.last)
        return forgotten

    def add_all(self, values: list[_Address], out: I64) -> int:
        """Note values, write what ``both`` was with each into ``out``; return by how many the stored ones grew."""
        current, last, both, before = self.current, self.last, self.both, len(self.current)
        seen: list[int] = []
        if before < SATURATION:
            for value in values:
                if value not in current:
                    current.add(value)
                    both += value not in last
                    if len(current) >= SATURATION:
                        break
                seen.append(both)
        out[: len(seen)] = seen
        out[len(seen) :] = both
        self.both = both
        return len(current) - before

    def add(self, value: _Address) -> int:
        """Note one value; return by how many the stored ones grew."""
        if value in self.current or len(self.current) >= SATURATION:
            return 0
        self.current.add(value)
        self.both += value not in self.last
        return 1


class _Initiator:
    __slots__ = ("flows", "flows_last", "peers", "ports", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.flows = 0
        self.flows_last = 0
        self.peers = _Distinct()
        self.ports = _Distinct()


class Openings:
    """Initiator windows, asked for many flows at once; the same counts as ``InitiatorWindows``.

    Attributes
    ----------
    evicted
        Initiators forgotten because the table was full.
    """

    def __init__(self, max_initiators: int = MAX_INITIATORS, max_values: int = MAX_VALUES) -> None:
        self._max_initiators = max_initiators
        self._max_values = max_values
        self._table: OrderedDict[_Address, _Initiator] = OrderedDict()
        self._values = 0
        self.evicted = 0

    def clear(self) -> None:
        """Forget everything, as after a step of the clock."""
        self._table.clear()
        self._values = 0

    def note(self, keys: npt.NDArray[np.void], swapped: Bool, clock: I64) -> I64:
        """Note flows in the order in which they were opened.

        Parameters
        ----------
        keys
            Structured: their keys, ``key_0``, ``key_1``, ``is_v6`` and ``v6_words`` as in ``state.FLOW``.
        swapped
            Whether the initiator is the second endpoint of the key.
        clock
            Packet clock at each opening, microseconds.

        Returns
        -------
        int64 array, shape (n, 3)
            Flows, peers and ports of each initiator, the flow itself included.
        """
        both, key_1 = keys["key_0"], keys["key_1"]
        both = np.where(swapped, both << _32 | both >> _32, both)
        ports = np.where(swapped, key_1 >> np.uint64(48), key_1 >> _32 & _LOW_16).astype(np.int64)
        windows = clock // _WINDOW_US
        six = keys["is_v6"]
        out = np.empty((len(keys), 3), dtype=np.int64)
        fits = self._values + 2 * len(keys) <= self._max_values
        if fits and len(self._table) + len(keys) > self._max_initiators:
            fits = len(self._table) + len(np.unique(both >> _32)) + int(six.sum()) <= self._max_initiators
        one_by_one = np.arange(len(keys))
        grouped: list[tuple[int, _Address]] = []
        if len(keys) > _FEW and fits:
            one_by_one = six.nonzero()[0]
            four = (~six).nonzero()[0]
            grouped = self._grouped(both[four], ports[four], windows[four], four, out)
        pairs: dict[int, tuple[_Address, _Address]] = {}
        for i in six.nonzero()[0].tolist():
            address = keys["v6_words"][i].astype(">u8").tobytes()
            pairs[i] = (address[16:], address[:16]) if swapped[i] else (address[:16], address[16:])
        for i, pair, port, window in zip(
            one_by_one.tolist(),
            both[one_by_one].tolist(),
            ports[one_by_one].tolist(),
            windows[one_by_one].tolist(),
            strict=True,
        ):
            initiator, responder = pairs.get(i) or (pair >> 32, pair & 0xFFFFFFFF)
            out[i] = self._open(initiator, responder, port, window)
            if grouped:
                grouped.append((i, initiator))
        # The order in which initiators would be forgotten: by the last flow each one opened.
        for _, initiator in sorted(grouped, key=_first):
            self._table.move_to_end(initiator)
        return out

    def _grouped(
        self, both: npt.NDArray[np.uint64], ports: I64, windows: I64, at: npt.NDArray[np.intp], out: I64
    ) -> list[tuple[int, _Address]]:
        """Count IPv4 flows by initiator and window, into the rows ``at``; there is room for all.

        Returns the last flow of each group with its initiator.
        """
        initiators = both >> _32
        order = np.argsort(initiators, kind="stable")
        sorted_by, in_window = initiators[order], windows[order]
        change = (sorted_by[1:] != sorted_by[:-1]) | (in_window[1:] != in_window[:-1])
        start = np.concatenate(([0], change.nonzero()[0] + 1))
        end = np.append(start[1:], len(order))
        peers, ports = (both & _LOW_32)[order], ports[order]
        counts = np.empty((3, len(order)), dtype=np.int64)
        named = sorted_by[start].tolist()
        for low, high, initiator, window in zip(
            start.tolist(), end.tolist(), named, in_window[start].tolist(), strict=True
        ):
            entry = self._entry(initiator, window)
            flows = entry.flows + entry.flows_last + 1
            counts[0, low:high] = np.arange(flows, flows + high - low)
            entry.flows += high - low
            self._values += entry.peers.add_all(peers[low:high].tolist(), counts[1, low:high])
            self._values += self._add_ports(entry.ports, ports[low:high], counts[2, low:high])
        np.minimum(counts[1:], SATURATION, out=counts[1:])
        out[at[order]] = counts.T
        return list(zip(at[order[end - 1]].tolist(), named, strict=True))

    @staticmethod
    def _add_ports(distinct: _Distinct, ports: I64, out: I64) -> int:
        """Note responder ports; port 0 is none."""
        if ports.all():
            return distinct.add_all(ports.tolist(), out)
        grown = 0
        for i, port in enumerate(ports.tolist()):
            grown += distinct.add(port) if port else 0
            out[i] = distinct.both
        return grown

    def _entry(self, initiator: _Address, window: int) -> _Initiator:
        """Return an initiator's counts, moved on to a window."""
        entry = self._table.get(initiator)
        if entry is None:
            entry = self._table[initiator] = _Initiator(window)
        elif entry.window != window:
            for _ in range(1 if window == entry.window + 1 else 2):
                entry.flows_last, entry.flows = entry.flows, 0
                self._values -= entry.peers.turn() + entry.ports.turn()
            entry.window = window
        return entry

    def _open(self, initiator: _Address, responder: _Address, port: int, window: int) -> tuple[int, int, int]:
        """Note one flow."""
        table = self._table
        entry = self._entry(initiator, window)
        table.move_to_end(initiator)
        entry.flows += 1
        self._values += entry.peers.add(responder)
        if port:
            self._values += entry.ports.add(port)
        while len(table) > 1 and (len(table) > self._max_initiators or self._values > self._max_values):
            _, gone = table.popitem(last=False)
            self._values -= sum(len(s) for d in (gone.peers, gone.ports) for s in (d.current, d.last))
            self.evicted += 1
        return entry.flows + entry.flows_last, min(entry.peers.both, SATURATION), min(entry.ports.both, SATURATION)
