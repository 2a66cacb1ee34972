"""Splits and the bounded buffer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.labels.source import Source
from device_agent.samples.buffer import BufferSettings, SampleBuffer
from device_agent.samples.pool import EARLY_ROW, Pool, Rows
from device_agent.samples.split import Split, SplitSettings, assign_splits, block_numbers

S = 1_000_000


def rows(y, start_s=None, first_id=1):
    y = np.asarray(y, dtype=np.int32)
    n = len(y)
    start = np.zeros(n) if start_s is None else np.broadcast_to(np.asarray(start_s, dtype=float), n)
    ids = np.arange(first_id, first_id + n).astype(np.uint64)
    x = np.stack([ids.astype(np.float32), y.astype(np.float32)], axis=1)
    return Rows(x, y, (start * S).astype(np.int64), ids, np.full(n, 2, np.uint8))


def none(n):
    return np.zeros(n, dtype=bool)


def splits(start_s, settings=None, exam=None):
    start_us = (np.asarray(start_s) * S).astype(np.int64)
    return assign_splits(start_us, none(len(start_us)) if exam is None else exam, settings or SplitSettings())


# --- splits ---------------------------------------------------------------------------------------------------------


def test_a_block_is_never_cut():
    found = splits(np.arange(0, 20_000) / 10)
    assert all(len(set(block)) == 1 for block in found.reshape(-1, 100))


def test_the_share_is_kept_and_both_sides_are_mixed_in_time():
    found = splits(np.arange(5, 200_000, 10.0))
    share = (found == Split.VALIDATION).mean()
    assert 0.23 < share < 0.27
    quarters = (found.reshape(4, -1) == Split.VALIDATION).mean(axis=1)
    assert (np.abs(quarters - share) < 0.03).all()
    changes = np.count_nonzero(np.diff(found.astype(int)))
    assert changes == pytest.approx(2 * 0.25 * 0.75 * len(found), rel=0.1)  # as independent draws would


def test_the_same_seed_cuts_the_same_way_and_another_one_does_not():
    at = np.arange(0, 10_000, 10.0)
    np.testing.assert_array_equal(splits(at), splits(at))
    assert (splits(at) != splits(at, SplitSettings(seed=1))).any()


def test_the_share_follows_the_setting():
    found = splits(np.arange(0, 50_000, 10.0), SplitSettings(validation_share=0.5))
    assert 0.47 < (found == Split.VALIDATION).mean() < 0.53


def test_exam_rows_are_exam_rows_in_any_block():
    at = np.arange(0, 1000, 5.0)
    exam = at >= 500
    assert ((splits(at, exam=exam) == Split.EXAM) == exam).all()


def test_blocks_count_in_packet_time():
    assert block_numbers(np.array([0, 9_999_999, 10_000_000]), SplitSettings()).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "options", [{"block_s": 0}, {"validation_share": 0.0}, {"validation_share": 1.0}, {"seed": -1}], ids=str
)
def test_split_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="out of range"):
        SplitSettings(**options)


# --- pool -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 25),
    offers=st.lists(st.lists(st.integers(-1, 3), max_size=15), max_size=8),
    seed=st.integers(0, 99),
    half_life=st.sampled_from([None, 100.0]),
)
def test_the_pool_holds_exactly_what_it_says(capacity, offers, seed, half_life):
    """A log of admissions and evictions always equals the content; columns never mix; small classes survive."""
    pool, rng, log, next_id = Pool(capacity, 2, half_life_s=half_life), np.random.default_rng(seed), {}, 1
    for number, y in enumerate(offers):
        new = rows(y, start_s=number * 10.0, first_id=next_id)
        before = pool.counts()
        admitted, evicted = pool.add(new, rng)
        next_id += len(y)
        log |= {int(i): int(label) for i, label in zip(new.flow_id[admitted], new.y[admitted], strict=True)}
        for flow_id in evicted:
            del log[int(flow_id)]
        held = pool.rows()
        assert {int(i): int(label) for i, label in zip(held.flow_id, held.y, strict=True)} == log
        np.testing.assert_array_equal(held.x[:, 0], held.flow_id.astype(np.float32))
        np.testing.assert_array_equal(held.x[:, 1], held.y)
        offered = {label: before.get(label, 0) + y.count(label) for label in {*before, *y}}
        assert len(pool) == min(capacity, sum(offered.values()))
        counts = pool.counts()
        for label, n in offered.items():
            if n <= capacity // len(offered):
                assert counts.get(label, 0) == n  # a class below its fair share loses nothing
        full = [counts.get(label, 0) for label, n in offered.items() if counts.get(label, 0) < n]
        assert not full or max(full) - min(full) <= 1  # classes that were cut are cut alike


def test_rare_classes_survive_a_flood():
    pool, rng = Pool(100, 2, half_life_s=3600.0), np.random.default_rng(0)
    pool.add(rows([1] * 10), rng)
    for number in range(50):
        pool.add(rows([0] * 200, start_s=number, first_id=1000 + 200 * number), rng)
    assert pool.counts() == {0: 90, 1: 10}


def test_without_a_half_life_the_sample_is_uniform_over_time():
    """The mean arrival of what stays is the mean arrival of all."""
    pool, rng = Pool(2_000, 2, half_life_s=None), np.random.default_rng(1)
    for number in range(100):
        pool.add(rows([0] * 200, start_s=number, first_id=1 + 200 * number), rng)
    assert (pool.rows().start_us / S).mean() == pytest.approx(49.5, abs=2.5)


def test_with_a_half_life_recent_rows_prevail_by_the_stated_factor():
    """Two half-lives apart: a quarter as many stay, within sampling noise."""
    pool, rng = Pool(1_000, 2, half_life_s=100.0), np.random.default_rng(2)
    for number in range(8):
        pool.add(rows([0] * 4_000, start_s=100.0 * number, first_id=1 + 4_000 * number), rng)
    counts = np.bincount((pool.rows().start_us // (100 * S)).astype(int), minlength=8)
    assert counts[7] / counts[5] == pytest.approx(4.0, rel=0.35)
    assert counts[7] > counts[6] > counts[5] > counts[3]


def test_the_same_seed_keeps_the_same_rows():
    kept = []
    for _ in range(2):
        pool, rng = Pool(20, 2, half_life_s=10.0), np.random.default_rng(3)
        pool.add(rows([0, 1] * 50), rng)
        kept.append(pool.rows().flow_id)
    np.testing.assert_array_equal(*kept)


# --- buffer ---------------------------------------------------------------------------------------------------------


def buffer(**options):
    return SampleBuffer(2, BufferSettings(**{"train_rows": 500, "validation_rows": 200, "exam_rows": 100, **options}))


def test_rows_go_where_their_block_says_and_exam_rows_stay_apart():
    b = buffer()
    at = np.arange(0, 400, 1.0)
    exam = at >= 300
    offered = b.offer(rows([0] * 400, start_s=at), exam, none(400))
    for split in Split:
        expected = np.flatnonzero(offered.split == split) + 1
        assert sorted(b.rows(split).flow_id.tolist()) == expected.tolist()
    assert len(b.rows(Split.EXAM)) == 100
    assert offered.admitted.all()
    assert offered.refused == {}


def test_a_full_pool_says_what_it_dropped():
    b = buffer(exam_rows=10)
    offered = b.offer(rows([0] * 30), np.ones(30, bool), none(30))
    assert offered.refused == {"full": 20}
    assert offered.admitted.sum() == 10
    later = b.offer(rows([1] * 5, first_id=100), np.ones(5, bool), none(5))
    assert len(later.evicted[Split.EXAM]) == later.admitted.sum() == 5
    assert b.counts(Split.EXAM) == {0: 5, 1: 5}
    assert b.seen(Split.EXAM) == {0: 30, 1: 5}


def test_unlabelled_rows_under_an_open_alert_do_not_become_normal():
    b = buffer()
    alerted = np.array([True, True, False])
    offered = b.offer(rows([-1, 1, -1]), none(3), alerted)
    assert offered.admitted.tolist() == [False, True, True]
    assert offered.refused == {"open-alert": 1}
    held = np.concatenate([b.rows(split).flow_id for split in Split])
    assert 1 not in held


def test_a_verdict_relabels_a_row_but_never_an_exam_row():
    b = buffer()
    b.offer(rows([0, 0]), np.array([False, True]), none(2))
    assert b.relabel(1, 4, 3)
    assert not b.relabel(2, 4, 3)
    assert not b.relabel(99, 4, 3)
    changed = b.rows(Split.TRAIN) if len(b.rows(Split.TRAIN)) else b.rows(Split.VALIDATION)
    assert (changed.y.tolist(), changed.source.tolist()) == ([4], [3])


def test_of_a_flow_that_alerted_early_and_at_its_end_one_row_waits():
    b = buffer()
    early, closing = rows([-1]), rows([-1])
    early.flow_id[:] |= EARLY_ROW
    for row in (early, closing):
        b.offer(row, none(1), np.ones(1, dtype=bool))
    waiting = b.take_open(1, 4)
    assert waiting.flow_id.tolist() == [1]
    assert waiting.y.tolist() == [4]
    assert b.take_open(1, 4) is None


def test_the_benign_rate_counts_benign_flows_outside_exams():
    b = buffer()
    at = np.arange(0, 100, 0.5)  # 20 flows in a block of 10 s = 7,200 an hour
    b.offer(rows([0] * 200, start_s=at), none(200), none(200))
    b.offer(rows([1] * 50, start_s=5.0, first_id=1000), none(50), none(50))
    b.offer(rows([0] * 50, start_s=5.0, first_id=2000), np.ones(50, bool), none(50))
    assert b.benign_flows_per_hour() == pytest.approx(7_200)


def test_the_benign_rate_is_that_of_the_newest_hour():
    b = buffer()
    b.offer(rows([0] * 1000, start_s=np.arange(1000) * 10.0), none(1000), none(1000))
    b.offer(rows([0] * 720, start_s=10_000 + np.arange(720) * 5.0), none(720), none(720))
    assert b.benign_flows_per_hour() == pytest.approx(720)


def test_no_traffic_has_no_rate():
    assert buffer().benign_flows_per_hour() == 0.0


def test_restored_rows_are_there_again():
    b = buffer()
    b.restore(Split.VALIDATION, rows([0, 1, 2]))
    assert b.counts(Split.VALIDATION) == {0: 1, 1: 1, 2: 1}
    assert b.benign_flows_per_hour() == 0.0


def baseline(y, first_id=1):
    made = rows(y, first_id=first_id)
    made.source[:] = Source.BASELINE
    return made


def test_rows_under_open_alerts_are_no_baseline_until_somebody_judges_them():
    """An attack inside the learning window must not become part of what is normal."""
    b = buffer()
    offered = b.offer(baseline([0] * 6), none(6), np.arange(6) < 2)
    assert offered.refused == {"open-alert": 2}
    assert sum(sum(b.counts(split).values()) for split in Split) == 4
    ids = baseline([0] * 6).flow_id.tolist()
    judged = b.take_open(ids[0], 1)
    assert (judged.y.tolist(), judged.source.tolist()) == ([1], [int(Source.VERDICT)])
    assert b.offer(judged, none(1), none(1)).admitted.tolist() == [True]
    assert b.take_open(ids[0], 1) is None
    assert b.take_open(ids[5], 1) is None


def test_a_mark_outweighs_an_open_alert():
    b = buffer()
    marked = rows([0, 1])
    marked.source[:] = Source.MARK
    assert b.offer(marked, none(2), np.array([True, True])).admitted.all()


def test_only_so_many_rows_wait_for_a_verdict():
    b = buffer()
    b.offer(baseline([0] * 600), none(600), ~none(600))
    ids = baseline([0] * 600).flow_id.tolist()
    assert b.take_open(ids[0], 0) is None
    assert b.take_open(ids[-1], 0) is not None
