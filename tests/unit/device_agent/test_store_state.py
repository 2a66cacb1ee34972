"""Held models and small facts."""

import numpy as np

from contract.model import ReleaseManifest, weights_digest
from device_agent.store.state import HeldModel, StateStore


def model(seed=1, n=8):
    weights = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    manifest = ReleaseManifest(
        weights_digest=weights_digest(weights),
        spec_id="0" * 64,
        n_parameters=n,
        role="fallback",
        family_id=None,
        round_number=3,
        parent=None,
    )
    return HeldModel(manifest, weights)


def test_models_come_back_after_reopening_and_cannot_be_written_to(tmp_path):
    kept = model()
    assert StateStore(tmp_path / "s.db").keep_model(kept)
    found = StateStore(tmp_path / "s.db").load_models()
    assert list(found) == [kept.digest]
    assert found[kept.digest].manifest == kept.manifest
    assert np.array_equal(found[kept.digest].weights, kept.weights)
    assert not found[kept.digest].weights.flags.writeable


def test_a_dropped_model_is_gone(tmp_path):
    store = StateStore(tmp_path / "s.db")
    store.keep_model(model(1))
    store.keep_model(model(2))
    store.drop_model(model(1).digest)
    assert list(StateStore(tmp_path / "s.db").load_models()) == [model(2).digest]


def test_a_model_whose_bytes_changed_is_left_out_and_counted(tmp_path):
    store = StateStore(tmp_path / "s.db")
    store.keep_model(model())
    changed = model().weights.copy()
    changed[0] += 1
    store.database.write("UPDATE models SET weights = ?", [(changed.tobytes(),)])
    store.database.write("INSERT INTO models VALUES (?, ?, ?)", [("f" * 64, "{}", b"")])
    assert store.load_models() == {}
    assert store.damaged_models == 2


def test_facts_are_kept_and_replaced(tmp_path):
    store = StateStore(tmp_path / "s.db")
    assert store.get("active") is None
    store.put("active", {"a": [1, None]})
    store.put("active", {"a": [2]})
    assert StateStore(tmp_path / "s.db").get("active") == {"a": [2]}


def test_a_damaged_fact_counts_as_missing(tmp_path):
    store = StateStore(tmp_path / "s.db")
    store.database.write("INSERT INTO facts VALUES (?, ?)", [("active", "{")])
    assert store.get("active") is None
