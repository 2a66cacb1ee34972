"""The schema is stable, named well, and its transform is fixed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract.errors import SchemaMismatchError
from contract.features import FEATURES, INDEX, N_FEATURES, NAMES, SCHEMA_ID, SPAN
from contract.taxonomy import CLASSES, TAXONOMY_ID
from contract.transform import to_model_input


def test_the_schema_id_changes_only_on_purpose():
    assert SCHEMA_ID.startswith("bf6e0197")
    assert N_FEATURES == 77


def test_the_taxonomy_keeps_its_order():
    assert CLASSES[:4] == ("benign", "scan", "bruteforce", "dos_flood")
    assert len(TAXONOMY_ID) == 64


def test_names_are_unique():
    assert len(set(NAMES)) == N_FEATURES


def test_no_address_or_port_is_a_feature():
    forbidden = {"src_ip", "dst_ip", "src_port", "dst_port", "src_mac", "dst_mac", "vlan", "ts_start"}
    assert not forbidden & set(NAMES)


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 3), st.just(N_FEATURES)),
        elements=st.floats(allow_nan=True, allow_infinity=True),
    )
)
def test_inputs_stay_in_range_whatever_comes(raw: np.ndarray):
    x, repaired = to_model_input(raw)
    assert x.dtype == np.float32
    assert x.shape == raw.shape
    assert np.isfinite(x).all()
    assert ((x >= 0) & (x <= SPAN)).all()
    assert repaired == np.count_nonzero(~(np.isfinite(raw) & (raw >= 0)))


@given(st.integers(0, N_FEATURES - 1), st.floats(0, 1e12), st.floats(0, 1e12))
def test_the_transform_is_monotone(column: int, first: float, second: float):
    raw = np.zeros((2, N_FEATURES))
    raw[:, column] = sorted((first, second))
    x, _ = to_model_input(raw)
    assert x[0, column] <= x[1, column]


def test_a_value_at_its_ceiling_reaches_the_top():
    raw = np.array([[f.ceiling for f in FEATURES]], dtype=np.float64)
    np.testing.assert_allclose(to_model_input(raw)[0], SPAN, rtol=1e-6)


def test_rows_do_not_influence_each_other():
    rng = np.random.default_rng(3)
    raw = rng.exponential(1000, (50, N_FEATURES))
    whole, _ = to_model_input(raw)
    alone = np.vstack([to_model_input(raw[i : i + 1])[0] for i in range(50)])
    np.testing.assert_array_equal(whole, alone)


ODD = (0.0, -0.0, -1e-300, 5e-324, -1.0, np.inf, -np.inf, np.nan, -np.nan, 1e308, 1e12)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_inputs_are_those_of_the_plain_formula_to_the_last_bit(n: int, order: str):
    """Models are trained on them: how they are computed may change, what comes out may not."""
    rng = np.random.default_rng(n)
    ceiling = np.array([f.ceiling for f in FEATURES], dtype=np.float64)
    unit = np.array([f.per_unit for f in FEATURES], dtype=np.float64)
    raw = np.expm1(rng.uniform(0.0, 1.2, (n, N_FEATURES)) * np.log1p(ceiling))
    raw[rng.integers(0, n, 30), rng.integers(0, N_FEATURES, 30)] = rng.choice(ODD, 30)
    good = np.isfinite(raw) & (raw >= 0.0)
    top = np.log1p(unit * ceiling)
    top[[f.kind == "binary" for f in FEATURES]] = np.log(2.0)
    with np.errstate(over="ignore"):
        plain = np.log(np.minimum(np.where(good, raw, 0.0) * unit, unit * ceiling) + 1.0) * (SPAN / top)
    x, repaired = to_model_input(np.array(raw, order=order))
    assert x.tobytes() == plain.astype(np.float32).tobytes()
    assert repaired == np.count_nonzero(~good)


@pytest.mark.parametrize("value", ODD, ids=lambda value: np.float64(value).tobytes().hex())
def test_one_odd_value_among_good_rows_is_repaired(value: float):
    raw = np.full((5, N_FEATURES), 2.0)
    raw[3, 40] = value
    good = bool(np.isfinite(value) and value >= 0.0)
    x, repaired = to_model_input(raw)
    assert repaired == int(not good)
    if not good:
        assert x[3, 40] == 0.0


def test_rows_of_another_precision_are_read_as_their_numbers():
    raw = np.arange(2 * N_FEATURES, dtype=np.float32).reshape(2, N_FEATURES)
    np.testing.assert_array_equal(to_model_input(raw)[0], to_model_input(raw.astype(np.float64))[0])


def test_a_known_value():
    raw = np.zeros((1, N_FEATURES))
    raw[0, INDEX["duration_s"]] = 1.0
    x, _ = to_model_input(raw)
    assert x[0, INDEX["duration_s"]] == pytest.approx(3 * np.log1p(1e6) / np.log1p(3.6e9), rel=1e-6)


def test_a_foreign_width_is_refused():
    with pytest.raises(SchemaMismatchError, match="77") as error:
        to_model_input(np.zeros((1, 60)))
    assert error.value.reason == "feature-count"
