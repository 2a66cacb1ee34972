"""The sample store under kill -9: whatever was flushed is there afterwards, and the file opens every time."""

import numpy as np
import pytest

from device_agent.store.samples import SampleStore
from tests.integration.killed_writer import write_until_killed

WRITER = """
import sys
import numpy as np
from pathlib import Path
from contract.features import N_FEATURES
from device_agent.samples.buffer import BufferSettings, SampleBuffer
from device_agent.samples.pool import Rows
from device_agent.store.samples import SampleStore
store = SampleStore(Path(sys.argv[1]))
buffer = SampleBuffer(N_FEATURES, BufferSettings(train_rows=90_000, validation_rows=90_000))
for split, kept in store.load().items():
    if len(kept):
        buffer.restore(split, kept)
number = int(sys.argv[2])
while True:
    ids = np.arange(number, number + 20, dtype=np.uint64)
    rows = Rows(np.ones((20, N_FEATURES), np.float32), np.zeros(20, np.int32), ids.astype(np.int64) * 1_000_000, ids,
                np.ones(20, np.uint8))
    none = np.zeros(20, bool)
    store.follow(rows, buffer.offer(rows, none, none))
    store.flush()
    number += 20
    print(number, flush=True)
"""


@pytest.mark.timeout(120)
def test_a_power_cut_never_costs_flushed_rows_or_the_file(tmp_path):
    path, number = tmp_path / "samples.db", 1
    rng = np.random.default_rng(8)
    for _ in range(6):
        number = write_until_killed(WRITER, path, number, rng.uniform(0.05, 0.4))
        store = SampleStore(path)
        assert not store.database.moved_aside
        held = np.concatenate([kept.flow_id for kept in store.load().values()])
        store.close()
        assert set(range(1, number)) <= set(held.tolist())
