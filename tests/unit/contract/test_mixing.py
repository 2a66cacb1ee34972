"""SplitMix64 against the published sequence for seed 0."""

import numpy as np

from contract.mixing import GOLDEN, splitmix64


def test_the_first_outputs_of_seed_zero():
    states = np.arange(3, dtype=np.uint64) * GOLDEN
    assert [hex(v) for v in splitmix64(states).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]
