"""Tumbling windows of initiators."""

import itertools
from math import log2

import pytest

from device_agent.flows import windows as module
from device_agent.flows.windows import MAX_VALUES, SATURATION, InitiatorWindows, Opened

X, Y, P = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02", b"\x0a\x00\x00\x09"
HOUR = 360
"""Windows of an hour."""


def peer(number):
    return number.to_bytes(4, "big")


class Windows(InitiatorWindows):
    """Windows that number their flows."""

    def __init__(self, *limits):
        super().__init__(*limits)
        self.numbers = itertools.count()

    def flow(self, initiator, responder, port, window):
        return self.open(initiator, responder, port, window, next(self.numbers))


def counts(opened):
    return opened.flows, opened.peers, opened.ports


def test_flows_peers_and_ports_are_counted_for_each_initiator():
    windows = Windows()
    windows.flow(X, P, 80, 0)
    windows.flow(X, P, 443, 0)
    assert counts(windows.flow(X, Y, 443, 0)) == (3, 2, 2)
    assert counts(windows.flow(Y, X, 1, 0)) == (1, 1, 1)


def test_the_first_flow_of_an_initiator():
    assert Windows().flow(X, P, 80, 7) == Opened(1, 1, 1, 0, 1, 0.0, 0.0)


def test_port_zero_is_no_port():
    windows = Windows()
    assert windows.flow(X, P, 0, 0) == Opened(1, 1, 0, 0, 1, 0.0, 0.0)
    windows.flow(X, P, 80, 0)
    assert windows.flow(X, P, 0, 0).port_entropy_bits == 0.0


def test_the_last_window_still_counts_and_the_one_before_does_not():
    windows = Windows()
    windows.flow(X, peer(1), 1, 0)
    assert windows.flow(X, peer(2), 1, 1)[:4] == (2, 2, 1, 1)
    assert windows.flow(X, peer(3), 1, 2)[:4] == (2, 2, 1, 1)
    assert windows.flow(X, peer(4), 1, 4)[:4] == (1, 1, 1, 0)


def test_a_value_of_both_windows_counts_once():
    windows = Windows()
    windows.flow(X, P, 80, 0)
    assert counts(windows.flow(X, P, 80, 1)) == (2, 1, 1)
    assert counts(windows.flow(X, P, 80, 2)) == (2, 1, 1)


def test_saturation_is_kept_into_the_next_window():
    windows = Windows()
    for i in range(SATURATION + 500):
        opened = windows.flow(X, peer(i), i % 60_000 + 1, 0)
    assert opened[:5] == (SATURATION + 500, SATURATION, SATURATION, SATURATION + 499, SATURATION)
    assert opened.peer_entropy_bits == pytest.approx(log2(SATURATION), rel=1e-9)
    for i in range(400):
        opened = windows.flow(X, peer(90_000 + i), 1, 1)
    assert opened.peers == opened.new_peers == SATURATION
    assert windows.flow(X, P, 1, 2).peers == 401


def test_a_flow_fails_until_it_is_answered():
    windows = Windows()
    for _ in range(3):
        windows.flow(X, P, 80, 0)
    windows.answer(X, 1)
    assert windows.flow(X, P, 80, 0).failed == 2
    windows.answer(X, 0)
    windows.answer(X, 3)
    assert windows.flow(X, P, 80, 1).failed == 1
    windows.answer(X, 4)
    assert windows.flow(X, P, 80, 1).failed == 1
    windows.answer(X, 2)
    assert windows.flow(X, P, 80, 1).failed == 1


def test_answers_to_flows_of_forgotten_windows_are_for_no_count():
    windows = Windows()
    windows.flow(X, P, 80, 0)
    windows.flow(X, P, 80, 1)
    windows.flow(X, P, 80, 2)
    windows.answer(X, 0)
    assert windows.flow(X, P, 80, 2).failed == 2
    windows.flow(X, P, 80, 9)
    for number in range(4):
        windows.answer(X, number)
    assert windows.flow(X, P, 80, 9).failed == 1


def test_answers_to_flows_of_a_forgotten_initiator_are_for_no_count():
    windows = Windows(1)
    windows.flow(X, P, 80, 0)
    windows.flow(Y, P, 80, 0)
    windows.answer(X, 0)
    windows.flow(X, P, 80, 0)
    windows.answer(X, 0)
    assert windows.flow(X, P, 80, 0).failed == 1
    windows.clear()
    windows.flow(X, P, 80, 0)
    windows.answer(X, 3)
    assert windows.flow(X, P, 80, 0).failed == 1


def test_a_responder_is_new_while_it_is_in_the_windows():
    windows = Windows()
    windows.flow(X, peer(1), 80, 0)
    assert windows.flow(X, peer(1), 80, 1).new_peers == 1
    assert windows.flow(X, peer(2), 80, 1).new_peers == 2
    assert windows.flow(X, peer(1), 80, 2).new_peers == 1, "met in a window that is forgotten"
    assert windows.flow(X, peer(3), 80, 2).new_peers == 2
    assert windows.flow(Y, peer(1), 80, 2).new_peers == 1


@pytest.mark.parametrize(
    ("first", "again", "new"), [(0, HOUR, 0), (0, 2 * HOUR - 1, 0), (0, 2 * HOUR, 1), (HOUR - 1, 2 * HOUR, 1)]
)
def test_responders_are_known_to_the_end_of_the_next_hour(first, again, new):
    windows = Windows()
    windows.flow(X, P, 80, first)
    assert windows.flow(X, P, 80, again).new_peers == new


def test_meeting_a_responder_again_keeps_it_known():
    windows = Windows()
    assert [windows.flow(X, P, 80, hour * HOUR + 5).new_peers for hour in range(5)] == [1, 0, 0, 0, 0]


def test_an_hour_knows_as_many_responders_as_a_window_stores():
    windows = Windows()
    for i in range(SATURATION):
        windows.flow(X, peer(i), 80, i // 600)
    windows.flow(X, peer(SATURATION), 80, 2)
    windows.flow(X, peer(SATURATION + 1), 80, 9)
    assert windows.flow(X, peer(SATURATION), 80, 20).new_peers == 1
    assert windows.flow(X, peer(SATURATION - 1), 80, 20).new_peers == 1


def test_entropy_over_both_windows():
    windows = Windows()
    windows.flow(X, peer(1), 80, 0)
    windows.flow(X, peer(1), 443, 0)
    windows.flow(X, peer(2), 80, 1)
    opened = windows.flow(X, peer(3), 80, 1)
    assert opened.peer_entropy_bits == pytest.approx(1.5, rel=1e-9)
    assert opened.port_entropy_bits == pytest.approx(2 - 0.75 * log2(3), rel=1e-9)
    assert windows.flow(X, peer(3), 80, 2).peer_entropy_bits == pytest.approx(log2(3) - 2 / 3, rel=1e-9)
    assert windows.flow(X, peer(3), 80, 9).peer_entropy_bits == 0.0


def test_flows_beyond_what_counts_leave_entropy_alone(monkeypatch):
    monkeypatch.setattr(module, "MOST_COUNTED", 2)
    windows = Windows()
    windows.flow(X, peer(1), 1, 0)
    windows.flow(X, peer(2), 1, 0)
    opened = windows.flow(X, peer(3), 2, 0)
    assert counts(opened) == (3, 3, 2)
    assert (opened.peer_entropy_bits, opened.port_entropy_bits) == (1.0, 0.0)


def test_initiators_are_bounded_and_the_longest_quiet_goes():
    windows = Windows(2)
    windows.flow(X, P, 1, 0)
    windows.flow(Y, P, 1, 0)
    windows.flow(X, P, 1, 0)
    windows.flow(P, X, 1, 0)
    assert (len(windows), windows.evicted) == (2, 1)
    assert windows.flow(X, P, 1, 0).flows == 3
    assert windows.flow(Y, P, 1, 0).flows == 1


def test_stored_values_are_bounded():
    windows = Windows(4_096, 100)
    for i in range(1_000):
        windows.flow(peer(i % 7), peer(i), 1, i // 40)
        stored = sum(entry.values() for entry in windows.table.values())
        assert stored == windows.stored
        assert stored <= 100 or len(windows) == 1


def test_a_scanner_for_hours_stores_no_more_than_its_share():
    windows = Windows()
    for window in range(0, 2 * HOUR + 10, 5):
        for i in range(60):
            windows.flow(X, peer(window * 1_000 + i), 1 + window % 999, window)
            windows.flow(X, peer(window * 1_000 + i), 1 + window % 999, window + 1)
    assert windows.stored <= 6 * SATURATION < MAX_VALUES


def test_clear_forgets():
    windows = Windows()
    windows.flow(X, P, 1, 0)
    windows.clear()
    assert windows.flow(X, P, 1, 0) == Opened(1, 1, 1, 0, 1, 0.0, 0.0)
    assert windows.stored == 2
