"""Initiator windows by group against the windows one by one."""

import numpy as np
import pytest

from device_agent.flows.columnar import window_runs as module
from device_agent.flows.columnar.openings import Openings
from device_agent.flows.columnar.state import EVENT
from device_agent.flows.windows import WINDOW_US, InitiatorWindows


def random_openings(rng, n, initiators, peers, ports, six=0.1):
    """Return openings, and the same as addresses and ports."""
    events = np.zeros(n, dtype=EVENT)
    a, b = rng.integers(initiators, size=n), rng.integers(peers, size=n)
    port = rng.choice(ports, size=n)
    swapped = events["swapped"] = rng.random(n) < 0.5
    events["is_v6"] = rng.random(n) < six
    first, second = np.where(swapped, b, a), np.where(swapped, a, b)
    events["key_0"] = np.where(events["is_v6"], 0, first << 32 | second)
    events["v6_words"][:, 1], events["v6_words"][:, 3] = first, second
    events["key_1"] = np.where(swapped, port << 48 | 5 << 32, 5 << 48 | port << 32)
    calls = []
    for i in range(n):
        long = events["is_v6"][i]
        pair = [int(c[i]).to_bytes(16) if long else int(c[i]) for c in (a, b)]
        calls.append((*pair, int(port[i])))
    return events, calls


class Both:
    """The windows told one by one and together; numbers go on over batches."""

    def __init__(self, *limits):
        self.single, self.together = InitiatorWindows(*limits), Openings(*limits)
        self.asked: list = []
        self.number = -1

    def check(self, events, calls, clock, rng, answers=0.0):
        """Tell both, some openings turned into answers to earlier flows; compare, and return the features."""
        want = []
        events["clock"] = clock
        for event, (initiator, responder, port), time in zip(events, calls, clock.tolist(), strict=True):
            if self.asked and rng.random() < answers:
                event["number"], asker = self.asked.pop(int(rng.integers(len(self.asked))))
                event["answer"], event["swapped"] = True, False
                event["is_v6"] = isinstance(asker, bytes)
                low = int.from_bytes(asker) if isinstance(asker, bytes) else asker
                event["key_0"], event["v6_words"] = 0 if event["is_v6"] else low << 32, (0, low, 0, 0)
                self.single.answer(asker, int(event["number"]))
            else:
                event["number"] = self.number = self.number + 1
                self.asked.append((self.number, initiator))
                want.append(self.single.open(initiator, responder, port, time // WINDOW_US, self.number))
        got = self.together.note(events)
        np.testing.assert_array_equal(got, np.array(want).reshape(-1, 7))
        assert list(self.together.windows.table) == list(self.single.table)
        assert self.together.windows.evicted == self.single.evicted
        assert self.together.windows.stored == self.single.stored
        return got


@pytest.mark.parametrize("limits", [(4_096, 131_072), (5, 131_072), (4_096, 60), (3, 40)])
@pytest.mark.parametrize("answers", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(8))
def test_groups_count_what_single_flows_do(seed, answers, limits):
    """Batches of many sizes, some windows or hours apart, with and without room for all initiators."""
    rng = np.random.default_rng(seed)
    both = Both(*limits)
    clock = 10**15
    ports = [0, 1, 23, 80, *range(2_000, 4_000)]
    for n in (1, 40, 300, 17, 2_000, 5):
        events, calls = random_openings(rng, n, rng.choice([2, 12, 300]), 3_000, ports)
        times = clock + np.cumsum(rng.choice([0, 100, 90_000], size=n))
        if rng.random() < 0.3:
            times[n // 2 :] += 25_000_000
        if rng.random() < 0.3:
            times[n // 3 :] += 3_600_000_000
        clock = int(times[-1])
        both.check(events, calls, times, rng, answers)
    for windows in (both.single, both.together.windows):
        windows.clear()
    events, calls = random_openings(rng, 50, 3, 10, [1])
    both.check(events, calls, np.full(50, clock), rng, answers)


@pytest.mark.parametrize("peers", [1_500, 1 << 32])
def test_counts_saturate(peers):
    """A scan of 5,000 addresses and ports in two batches a window, and what is left of it in the next windows."""
    rng = np.random.default_rng(1)
    both = Both()
    for window in (0, 0, 1, 1, 3):
        events, calls = random_openings(rng, 5_000, 1, peers, np.arange(1, 60_000), six=0.0)
        got = both.check(events, calls, np.full(5_000, 10**15 + window * WINDOW_US), rng)
        assert got[-1, 1:3].tolist() == [1_000, 1_000]
        assert got[-1, 4] == 1_000 or (peers, window) == (1_500, 3)
    assert (got[-1, 4] == 1_000) == (peers > 1_500), "most of 1,500 are known by then"


def test_one_responder_and_one_port():
    """Entropy is 0, exactly, however many flows there are."""
    rng = np.random.default_rng(1)
    events, calls = random_openings(rng, 3_000, 1, 1, [443], six=0.0)
    got = Both().check(events, calls, np.full(3_000, 10**15), rng)
    assert not got[:, 5:].any()
    assert got[-1, :5].tolist() == [3_000, 1, 1, 2_999, 1]


def test_flows_without_a_port_between_others():
    """They have the port features of the flow before them."""
    rng = np.random.default_rng(3)
    both = Both()
    for ports in ([0], [0, 0, 7, 9], [0]):
        events, calls = random_openings(rng, 200, 1, 5, ports, six=0.0)
        both.check(events, calls, np.full(200, 10**15), rng)


def test_answers_alone():
    """A batch without openings gives no features, and the counts go down all the same."""
    rng = np.random.default_rng(4)
    both = Both()
    events, calls = random_openings(rng, 300, 2, 5, [1], six=0.2)
    both.check(events, calls, np.full(300, 10**15), rng)
    events, calls = random_openings(rng, 200, 2, 5, [1])
    assert both.check(events, calls, np.full(200, 10**15), rng, answers=1.0).shape == (0, 7)
    events, calls = random_openings(rng, 1, 1, 5, [1], six=0.0)
    assert 1 < both.check(events, calls, np.full(1, 10**15), rng)[0, 3] < 100


def test_flows_beyond_what_counts_for_entropy(monkeypatch):
    monkeypatch.setattr(module, "MOST_COUNTED", 500)
    monkeypatch.setattr("device_agent.flows.windows.MOST_COUNTED", 500)
    rng = np.random.default_rng(5)
    both = Both()
    for _ in range(4):
        events, calls = random_openings(rng, 300, 1, 900, [1, 2, 3], six=0.0)
        got = both.check(events, calls, np.full(300, 10**15), rng)
    assert got[-1, 1] > 500


def test_windows_of_absurd_clocks():
    """Windows more than 2**32 apart, as hostile times of packets make them, are different windows."""
    rng = np.random.default_rng(6)
    events, calls = random_openings(rng, 300, 4, 50, [1, 2], six=0.0)
    clock = np.full(300, 10**15)
    clock[100:] += (WINDOW_US << 32) * 2
    clock[200:] += (WINDOW_US << 32) * 8
    Both().check(events, calls, clock, rng)


def test_answers_before_the_first_opening_of_a_batch_belong_to_earlier_windows():
    rng = np.random.default_rng(7)
    both = Both()
    events, calls = random_openings(rng, 400, 3, 50, [1, 2], six=0.0)
    both.check(events, calls, np.full(400, 10**15), rng)
    for step in range(3):
        events, calls = random_openings(rng, 400, 3, 50, [1, 2], six=0.0)
        both.check(events, calls, np.full(400, 10**15 + (step + 1) * WINDOW_US), rng, answers=0.7)


def test_first_met_first_known(monkeypatch):
    """With room for four known responders, the first of the later window is known and the others stay new."""
    for where in ("device_agent.flows.windows", "device_agent.flows.columnar.window_runs"):
        monkeypatch.setattr(f"{where}.SATURATION", 4)
    monkeypatch.setattr("device_agent.flows.columnar.openings._BUSY", 2)
    both, rng = Both(), np.random.default_rng(8)
    for window, responders in enumerate([(9, 3, 7), (8, 2, 6), (5, 5), (8, 2, 6), (6, 8, 2)]):
        events = np.zeros(len(responders), dtype=EVENT)
        events["key_0"] = 1 << 32 | np.array(responders, dtype=np.uint64)
        events["key_1"] = 5 << 48 | 80 << 32
        calls = [(1, responder, 80) for responder in responders]
        got = both.check(events, calls, np.full(len(responders), 10**15 + window * WINDOW_US), rng)
    assert got[:, 4].tolist() == [2, 2, 2], "2 and 6, of both windows"
