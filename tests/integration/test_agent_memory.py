"""What an agent process takes in memory while it captures, trains and detects, with a broker where there is one."""

import sys

import pytest

from benchmarks.learning.processes import measure_agent

MAX_DETECTING_MB = 68
MAX_TRAINING_MB = 68
"""Measured on x86-64 with Python 3.11: 61 MB while detecting and while training, 63 without the C engine; 70 where the
code of the start stays. The bounds leave room for versions, not for another library."""


@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_agent_fits_into_a_small_board():
    found = measure_agent(learn_s=900.0).figures()
    sys.stdout.write(f"{found}\n")
    assert found["trained"]
    assert found["agent_detecting_rss_mb"] < MAX_DETECTING_MB
    assert found["agent_training_rss_mb"] < MAX_TRAINING_MB
    assert found["trainer_rss_mb"] < 60
