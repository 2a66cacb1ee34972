"""The guard of the baseline: a burst inside the learning window does not train."""

import numpy as np

from device_agent.labels.source import Source
from device_agent.samples.guard import without_bursts
from device_agent.samples.pool import Rows
from device_agent.samples.split import SplitSettings

S = 1_000_000


def rows(start_s, source=Source.BASELINE):
    n = len(start_s)
    return Rows(
        x=np.zeros((n, 3), np.float32),
        y=np.zeros(n, np.int32),
        start_us=(np.asarray(start_s) * S).astype(np.int64),
        flow_id=np.arange(n, dtype=np.uint64),
        source=np.full(n, source, np.uint8),
    )


STEADY = np.arange(0, 300, 1.0)
BURST = np.linspace(120, 129, 400)


def test_a_burst_in_the_learning_window_is_left_out():
    kept, left_out = without_bursts(rows(np.concatenate([STEADY, BURST])), SplitSettings(block_s=10))
    assert left_out == 410
    assert not ((kept.start_us >= 120 * S) & (kept.start_us < 130 * S)).any()


def test_marked_bursts_stay():
    """What a test harness or an operator called an attack teaches the classifier."""
    steady, burst = rows(STEADY), rows(BURST, Source.MARK)
    both = Rows(
        *(np.concatenate([getattr(r, c) for r in (steady, burst)]) for c in ("x", "y", "start_us", "flow_id", "source"))
    )
    assert without_bursts(both, SplitSettings(block_s=10))[1] == 0


def test_ordinary_unevenness_stays():
    rng = np.random.default_rng(0)
    uneven = np.repeat(np.arange(0, 600, 10.0), rng.poisson(6, 60))
    assert without_bursts(rows(uneven), SplitSettings(block_s=10))[1] == 0


def test_too_short_a_window_says_nothing_about_the_usual():
    assert without_bursts(rows(np.concatenate([np.arange(0, 30, 1.0), np.full(300, 35.0)])), SplitSettings())[1] == 0
    assert without_bursts(rows([]), SplitSettings())[1] == 0
