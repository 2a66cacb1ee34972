"""Keys to rows: what the index does with collisions, removals and growth."""

import numpy as np
import pytest

from device_agent.flows.columnar.parse import parse_batch
from device_agent.flows.columnar.table import KeyTable, hash_words
from device_agent.flows.records import PacketBatch
from tests.unit.device_agent.frames import ethernet, ipv6, tcp_header, udp


def keys(n, start=0):
    frames = [udp(src=f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}", sport=1_000) for i in range(start, start + n)]
    return parse_batch(PacketBatch.from_frames(frames, range(n)))[0]


def one_value(words, seed):
    return np.zeros(len(words[0]), dtype=np.uint64)


@pytest.mark.parametrize("hash_function", [hash_words, one_value])
def test_each_key_has_its_own_row_and_keeps_it(hash_function):
    table = KeyTable(1, hash_function)
    packets = keys(300)
    rows = table.rows(packets)
    assert len(set(rows.tolist())) == 300
    np.testing.assert_array_equal(table.rows(packets), rows)
    assert len(table) == 300


@pytest.mark.parametrize("hash_function", [hash_words, one_value])
def test_released_rows_are_given_to_others(hash_function):
    table = KeyTable(1, hash_function)
    first = table.rows(keys(200))
    table.release(first[50:150])
    assert len(table) == 100
    kept = table.rows(keys(200))
    np.testing.assert_array_equal(kept[:50], first[:50])
    np.testing.assert_array_equal(kept[150:], first[150:])
    assert len(set(kept.tolist())) == 200


def test_the_table_grows_and_shrinks_with_its_keys():
    table = KeyTable(3)
    for round_number in range(6):
        packets = keys(3_000, start=round_number * 3_000)
        rows = table.rows(packets)
        assert len(set(rows.tolist())) == 3_000
        np.testing.assert_array_equal(table.rows(packets), rows)
        table.release(rows)
    assert len(table) == 0


def test_v6_addresses_that_differ_in_high_bytes_only_do_not_meet():
    """A sum of multiplied words collides for such addresses; mixing each word does not."""
    sources = [f"{a:x}00::{b:x}00:0:0" for a in range(1, 64) for b in range(1, 64)]
    frames = [ethernet(ipv6(tcp_header(), src=a, dst="2001:db8::1"), 0x86DD) for a in sources]
    packets, _ = parse_batch(PacketBatch.from_frames(frames, range(len(frames))))
    for seed in range(20):
        hashed = hash_words([*packets.v6_words.T, packets.key_1], seed)
        assert len(np.unique(hashed)) == len(sources)


def test_a_v4_key_is_not_the_v6_key_of_the_same_words():
    """An IPv6 packet between ``::`` addresses of matching words stays apart from an IPv4 flow."""
    four = udp(src="0.0.0.0", dst="0.0.0.0", sport=1, dport=2)
    six = ethernet(ipv6(b"\x00\x01\x00\x02\x00\x08\x00\x00", src="::", dst="::", next_header=17), 0x86DD)
    packets, refused = parse_batch(PacketBatch.from_frames([four, six], [0, 1]))
    assert refused == {}
    assert len(set(KeyTable(5, one_value).rows(packets).tolist())) == 2
