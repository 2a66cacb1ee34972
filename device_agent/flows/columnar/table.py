"""Flow keys to rows of the flow table: an open-addressing index over stored keys.

A keyed hash picks where to look; what decides is the comparison with the whole key stored in the row, so two flows
never share a row whatever the hash does.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from device_agent.flows.columnar.parse import Packets

U64 = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int32]

_EMPTY, _REMOVED, _CLAIM = -1, -2, -3
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_MIN_ROWS = 1024
_FEW = 128
"""Up to so many packets, looking for each one's key takes less time than the array operations of one round do."""

_Scalar = TypeVar("_Scalar", bound=np.generic)


def mix(words: U64) -> U64:
    """Spread each word over all of its bits (the finaliser of splitmix64). Changes its argument."""
    words ^= words >> _S30
    words *= _MIX_1
    words ^= words >> _S27
    words *= _MIX_2
    words ^= words >> _S31
    return words


def hash_words(words: list[U64], seed: int) -> U64:
    """Hash keys of several words each.

    Each word is mixed before the next one is added: a sum of multiplied words collides for addresses that differ in
    few bits.

    Parameters
    ----------
    words
        Columns of the key, uint64, equal lengths.
    seed
        Secret of this process, below 2**64.
    """
    hashed = words[0] + np.uint64(seed)
    for word in words[1:]:
        hashed = mix(hashed)
        hashed += word
    return mix(hashed)


class KeyTable:
    """Rows for keys: the same key has the same row until the row is released.

    Parameters
    ----------
    seed
        Secret of the hash.
    hash_function
        Another hash, for tests.
    """

    def __init__(self, seed: int, hash_function: Callable[[list[U64], int], U64] = hash_words) -> None:
        self._seed = seed
        self._hash = hash_function
        self.capacity = _MIN_ROWS
        self.key_0 = np.zeros(_MIN_ROWS, dtype=np.uint64)
        self.key_1 = np.zeros(_MIN_ROWS, dtype=np.uint64)
        self.is_v6 = np.zeros(_MIN_ROWS, dtype=np.bool_)
        self.v6_words = np.zeros((_MIN_ROWS, 4), dtype=np.uint64)
        self._slot = np.full(_MIN_ROWS, -1, dtype=np.int64)
        self._free = np.arange(_MIN_ROWS - 1, -1, -1, dtype=np.int32)
        self._n_free = _MIN_ROWS
        self._index = np.full(4 * _MIN_ROWS, _EMPTY, dtype=np.int32)
        self._n_removed = 0

    def __len__(self) -> int:
        return self.capacity - self._n_free

    def rows(self, packets: Packets) -> Rows:
        """Return the row of each packet's key; keys without a row get one.

        Packets are brought together by their hashes, and one packet of each hash looks for its key. What others of the
        same hash but another key get is wrong, is seen to be, and these look for their own.
        """
        n = len(packets)
        hashed = self._hash_keys(packets.key_0, packets.key_1, packets.v6_at, packets.v6_words)
        v6_place = None
        if len(packets.v6_at):
            v6_place = np.full(n, -1, dtype=np.int64)
            v6_place[packets.v6_at] = np.arange(len(packets.v6_at))
        order, start = _alike(hashed)
        first = order[start]
        out = np.empty(n, dtype=np.int32)
        out[order] = np.repeat(self._probe(packets, first, hashed[first], v6_place), np.diff(start, append=n))
        others = (~self._equal(packets, slice(None), out, v6_place)).nonzero()[0]
        if len(others):
            out[others] = self._probe(packets, others, hashed[others], v6_place)
        return out

    def release(self, rows: Rows) -> None:
        """Forget the keys of rows, each given once."""
        if len(rows):
            self._index[self._slot[rows]] = _REMOVED
            self._slot[rows] = -1
            self._free[self._n_free : self._n_free + len(rows)] = rows
            self._n_free += len(rows)
            self._n_removed += len(rows)

    def _hash_keys(self, key_0: U64, key_1: U64, v6_at: npt.NDArray[np.intp], v6_words: U64) -> U64:
        hashed = self._hash([key_0, key_1], self._seed)
        if len(v6_at):
            hashed[v6_at] = self._hash([*v6_words.T, key_1[v6_at]], self._seed)
        return hashed

    def _probe(
        self,
        packets: Packets,
        which: npt.NDArray[np.intp],
        hashed: U64,
        v6_place: npt.NDArray[np.int64] | None,
    ) -> Rows:
        """Walk the index for some packets at once; each round settles a packet or moves it on by one slot."""
        self._make_room(len(which))
        index, mask = self._index, np.uint64(len(self._index) - 1)
        slot = (hashed & mask).astype(np.int64)
        out = np.empty(len(which), dtype=np.int32)
        left = np.arange(len(which))
        while len(left) > _FEW:
            pending, row = which[left], index[slot]
            match = row >= 0
            match &= self._equal(packets, pending, row, v6_place)
            out[left[match]] = row[match]
            empty = row == _EMPTY
            claimants = empty.nonzero()[0]
            if len(claimants):
                slots = slot[claimants]
                index[slots] = _CLAIM - claimants
                won = index[slots] == _CLAIM - claimants
                winners = claimants[won]
                out[left[winners]] = self._insert(packets, pending[winners], slots[won], v6_place)
                match[winners] = True
            slot += ~empty
            slot &= np.int64(mask)
            undecided = (~match).nonzero()[0]
            left, slot = left[undecided], slot[undecided]
        if len(left):
            out[left] = self._settle(packets, which[left], slot, v6_place)
        return out

    def _make_room(self, n: int) -> None:
        """Make room for so many more keys."""
        if len(self) + n > self.capacity:
            self._grow(len(self) + n)
        if 3 * (len(self) + self._n_removed + n) > len(self._index):
            self._rebuild()

    def _settle(
        self,
        packets: Packets,
        pending: npt.NDArray[np.intp],
        slots: npt.NDArray[np.int64],
        v6_place: npt.NDArray[np.int64] | None,
    ) -> list[int]:
        """Return the rows of some packets' keys, found one by one, from their slots on."""
        found: dict[tuple[int, int, bytes], int] = {}
        keys = zip(packets.key_0[pending].tolist(), packets.key_1[pending].tolist(), strict=True)
        rows = []
        for at, (key_0, key_1), slot in zip(pending.tolist(), keys, slots.tolist(), strict=True):
            place = -1 if v6_place is None else v6_place.item(at)
            key = (key_0, key_1, b"" if place < 0 else packets.v6_words[place].tobytes())
            row = found.get(key)
            if row is None:
                row = found[key] = self._look(key, slot)
            rows.append(row)
        return rows

    def _look(self, key: tuple[int, int, bytes], slot: int) -> int:
        """Return the row of a key, looked for from a slot on; the last part of the key are its IPv6 addresses."""
        index, last = self._index, len(self._index) - 1
        key_0, key_1, addresses = key
        is_v6 = bool(addresses)
        while (row := index.item(slot)) != _EMPTY:
            if (
                row >= 0
                and self.key_1.item(row) == key_1
                and self.key_0.item(row) == key_0
                and self.is_v6.item(row) == is_v6
                and (not is_v6 or self.v6_words[row].tobytes() == addresses)
            ):
                return row
            slot = slot + 1 & last
        self._n_free -= 1
        row = self._free.item(self._n_free)
        self.key_0[row], self.key_1[row], self.is_v6[row] = key_0, key_1, is_v6
        if is_v6:
            self.v6_words[row] = np.frombuffer(addresses, dtype=np.uint64)
        index[slot] = row
        self._slot[row] = slot
        return row

    def _equal(
        self,
        packets: Packets,
        which: npt.NDArray[np.intp] | slice,
        row: Rows,
        v6_place: npt.NDArray[np.int64] | None,
    ) -> npt.NDArray[np.bool_]:
        """Compare the keys of packets with those stored in rows; a negative row compares with any."""
        equal: npt.NDArray[np.bool_] = self.key_1[row] == packets.key_1[which]
        equal &= self.key_0[row] == packets.key_0[which]
        equal &= self.is_v6[row] == packets.is_v6[which]
        if v6_place is not None:
            place = v6_place[which]
            six = (place >= 0).nonzero()[0]
            equal[six] &= (self.v6_words[row[six]] == packets.v6_words[place[six]]).all(axis=1)
        return equal

    def _insert(
        self,
        packets: Packets,
        which: npt.NDArray[np.intp],
        slots: npt.NDArray[np.int64],
        v6_place: npt.NDArray[np.int64] | None,
    ) -> Rows:
        rows = self._free[self._n_free - len(which) : self._n_free].copy()
        self._n_free -= len(which)
        self.key_0[rows] = packets.key_0[which]
        self.key_1[rows] = packets.key_1[which]
        self.is_v6[rows] = packets.is_v6[which]
        if v6_place is not None:
            place = v6_place[which]
            self.v6_words[rows[place >= 0]] = packets.v6_words[place[place >= 0]]
        self._index[slots] = rows
        self._slot[rows] = slots
        return rows

    def _grow(self, needed: int) -> None:
        old, new = self.capacity, self.capacity
        while new < needed:
            new *= 2
        self.key_0, self.key_1 = extended(self.key_0, new), extended(self.key_1, new)
        self.is_v6, self.v6_words = extended(self.is_v6, new), extended(self.v6_words, new)
        self._slot = extended(self._slot, new)
        self._slot[old:] = -1
        free = np.empty(new, dtype=np.int32)
        free[: new - old] = np.arange(new - 1, old - 1, -1)
        free[new - old : new - old + self._n_free] = self._free[: self._n_free]
        self._free, self._n_free, self.capacity = free, self._n_free + new - old, new
        self._rebuild()

    def _rebuild(self) -> None:
        """Lay the index out anew, without removed slots and with room for all rows."""
        size = 4 * self.capacity
        self._index = np.full(size, _EMPTY, dtype=np.int32)
        self._n_removed = 0
        rows = (self._slot >= 0).nonzero()[0]
        six = self.is_v6[rows].nonzero()[0]
        hashed = self._hash_keys(self.key_0[rows], self.key_1[rows], six, self.v6_words[rows[six]])
        slot = (hashed & np.uint64(size - 1)).astype(np.int64)
        while len(rows):
            free = self._index[slot] == _EMPTY
            self._index[slot[free]] = rows[free]
            settled = self._index[slot] == rows
            self._slot[rows[settled]] = slot[settled]
            rows, slot = rows[~settled], (slot[~settled] + 1) & (size - 1)


def _alike(hashed: U64) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return an order by the upper bits of hashes, otherwise as they come, and where in it each group begins."""
    n = len(hashed)
    bits = np.uint64(n.bit_length())
    # Sorting numbers takes less time than sorting places by numbers.
    keys = hashed >> bits << bits
    keys |= np.arange(n, dtype=np.uint64)
    keys.sort()
    order = (keys & np.uint64((1 << int(bits)) - 1)).astype(np.intp)
    keys >>= bits
    begins = np.ones(n, dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=begins[1:])
    return order, begins.nonzero()[0]


def extended(array: npt.NDArray[_Scalar], length: int) -> npt.NDArray[_Scalar]:
    """Return a longer copy of an array, zeros at its end."""
    grown = np.zeros((length, *array.shape[1:]), dtype=array.dtype)
    grown[: len(array)] = array
    return grown
