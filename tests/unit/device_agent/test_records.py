"""Packet and flow batches."""

import numpy as np
import pytest

from contract.features import N_FEATURES
from device_agent.flows.records import EMPTY, IDENTITY, FlowBatch, PacketBatch, address_bytes, address_text


def flows(*addresses):
    identity = np.zeros(len(addresses), dtype=IDENTITY)
    for row, (src, dst, version) in zip(identity, addresses, strict=True):
        row["src_ip"] = np.frombuffer(address_bytes(src), dtype=np.uint8)
        row["dst_ip"] = np.frombuffer(address_bytes(dst), dtype=np.uint8)
        row["ip_version"] = version
    return FlowBatch(identity, np.arange(len(addresses) * N_FEATURES, dtype=float).reshape(-1, N_FEATURES))


def test_from_frames_packs_bytes_and_lengths():
    batch = PacketBatch.from_frames([b"ab", b"", b"cde"], [1, 2, 3], [60, 0, 1], link_type=101)
    assert batch.data.tobytes() == b"abcde"
    assert batch.offsets.tolist() == [0, 2, 2, 5]
    assert batch.wire_len.tolist() == [60, 0, 3], "never below the captured length"
    assert (len(batch), batch.link_type) == (3, 101)
    assert (batch.offsets.dtype, batch.ts_us.dtype, batch.wire_len.dtype) == (np.int64, np.int64, np.int32)


def test_an_empty_batch():
    batch = PacketBatch.from_frames([], [])
    assert (len(batch), batch.offsets.tolist()) == (0, [0])


def test_slices_share_bytes():
    part = PacketBatch.from_frames([b"ab", b"c", b"def"], [1, 2, 3]).slice(1, 3)
    assert part.offsets.tolist() == [2, 3, 6]
    assert part.ts_us.tolist() == [2, 3]


def test_concat_keeps_order():
    one, two = flows(("10.0.0.1", "10.0.0.2", 4)), flows(("::1", "2001:db8::2", 6), ("1.2.3.4", "5.6.7.8", 4))
    both = FlowBatch.concat([one, EMPTY, two])
    assert [both.ip_text(i) for i in range(3)] == [
        ("10.0.0.1", "10.0.0.2"),
        ("::1", "2001:db8::2"),
        ("1.2.3.4", "5.6.7.8"),
    ]
    assert both.features.shape == (3, N_FEATURES)


def test_concat_of_nothing_is_empty():
    assert FlowBatch.concat([]) is EMPTY
    assert EMPTY.features.shape == (0, N_FEATURES)


def test_select_picks_rows_of_both_arrays():
    batch = flows(("10.0.0.1", "10.0.0.2", 4), ("10.0.0.3", "10.0.0.4", 4))
    picked = batch.select(np.array([False, True]))
    assert picked.ip_text(0) == ("10.0.0.3", "10.0.0.4")
    assert picked.features[0, 0] == N_FEATURES


@pytest.mark.parametrize(("text", "version"), [("192.168.1.9", 4), ("2001:db8::9", 6), ("::ffff:1.2.3.4", 6)])
def test_addresses_round_trip(text, version):
    raw = address_bytes(text)
    assert len(raw) == 16
    assert address_bytes(address_text(raw, version)) == raw


def test_a_bad_address_is_refused():
    with pytest.raises(ValueError, match="camera"):
        address_bytes("camera")
