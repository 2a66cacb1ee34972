"""The sample buffer on disk follows the one in memory."""

from dataclasses import replace

import numpy as np

from contract.features import N_FEATURES
from device_agent.samples.buffer import BufferSettings, SampleBuffer
from device_agent.samples.pool import EARLY_ROW, Rows
from device_agent.samples.split import Split
from device_agent.store.samples import SampleStore

SECOND = 1_000_000


def rows(n, first_id=1, *, label=0, seed=0):
    rng = np.random.default_rng(seed + first_id)
    return Rows(
        x=rng.uniform(0, 3, size=(n, N_FEATURES)).astype(np.float32),
        y=np.full(n, label, dtype=np.int32),
        start_us=(np.arange(n, dtype=np.int64) + first_id) * SECOND,
        flow_id=np.arange(first_id, first_id + n, dtype=np.uint64) + np.uint64(2**62),
        source=np.full(n, 2, dtype=np.uint8),
    )


def offer(buffer, store, new, exam=None):
    n = len(new)
    exam = np.zeros(n, dtype=bool) if exam is None else exam
    store.follow(new, buffer.offer(new, exam, np.zeros(n, dtype=bool)))


def by_id(found):
    order = np.argsort(found.flow_id)
    return found.select(order)


def assert_same(buffer, restored):
    for split in Split:
        held, kept = by_id(buffer.rows(split)), by_id(restored[split])
        for column in ("x", "y", "start_us", "flow_id", "source"):
            assert np.array_equal(getattr(held, column), getattr(kept, column)), (split, column)


def test_a_restart_restores_what_the_buffer_held_also_after_evictions(tmp_path):
    buffer = SampleBuffer(N_FEATURES, BufferSettings(train_rows=80, validation_rows=30, exam_rows=40))
    store = SampleStore(tmp_path / "s.db")
    for start in range(1, 600, 60):
        offer(buffer, store, rows(60, start, label=start % 3), exam=np.arange(60) % 4 == 0)
    assert store.flush()
    assert len(store) == 0
    assert_same(buffer, SampleStore(tmp_path / "s.db").load())


def test_what_was_not_flushed_is_written_at_closing(tmp_path):
    buffer = SampleBuffer(N_FEATURES, BufferSettings())
    store = SampleStore(tmp_path / "s.db")
    offer(buffer, store, rows(10))
    store.close()
    assert_same(buffer, SampleStore(tmp_path / "s.db").load())


def test_a_disk_that_refuses_costs_counted_rows_but_no_exception(tmp_path):
    buffer = SampleBuffer(N_FEATURES, BufferSettings())
    store = SampleStore(tmp_path / "s.db", max_waiting=15)
    store.database.read("PRAGMA query_only=ON")
    offer(buffer, store, rows(10))
    assert not store.flush()
    offer(buffer, store, rows(10, 100))
    assert store.lost == 5
    assert len(store) == 15
    store.database.read("PRAGMA query_only=OFF")
    assert store.flush()
    assert sum(len(part) for part in store.load().values()) == 15


def test_rows_of_another_schema_are_thrown_away(tmp_path):
    buffer = SampleBuffer(N_FEATURES, BufferSettings())
    store = SampleStore(tmp_path / "s.db")
    offer(buffer, store, rows(10))
    store.flush()
    store.database.write("UPDATE schema SET id = ?", [("other",)])
    store.close()
    assert sum(len(part) for part in SampleStore(tmp_path / "s.db").load().values()) == 0


def test_rows_of_the_wrong_width_are_left_out(tmp_path):
    buffer = SampleBuffer(N_FEATURES, BufferSettings())
    store = SampleStore(tmp_path / "s.db")
    offer(buffer, store, rows(10))
    store.flush()
    store.database.write("UPDATE samples SET x = ? WHERE flow_id = ?", [(b"short", 2**62 + 3)])
    assert sum(len(part) for part in store.load().values()) == 9


def test_a_verdict_reaches_the_disk_and_leaves_exam_rows_alone(tmp_path):
    buffer, store = SampleBuffer(N_FEATURES, BufferSettings()), SampleStore(tmp_path / "s.db")
    new = rows(40)
    exam = np.arange(40) >= 30
    offer(buffer, store, new, exam)
    for flow_id in new.flow_id[[0, 35]].tolist():
        if buffer.relabel(flow_id, 3, 3):
            store.relabel(flow_id, 3, 3)
    store.close()
    reopened = SampleStore(tmp_path / "s.db")
    assert_same(buffer, reopened.load())
    labels = {int(i): int(y) for kept in reopened.load().values() for i, y in zip(kept.flow_id, kept.y, strict=True)}
    assert labels[int(new.flow_id[0])] == 3
    assert labels[int(new.flow_id[35])] == 0
    reopened.close()


def test_the_early_row_of_a_flow_is_a_row_of_its_own(tmp_path):
    """Both outlive a restart, one may give way without the other, and a verdict on the flow labels both."""
    buffer = SampleBuffer(N_FEATURES, BufferSettings(train_rows=80, validation_rows=30))
    store = SampleStore(tmp_path / "s.db")
    for start in range(1, 200, 20):
        closing = rows(20, start)
        offer(buffer, store, replace(closing, x=closing.x / 2, flow_id=closing.flow_id | EARLY_ROW))
        offer(buffer, store, closing)
    held = np.concatenate([buffer.rows(split).flow_id for split in Split])
    flows = held & ~EARLY_ROW
    twice = np.unique(flows)[np.unique(flows, return_counts=True)[1] == 2]
    assert 0 < len(twice) < len(np.unique(flows))
    assert buffer.relabel(int(twice[0]), 3, 3)
    store.relabel(int(twice[0]), 3, 3)
    store.close()
    restored = SampleStore(tmp_path / "s.db").load()
    assert_same(buffer, restored)
    assert sum(int((kept.y == 3).sum()) for kept in restored.values()) == 2
