"""Weights and representative rows of an int8 export: where they come from, and what is refused."""

import numpy as np
import pytest

from contract.features import N_FEATURES, SCHEMA_ID, SPAN
from contract.initial import initial_theta
from contract.messages import Signature
from contract.model import CLASSIFIER_SPEC, DEFAULT_SPEC, weights_digest
from contract.signatures import pack_log_std, pack_mean
from gateway.conversion.sources import read_rows, read_weights, stored_weights, synthetic_rows
from gateway.conversion.verify import ArtifactError
from gateway.restore import restore
from gateway.store import Store
from tests.unit.gateway.builders import config
from tests.unit.gateway.test_store import NoSigner


@pytest.fixture
def theta():
    return initial_theta(DEFAULT_SPEC.layout, 3)


def test_weights_come_from_raw_bytes_and_from_numpy_files(tmp_path, theta):
    raw, array = tmp_path / "theta.bin", tmp_path / "theta.npy"
    raw.write_bytes(theta.astype("<f4").tobytes())
    np.save(array, theta)
    for path in (raw, array):
        assert np.array_equal(read_weights(DEFAULT_SPEC, path), theta)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(7, dtype=np.float32), "28 bytes"),
        (np.full(DEFAULT_SPEC.n_parameters, np.nan, dtype=np.float32), "not finite"),
        (np.zeros(DEFAULT_SPEC.n_parameters, dtype=np.complex64), "float32"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, content, message):
    path = tmp_path / "theta.npy"
    np.save(path, content)
    with pytest.raises(ArtifactError, match=message):
        read_weights(DEFAULT_SPEC, path)


def test_a_pickle_is_not_loaded(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="no NumPy file"):
        read_rows(DEFAULT_SPEC, path)


def test_models_of_the_store_go_by_target_and_by_the_first_digits(tmp_path):
    store = Store(tmp_path)
    try:
        head = restore(store, config(), DEFAULT_SPEC, NoSigner(), now_s=0.0).memory.heads["fallback"].digest
        for name in ("fallback", head[:10]):
            assert weights_digest(stored_weights(DEFAULT_SPEC, name, store)) == head
        with pytest.raises(ArtifactError, match="0 models"):
            stored_weights(DEFAULT_SPEC, "family-9", store)
        with pytest.raises(ArtifactError, match="not of the spec classifier"):
            stored_weights(CLASSIFIER_SPEC, "fallback", store)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((99, N_FEATURES)), "at least 100 rows"),
        (np.zeros((200, N_FEATURES - 1)), "shape"),
        (np.full((200, N_FEATURES), 1e6), "contract's transform"),
        (np.full((200, N_FEATURES), np.inf), "contract's transform"),
    ],
)
def test_rows_that_are_no_model_inputs_are_refused(tmp_path, rows, message):
    """Raw features are the likeliest mistake: bytes where values up to 3 belong."""
    path = tmp_path / "rows.npy"
    np.save(path, rows)
    with pytest.raises(ArtifactError, match=message):
        read_rows(DEFAULT_SPEC, path)


def test_synthetic_rows_follow_the_signatures_of_the_fleet():
    mean = np.linspace(0.5, 2.0, N_FEATURES).astype("<f2")
    prototype = np.zeros(N_FEATURES, dtype=np.int8)
    prototype[3] = 40
    signature = Signature(
        device_id="cam-1",
        schema_id=SCHEMA_ID,
        sequence=1,
        flows=500,
        mean=pack_mean(mean),
        log_std=pack_log_std(np.full(N_FEATURES, np.log(0.01))),
        prototypes={"scan": prototype.tobytes()},
    )
    rows, text = synthetic_rows(DEFAULT_SPEC, [signature], np.random.default_rng(1))
    assert text == "synthetic, from the signatures of 1 devices"
    assert rows.dtype == np.float32
    away = np.abs(rows - mean) > 0.1
    assert set(np.flatnonzero(away.any(axis=0))) == {3}, "only the prototype moves a feature"
    assert 0.3 < away[:, 3].mean() < 0.7


def test_synthetic_rows_without_signatures_stay_in_range_and_foreign_schemas_are_left_out():
    foreign = Signature(device_id="a", schema_id="0" * 64, sequence=1, flows=1, mean=b"", log_std=b"")
    rows, text = synthetic_rows(DEFAULT_SPEC, [foreign], np.random.default_rng(1))
    assert "no signatures" in text
    assert rows.min() == 0.0
    assert 2.9 < rows.max() <= SPAN
