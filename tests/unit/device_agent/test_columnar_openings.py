"""Initiator windows by group against the windows one by one."""

import numpy as np
import pytest

from device_agent.flows.columnar.openings import Openings
from device_agent.flows.columnar.state import KEY
from device_agent.flows.windows import InitiatorWindows


def random_openings(rng, n, initiators, peers, ports, six=0.1):
    """Return keys, directions and the same as addresses and ports."""
    keys = np.zeros(n, dtype=KEY)
    a, b = rng.integers(initiators, size=n), rng.integers(peers, size=n)
    port = rng.choice(ports, size=n)
    swapped = rng.random(n) < 0.5
    keys["is_v6"] = rng.random(n) < six
    first, second = np.where(swapped, b, a), np.where(swapped, a, b)
    keys["key_0"] = np.where(keys["is_v6"], 0, first << 32 | second)
    keys["v6_words"][:, 1], keys["v6_words"][:, 3] = first, second
    keys["key_1"] = np.where(swapped, port << 48 | 5 << 32, 5 << 48 | port << 32)
    calls = []
    for i in range(n):
        size = 16 if keys["is_v6"][i] else 4
        calls.append((int(a[i]).to_bytes(size), int(b[i]).to_bytes(size), int(port[i])))
    return keys, swapped, calls


@pytest.mark.parametrize("limits", [(4_096, 131_072), (5, 131_072), (4_096, 60), (3, 40)])
@pytest.mark.parametrize("seed", range(8))
def test_groups_count_what_single_flows_do(seed, limits):
    """Batches of many sizes, some windows apart, with and without room for all initiators."""
    rng = np.random.default_rng(seed)
    grouped, one_by_one = Openings(*limits), InitiatorWindows(*limits)
    clock = 10**15
    for n in (1, 40, 300, 17, 2_000, 5):
        keys, swapped, calls = random_openings(
            rng, n, rng.choice([2, 12, 300]), 3_000, [0, 1, 23, 80, *range(2_000, 4_000)]
        )
        times = clock + np.cumsum(rng.choice([0, 100, 90_000], size=n))
        if rng.random() < 0.3:
            times[n // 2 :] += 25_000_000
        clock = int(times[-1])
        want = [one_by_one.open(a, b, port, int(t)) for (a, b, port), t in zip(calls, times, strict=True)]
        np.testing.assert_array_equal(grouped.note(keys, swapped, times), np.array(want))
        assert grouped.evicted == one_by_one.evicted
    grouped.clear()
    one_by_one.clear()
    keys, swapped, calls = random_openings(rng, 50, 3, 10, [1])
    want = [one_by_one.open(a, b, port, clock) for a, b, port in calls]
    np.testing.assert_array_equal(grouped.note(keys, swapped, np.full(50, clock)), np.array(want))


def test_counts_saturate():
    """A scan of 5,000 addresses and ports in one batch."""
    rng = np.random.default_rng(1)
    keys, swapped, calls = random_openings(rng, 5_000, 1, 100_000, np.arange(1, 60_000), six=0.0)
    windows = InitiatorWindows()
    want = [windows.open(a, b, port, 10**15) for a, b, port in calls]
    got = Openings().note(keys, swapped, np.full(5_000, 10**15))
    np.testing.assert_array_equal(got, np.array(want))
    assert got[-1].tolist() == [5_000, 1_000, 1_000]
