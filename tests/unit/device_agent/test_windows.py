"""Tumbling windows of initiators."""

from device_agent.flows.windows import SATURATION, InitiatorWindows

S = 1_000_000
X, Y, P = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02", b"\x0a\x00\x00\x09"


def peer(number):
    return number.to_bytes(4, "big")


def test_flows_peers_and_ports_are_counted_for_each_initiator():
    windows = InitiatorWindows()
    windows.open(X, P, 80, 0)
    windows.open(X, P, 443, 1)
    assert windows.open(X, Y, 443, 2) == (3, 2, 2)
    assert windows.open(Y, X, 1, 3) == (1, 1, 1)


def test_port_zero_is_no_port():
    assert InitiatorWindows().open(X, P, 0, 0) == (1, 1, 0)


def test_the_last_window_still_counts_and_the_one_before_does_not():
    windows = InitiatorWindows()
    windows.open(X, peer(1), 1, 9 * S)
    assert windows.open(X, peer(2), 1, 10 * S) == (2, 2, 1)
    assert windows.open(X, peer(3), 1, 20 * S) == (2, 2, 1)
    assert windows.open(X, peer(4), 1, 45 * S) == (1, 1, 1)


def test_a_value_of_both_windows_counts_once():
    windows = InitiatorWindows()
    windows.open(X, P, 80, 0)
    assert windows.open(X, P, 80, 12 * S) == (2, 1, 1)
    assert windows.open(X, P, 80, 22 * S) == (2, 1, 1)


def test_saturation_is_kept_into_the_next_window():
    windows = InitiatorWindows()
    for i in range(SATURATION + 500):
        opened = windows.open(X, peer(i), i % 60_000 + 1, 0)
    assert opened == (SATURATION + 500, SATURATION, SATURATION)
    for i in range(400):
        opened = windows.open(X, peer(90_000 + i), 1, 10 * S)
    assert opened.peers == SATURATION
    assert windows.open(X, P, 1, 20 * S).peers == 401


def test_initiators_are_bounded_and_the_longest_quiet_goes():
    windows = InitiatorWindows(max_initiators=2)
    windows.open(X, P, 1, 0)
    windows.open(Y, P, 1, 1)
    windows.open(X, P, 1, 2)
    windows.open(P, X, 1, 3)
    assert (len(windows), windows.evicted) == (2, 1)
    assert windows.open(X, P, 1, 4).flows == 3
    assert windows.open(Y, P, 1, 5).flows == 1


def test_stored_values_are_bounded():
    windows = InitiatorWindows(max_values=100)
    for i in range(1_000):
        windows.open(peer(i % 7), peer(i), 1, i * 1000)
        stored = sum(entry.values() for entry in windows._table.values())
        assert stored == windows._values
        assert stored <= 100 or len(windows) == 1


def test_clear_forgets():
    windows = InitiatorWindows()
    windows.open(X, P, 1, 0)
    windows.clear()
    assert windows.open(X, P, 1, 0) == (1, 1, 1)
