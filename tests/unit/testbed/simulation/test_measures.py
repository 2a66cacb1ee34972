"""Figures of merit against independent ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, f1_score

from testbed.simulation.fleet import PADDING
from testbed.simulation.measures import adjusted_rand, confusions, device_macro_f1

labels = st.lists(st.integers(-1, 4), min_size=2, max_size=40)


@settings(deadline=None)
@given(st.data(), labels)
def test_the_rand_index_is_scikit_learns(data, a):
    b = data.draw(st.lists(st.integers(-1, 4), min_size=len(a), max_size=len(a)))
    assert adjusted_rand(np.array(a), np.array(b)) == pytest.approx(adjusted_rand_score(a, b), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_is_scikit_learns_over_the_classes_in_the_truth(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, (2, 50)).astype(np.int32)
    y[1, 30:] = PADDING
    predicted = rng.integers(0, 4, (2, 50))
    found = device_macro_f1(confusions(y, predicted, 4))
    for i, rows in enumerate((50, 30)):
        truth = y[i, :rows]
        expected = f1_score(truth, predicted[i, :rows], labels=np.unique(truth), average="macro", zero_division=0.0)
        assert found[i] == pytest.approx(expected)
