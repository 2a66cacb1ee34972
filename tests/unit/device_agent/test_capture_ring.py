"""The array operations behind the packet ring; the ring itself is tested in namespaces."""

import numpy as np
import pytest

from device_agent.capture.ring import _SLOT_HEADER, _frame_rows, _put_tags_back
from device_agent.capture.rows import pack_rows


@pytest.mark.parametrize("n", [1, 2, 1_000, 70_000])
def test_rows_are_packed_to_their_lengths(n):
    rng = np.random.default_rng(n)
    rows = rng.integers(0, 256, (n, 37), dtype=np.uint8)
    lengths = rng.integers(0, 38, n)
    data, offsets = pack_rows(rows, lengths)
    assert data.tobytes() == b"".join(row[:length].tobytes() for row, length in zip(rows, lengths, strict=True))
    np.testing.assert_array_equal(np.diff(offsets), lengths)


def test_packing_nothing_gives_nothing():
    data, offsets = pack_rows(np.zeros((0, 20), dtype=np.uint8), np.zeros(0, dtype=np.int64))
    assert len(data) == 0
    assert offsets.tolist() == [0]


@pytest.mark.parametrize("at", [[66, 66, 66], [66, 82, 66]])
def test_frames_begin_where_each_slot_says(at):
    slots = np.arange(3 * 256, dtype=np.uint32).astype(np.uint8).reshape(3, 256)
    rows = _frame_rows(slots, np.array(at), 100)
    for slot, row, begin in zip(slots, rows, at, strict=True):
        assert row[:100].tobytes() == slot[begin : begin + 100].tobytes()


def test_tags_go_behind_the_addresses():
    frames = np.tile(np.arange(24, dtype=np.uint8), (3, 1))
    headers = np.zeros(3, dtype=_SLOT_HEADER)
    headers["status"] = [0x51, 0x01, 0x11]
    headers["vlan_tci"], headers["vlan_tpid"] = [0x6005, 9, 7], [0x88A8, 0, 0x1234]
    _put_tags_back(frames, headers, np.array([True, False, True]))
    body = bytes(range(24))
    assert frames[0].tobytes() == body[:12] + b"\x88\xa8\x60\x05" + body[12:20]
    assert frames[1].tobytes() == body
    assert frames[2].tobytes() == body[:12] + b"\x81\x00\x00\x07" + body[12:20], "without a valid tag type: 802.1Q"
