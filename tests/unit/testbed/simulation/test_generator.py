"""Generated fleets: known, seeded, and as the scenario says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.simulation.generator import Scenario, make_fleet


def counts(share):
    return np.stack([np.bincount(y, minlength=8) for y in share.y])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1_000), st.sampled_from([0.05, 0.5, 10.0]))
def test_shares_have_the_same_class_proportions(seed, alpha):
    """Largest remainders: no class is off by more than one row."""
    fleet, _ = make_fleet(Scenario(devices=12, alpha=alpha), seed)
    train, validation, test = (counts(s) for s in (fleet.train, fleet.validation, fleet.test))
    assert np.abs(train * 2 - validation).max() <= 2
    assert np.abs(train * 3 - test).max() <= 4
    assert (train[:, 0] == 50).all()


def test_the_same_seed_gives_the_same_fleet():
    one, other = (make_fleet(Scenario(concept_shift=True), 4)[0] for _ in range(2))
    assert one.train.x.tobytes() == other.train.x.tobytes()
    assert one.family.tolist() == other.family.tolist()
    assert make_fleet(Scenario(concept_shift=True), 5)[0].train.x.tobytes() != one.train.x.tobytes()


def test_model_inputs_stay_in_the_range_of_the_contract():
    fleet, _ = make_fleet(Scenario(feature_shift=3.0), 1)
    assert fleet.train.x.min() >= 0.0
    assert fleet.train.x.max() <= 3.0


def test_families_and_outliers_are_as_many_as_asked():
    fleet, _ = make_fleet(Scenario(devices=60, families=5, outliers=0.1), 2)
    assert fleet.outlier.sum() == 6
    assert len(np.unique(fleet.family[~fleet.outlier])) == 5
    alone, _ = make_fleet(Scenario(families=1), 2)
    assert not alone.outlier.any()


def test_concept_shift_moves_attacks_and_not_benign_traffic():
    """Without feature shift benign means agree over families; attack means do not."""
    fleet, _ = make_fleet(Scenario(concept_shift=True, feature_shift=0.0, alpha=10.0, outliers=0.0), 3)

    def mean(family, label):
        rows = fleet.family == family
        return fleet.train.x[rows][fleet.train.y[rows] == label].mean(axis=0)

    benign = np.abs(mean(0, 0) - mean(1, 0)).max()
    attack = max(np.abs(mean(0, c) - mean(1, c)).max() for c in range(1, 8))
    assert attack > 4.0 * benign


@pytest.mark.parametrize("poison", ["idle", "label-flip", "sign-flip"])
def test_a_fifth_of_every_family_is_hostile_and_only_flipped_labels_change_rows(poison):
    honest, _ = make_fleet(Scenario(poison="idle", hostile=0.2), 6)
    fleet, _ = make_fleet(Scenario(poison=poison, hostile=0.2), 6)
    for f in range(5):
        members = fleet.family == f
        assert fleet.hostile[members].sum() == int(0.2 * members.sum())
    assert fleet.test.y.tobytes() == honest.test.y.tobytes()
    flipped = (fleet.train.y != honest.train.y).any(axis=1)
    assert (flipped == (fleet.hostile if poison == "label-flip" else False)).all()


def test_drift_moves_some_devices_to_another_family():
    fleet, later = make_fleet(replace(Scenario(drift=0.3)), 7)
    moved = fleet.family != later.family
    assert moved.sum() == round(0.3 * (~fleet.outlier).sum())
    assert not moved[fleet.outlier].any()
