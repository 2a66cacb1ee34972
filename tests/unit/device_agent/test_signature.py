"""The traffic signature."""

import numpy as np
import pytest

from contract.codec import encode
from contract.features import N_FEATURES, SCHEMA_ID, SPAN
from contract.messages import Signature
from contract.signatures import ANCHOR_DIGITS, PROTOTYPE_UNIT, SKETCH_SIZE, moment_noise
from contract.taxonomy import CLASSES
from device_agent.signature import MIN_FLOWS, MOST_PROTOTYPES, attack_prototypes, noisy_moments, traffic_moments


def rows(n=1000, d=5, seed=0):
    return np.random.default_rng(seed).normal(1.5, 0.2, (n, d)).astype(np.float32)


def test_it_is_the_trimmed_mean_and_the_log_of_the_deviation():
    x = rows()
    found = traffic_moments(x)
    trimmed = [np.sort(column.astype(float))[50:-50].mean() for column in x.T]
    np.testing.assert_allclose(found.mean, trimmed, atol=1e-3)
    np.testing.assert_allclose(found.log_std, np.log(x.std(axis=0) + 1e-3), atol=1 / 64 + 1e-3)
    assert (found.mean.dtype, found.log_std.dtype, found.flows) == (np.dtype("<f2"), np.dtype("<f2"), 1000)


def test_a_few_wild_flows_hardly_move_the_mean():
    x = rows()
    wild = x.copy()
    wild[:40] = 3.0
    assert np.abs(traffic_moments(wild).mean - traffic_moments(x).mean).max() < 0.02
    assert np.abs(wild.mean(axis=0) - x.mean(axis=0)).max() > 0.05


def test_the_order_of_flows_does_not_matter():
    x = rows()
    shuffled = x[np.random.default_rng(1).permutation(len(x))]
    for name in ("mean", "log_std"):
        np.testing.assert_array_equal(getattr(traffic_moments(x), name), getattr(traffic_moments(shuffled), name))


def test_constant_features_have_a_finite_signature():
    found = traffic_moments(np.zeros((300, 4), np.float32))
    np.testing.assert_allclose(found.log_std, np.log(1e-3), atol=1 / 64)


def test_too_few_flows_have_none():
    assert traffic_moments(rows(MIN_FLOWS - 1)) is None
    assert traffic_moments(rows(MIN_FLOWS)) is not None
    assert traffic_moments(rows(0), min_flows=0) is None


def test_one_flow_cannot_be_read_off():
    """Exchanging one flow of a thousand for another moves no mean by more than its share."""
    x = rows()
    other = x.copy()
    other[0] = 0.0
    assert np.abs(traffic_moments(other).mean - traffic_moments(x).mean).max() == pytest.approx(0.0, abs=4e-3)


def test_prototypes_are_offsets_from_the_own_benign_mean():
    """The attack with the fewest rows is left out below five rows, and no more than five classes go."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(9, dtype=np.int32), [40, 30, 20, 10, 10, 9, 8, 7, 4])
    x = (0.5 + y[:, None] * 0.2 + 0.01 * rng.normal(size=(len(y), 5))).astype(np.float32)
    found = attack_prototypes(x, y)
    assert list(found) == list(CLASSES[1:6])
    assert found["scan"] * PROTOTYPE_UNIT == pytest.approx(np.full(5, 0.2), abs=0.03)


def test_no_prototype_without_benign_rows():
    y = np.ones(50, dtype=np.int32)
    assert attack_prototypes(np.ones((50, 5), dtype=np.float32), y) == {}


def test_the_largest_signature_fits_one_kilobyte():
    message = Signature(
        device_id="a-device-with-a-rather-long-name",
        schema_id=SCHEMA_ID,
        sequence=2**32 - 1,
        flows=2**32 - 1,
        mean=bytes(2 * N_FEATURES),
        log_std=bytes(N_FEATURES),
        class_rows=(65_535,) * len(CLASSES),
        prototypes={name: bytes(N_FEATURES) for name in sorted(CLASSES[1:], key=len)[-MOST_PROTOTYPES:]},
        sketch=bytes(SKETCH_SIZE),
        anchor="0" * ANCHOR_DIGITS,
    )
    assert len(encode(message)) <= 1_024


def test_noise_has_the_stated_spread_and_spares_no_clipping():
    """The noise of the mean is what the gateway reckons with; a wild row counts as a row at the border."""
    x = np.full((2_000, N_FEATURES), 1.5, dtype=np.float32)
    x[0] = 50.0
    expected = moment_noise(2.0, 2_000)
    means = [noisy_moments(x, 2.0, np.random.default_rng(seed)).mean.astype(float) for seed in range(20)]
    assert np.std(means) == pytest.approx(expected, rel=0.1)
    assert np.mean(means) == pytest.approx(1.5, abs=4 * expected / np.sqrt(20 * N_FEATURES) + 1e-3)


def test_a_spread_that_the_noise_drowns_is_the_noises_own():
    x = np.full((2_000, N_FEATURES), 1.0, dtype=np.float32)
    found = [noisy_moments(x, 0.5, np.random.default_rng(seed)).log_std for seed in range(2)]
    shared = (found[0] == found[1]).mean()
    assert shared > 0.6


def test_the_sensitivity_of_the_noise_holds_for_the_worst_exchange():
    """Two sets that differ in one flow, at opposite corners: the sums move by no more than the noise is scaled to."""
    n = 50
    a = np.zeros((n, N_FEATURES))
    b = a.copy()
    b[0] = SPAN
    sums = [np.concatenate([(c - SPAN / 2).sum(axis=0), ((c - SPAN / 2) ** 2).sum(axis=0)]) for c in (a, b)]
    c = a.copy()
    c[0] = SPAN / 2
    sums.append(np.concatenate([(c - SPAN / 2).sum(axis=0), ((c - SPAN / 2) ** 2).sum(axis=0)]))
    reach = moment_noise(1.0, 1)
    assert max(np.linalg.norm(sums[0] - s) for s in sums[1:]) <= reach


def test_too_few_flows_have_no_moments_with_noise():
    assert noisy_moments(rows(1_999, N_FEATURES), 1.0, np.random.default_rng(0), min_flows=2_000) is None
