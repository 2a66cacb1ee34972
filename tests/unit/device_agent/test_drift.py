"""The drift test: it finds a shifted feature, twice in a row, and an attack neither triggers nor hides it."""

import numpy as np
import pytest

from contract.features import INDEX, N_FEATURES
from device_agent.detection.drift import DriftMonitor

MINUTE = 60_000_000
SHIFTED, OTHER = "fwd_pkts", "bwd_pkts"


def rows(n, seed, shift=0.0):
    x = np.random.default_rng(seed).uniform(0.5, 1.5, (n, N_FEATURES)).astype(np.float32)
    x[:, INDEX[SHIFTED]] += shift
    return x


@pytest.fixture
def monitor():
    made = DriftMonitor(window_rows=400)
    made.set_reference(rows(2_000, 1))
    return made


def feed(monitor, x, *, alerted=False, at_us=10 * MINUTE):
    flags = np.zeros(len(x), dtype=bool)
    flags[:1] = alerted
    monitor.observe(x, flags, at_us)


def test_traffic_as_before_does_not_drift(monitor):
    for seed in range(2, 12):
        feed(monitor, rows(400, seed))
        assert monitor.drifted == ()


def test_one_odd_window_is_no_drift_and_two_are(monitor):
    feed(monitor, rows(400, 2, shift=1.0))
    assert monitor.drifted == ()
    feed(monitor, rows(400, 3, shift=1.0))
    assert monitor.drifted == (SHIFTED,)
    feed(monitor, rows(400, 4))
    assert monitor.drifted == ()


def test_nothing_counts_under_an_alert_and_in_the_minute_after(monitor):
    for step in range(8):
        feed(monitor, rows(400, step, shift=1.5), alerted=True, at_us=10 * MINUTE + step)
        feed(monitor, rows(400, step, shift=1.5), at_us=11 * MINUTE - 1)
    assert monitor.drifted == ()
    for step in range(2):
        feed(monitor, rows(400, step, shift=1.5), at_us=12 * MINUTE)
    assert monitor.drifted == (SHIFTED,)


def test_without_enough_benign_rows_there_is_no_test():
    monitor = DriftMonitor(window_rows=100)
    monitor.set_reference(rows(199, 1))
    for seed in range(3):
        feed(monitor, rows(100, seed, shift=2.0))
    assert monitor.drifted == ()


def test_a_new_reference_starts_over(monitor):
    for seed in (2, 3):
        feed(monitor, rows(400, seed, shift=1.0))
    monitor.set_reference(rows(2_000, 5, shift=1.0))
    assert monitor.drifted == ()
    for seed in (6, 7):
        feed(monitor, rows(400, seed, shift=1.0))
    assert monitor.drifted == ()


def test_the_worst_feature_comes_first(monitor):
    for seed in (2, 3):
        x = rows(400, seed, shift=1.4)
        x[:, INDEX[OTHER]] += 0.4
        feed(monitor, x)
    assert monitor.drifted == (SHIFTED, OTHER)


def test_the_latest_flows_without_an_alert_are_at_hand(monitor):
    """The open window and the one before, and nothing of the minute after an alert."""
    assert len(monitor.recent()) == 0
    for seed in range(3, 7):
        feed(monitor, rows(300, seed))
    assert len(monitor.recent()) == 600
    last = monitor.recent()
    feed(monitor, rows(300, 9), alerted=True)
    np.testing.assert_array_equal(monitor.recent(), last)
