"""The ``initiator_*`` features of flows that a batch opens: ``device_agent.flows.windows``, many flows at once.

A batch opens hundreds of flows, a scanner thousands. As long as no initiator has to be forgotten for lack of room,
initiators do not touch each other, so they are taken together, one window of each at a time, in array operations. When
few are left, or room runs short, flows are taken one by one in their order.
"""

from operator import itemgetter

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.window_runs import N_OPENED, PLACE_BITS, Events, countable, note_runs, starts_of
from device_agent.flows.windows import MAX_INITIATORS, MAX_VALUES, WINDOW_US, Address, InitiatorWindows, Opened

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

_32, _LOW_32, _48, _LOW_16 = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(48), np.uint64(0xFFFF)
_BUSY = 128
"""From so many openings and answers on, arrays cost less."""

_first = itemgetter(0)


class Openings:
    """Initiator windows, told of many flows at once; the same as ``InitiatorWindows``, told of each.

    Attributes
    ----------
    windows
        The windows.
    """

    def __init__(self, max_initiators: int = MAX_INITIATORS, max_values: int = MAX_VALUES) -> None:
        self.windows = InitiatorWindows(max_initiators, max_values)

    def note(self, events: npt.NDArray[np.void]) -> F64:
        """Note openings and answers in the order in which they came.

        Parameters
        ----------
        events
            Structured, with the fields of ``state.EVENT``.

        Returns
        -------
        float64 array, shape (openings, 7)
            ``windows.Opened`` of each opening.
        """
        key_0, key_1, swapped = events["key_0"], events["key_1"], events["swapped"]
        both = np.where(swapped, key_0 << _32 | key_0 >> _32, key_0)
        answer, six = events["answer"], events["is_v6"]
        found = Events(
            initiator=(both >> _32).astype(np.int64),
            responder=(both & _LOW_32).astype(np.int64),
            port=np.where(swapped, key_1 >> _48, key_1 >> _32 & _LOW_16).astype(np.int64),
            window=events["clock"] // WINDOW_US,
            number=events["number"].astype(np.int64),
            answer=answer,
            row=np.cumsum(~answer) - 1,
        )
        out = np.empty((len(events) - int(np.count_nonzero(answer)), N_OPENED))
        order = self._by_initiator(found, six)
        if order is None:
            self._one_by_one(found, events, out)
            return out
        moves, rest = self._together(found, order, out)
        rest = np.sort(np.concatenate((rest, six.nonzero()[0])))
        moves += self._one_by_one(found.of(rest), events.take(rest), out)
        # The order in which initiators would be forgotten: by the last flow each one opened.
        for _, initiator in sorted(moves, key=_first):
            self.windows.table.move_to_end(initiator)
        return out

    def _by_initiator(self, events: Events, six: npt.NDArray[np.bool_]) -> Index | None:
        """Return the events of IPv4, sorted by initiator; None if there are few, or not room for everybody."""
        n, windows = len(six), self.windows
        if not _BUSY <= n <= 1 << PLACE_BITS or windows.stored + 2 * n > windows.max_values:
            return None
        keys = (events.initiator << PLACE_BITS | np.arange(n))[~six]
        keys.sort()
        different = starts_of(keys >> PLACE_BITS)
        if len(windows) + len(different) + int(np.count_nonzero(six)) > windows.max_initiators:
            return None
        return keys & (1 << PLACE_BITS) - 1

    def _together(self, found: Events, order: Index, out: F64) -> tuple[list[tuple[int, Address]], Index]:
        """Note the next window of every initiator, again and again until few events are left.

        Returns
        -------
        list of tuple
            The initiators, each with the row of the last opening of each window.
        Index
            The events that are left.
        """
        events = found.of(order)
        moves: list[tuple[int, Address]] = []
        is_open = ~events.answer
        # Answers before its first opening belong to what an initiator opened earlier.
        first = starts_of(events.initiator)
        total = np.cumsum(is_open)
        before: I64 = (total - is_open)[first]
        early = total == np.repeat(before, np.diff(np.append(first, len(order))))
        for initiator, number in zip(events.initiator[early].tolist(), events.number[early].tolist(), strict=True):
            self.windows.answer(initiator, number)
        order, events = order[~early], events.of(~early)
        opens = (~events.answer).nonzero()[0]
        begin = opens[starts_of(events.initiator[opens], events.window[opens])]
        initiator = events.initiator[begin]
        turn = np.arange(len(begin)) - np.searchsorted(initiator, initiator)
        of_event = np.repeat(turn, np.diff(np.append(begin, len(order))))
        for number in range(int(turn.max(initial=-1)) + 1):
            at = (of_event == number).nonzero()[0]
            if len(at) < _BUSY:
                return moves, order[of_event >= number]
            some = events.of(at)
            runs = np.searchsorted(at, begin[turn == number])
            entries = [
                self.windows.entry(*of)
                for of in zip(*(x[runs].tolist() for x in (some.initiator, some.window, some.number)), strict=True)
            ]
            if not countable(entries, len(at)):
                return moves, order[of_event >= number]
            noted = (~some.answer).nonzero()[0]
            out[some.row[noted]], grown = note_runs(entries, runs, some)
            self.windows.stored += grown
            ends = noted[np.append(np.searchsorted(noted, runs[1:]), len(noted)) - 1]
            moves += zip(some.row[ends].tolist(), some.initiator[ends].tolist(), strict=True)
        return moves, order[:0]

    def _one_by_one(self, events: Events, given: npt.NDArray[np.void], out: F64) -> list[tuple[int, Address]]:
        """Note events singly; return the initiator of each opening with its row."""
        windows = self.windows
        rows: list[int] = []
        opened: list[Opened] = []
        sources: list[Address] = []
        six = given["is_v6"]
        long: dict[int, tuple[bytes, bytes]] = {}
        for i in six.nonzero()[0].tolist():
            pair = given["v6_words"][i].astype(">u8").tobytes()
            long[i] = (pair[16:], pair[:16]) if given["swapped"][i] else (pair[:16], pair[16:])
        for i, (initiator, responder, port, window, number, answer, row) in enumerate(
            zip(*(column.tolist() for column in events), strict=True)
        ):
            source, target = long.get(i) or (initiator, responder)
            if answer:
                windows.answer(source, number)
            else:
                rows.append(row)
                sources.append(source)
                opened.append(windows.open(source, target, port, window, number))
        if rows:
            out[rows] = opened
        return list(zip(rows, sources, strict=True))
