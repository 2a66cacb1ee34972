"""The store: what goes in comes out, all or nothing, and a bad disk is one line."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from contract.exit_codes import ExitCode
from contract.messages import ActiveModel, Assignment, EvaluationReport
from contract.model import DEFAULT_SPEC, ModelId
from gateway.aggregation import ServerState
from gateway.cli import main
from gateway.errors import ModelSpecError, StoreError
from gateway.families import Decision, Family
from gateway.grouping import Scaling
from gateway.registry import Device
from gateway.releases import make_release
from gateway.restore import restore
from gateway.rounds import TargetResult
from gateway.store import FILE_NAME, Store
from gateway.store.families import StoredGrouping
from tests.unit.gateway.builders import config, signature, task, update


class NoSigner:
    """Signs with zeros."""

    key_id = "0" * 16

    def sign(self, _data):
        return b"\0" * 64


@pytest.fixture
def store(tmp_path):
    with closing(Store(tmp_path)) as opened:
        yield opened


def model(value, *, number=1, role="fallback", family_id=None, parent=None):
    theta = np.full(DEFAULT_SPEC.n_parameters, value, dtype=np.float32)
    return make_release(
        theta, DEFAULT_SPEC, NoSigner(), role=role, family_id=family_id, round_number=number, parent=parent
    )


def reopened(store, tmp_path):
    store.close()
    return closing(Store(tmp_path))


def test_devices_keep_their_reported_model(store):
    device = Device("a", session="s", state="ready", online=True, refusal=None, train_rows=7)
    store.devices.save(device, now_s=5.0)
    active = ActiveModel(
        device_id="a",
        assignment_version=1,
        active=ModelId(role="fallback", digest="0" * 64),
        reason="only-one",
        threshold=0.5,
    )
    store.devices.save_active(active)
    store.devices.save(device, now_s=6.0)
    (stored,) = store.devices.all()
    assert (stored.device, stored.last_seen_s, stored.active) == (device, 6.0, active)


def test_signatures_replace_each_other(store):
    for sequence in (1, 2):
        store.signatures.save(signature("a", sequence=sequence), now_s=0.0)
    assert store.signatures.all() == [signature("a", sequence=2)]


def test_models_keep_weights_lineage_and_optimiser(store, tmp_path):
    first, second = model(1.0, number=0), model(2.0, parent=model(1.0).manifest.weights_digest)
    state = ServerState(3, np.ones(4, dtype=np.float32), np.full(4, 2.0, dtype=np.float32))
    for release in (first, second):
        store.models.add(release, now_s=1.0)
    store.models.set_head("fallback", second.manifest.weights_digest, state)
    store.models.set_published(second.manifest.weights_digest, published=True)
    with reopened(store, tmp_path) as again:
        digest, kept = again.models.heads()["fallback"]
        assert digest == second.manifest.weights_digest
        assert (kept.step, kept.first.tolist(), kept.second.tolist()) == (3, [1.0] * 4, [2.0] * 4)
        assert again.models.release(digest) == second
        assert [m.parent for m in again.models.all()] == [None, first.manifest.weights_digest]
        assert again.models.published() == {digest}
        assert again.models.release("f" * 64) is None


def test_a_head_must_be_a_known_model(store):
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        store.models.set_head("fallback", "f" * 64, ServerState.fresh())


def test_a_round_keeps_tasks_and_each_update_once_and_drops_weights_at_its_end(store):
    store.rounds.open(1, [task("a", 1), task("b", 1)], now_s=1.0)
    for _ in range(2):
        store.rounds.add_update(1, update("a", 1), now_s=2.0)
    assert store.rounds.open_number() == 1
    assert store.rounds.tasks(1) == [task("a", 1), task("b", 1)]
    assert store.rounds.update_ids(1) == {"round-000001-a-fallback"}
    (delta,) = store.rounds.deltas(1, "fallback")
    assert (delta.device_id, delta.rows, delta.delta) == ("a", 100, update("a", 1).delta)
    result = TargetResult("fallback", None, ("a",), "too-few-updates", {"needed": 2.0})
    store.rounds.close(1, state="expired", reason="no-quorum", results=[result], now_s=9.0)
    assert store.rounds.open_number() is None
    assert store.rounds.deltas(1, "fallback")[0].delta is None
    (stored,) = store.rounds.all()
    assert (stored.state, stored.invited, stored.updates, stored.results) == ("expired", 2, 1, (result,))
    assert store.rounds.last_number() == 1


def test_families_decisions_and_groupings(store):
    family = Family("family-1", 5, 0.5, np.array([1.0, 2.0]))
    store.families.replace_families([family])
    store.families.replace_families([Family("family-3", 9, 0.1, np.zeros(2), shared=True)])
    (living,) = store.families.living()
    assert (living.family_id, living.shared, living.radius) == ("family-3", True, 0.1)
    assert store.families.last_number() == 3
    for kind in ("warm-up", "member"):
        store.families.add_decision(Decision("a", "family-3", kind, "because", 9), now_s=1.0)
    assert [d.decision.kind for d in store.families.decisions("a")] == ["warm-up", "member"]
    assert [d.decision.kind for d in store.families.last_decisions()] == ["member"]
    scaling = Scaling(np.array([1.0]), np.array([2.0]))
    for number, accepted in ((5, True), (15, False)):
        store.families.add_grouping(StoredGrouping(number, 0.0, accepted, "why", {"gate": 0.2}, scaling))
    last, believed = store.families.last_grouping(), store.families.last_believed_grouping()
    assert last is not None
    assert believed is not None
    assert (last.round_number, believed.round_number, believed.scaling.scale.tolist()) == (15, 5, [2.0])


def test_assignments_reports_and_counts(store):
    assignment = Assignment(device_id="a", version=4, family_id=None, reason="r", fallback=None, expert=None)
    store.families.save_assignment(assignment)
    assert store.families.assignments() == [assignment]
    report = EvaluationReport(
        device_id="a",
        run_id="r",
        scores=(),
        active=ModelId(role="fallback", digest="0" * 64),
        exam_rows=0,
        exam_benign_s=0.0,
    )
    for _ in range(2):
        store.reports.save(report, now_s=0.0)
    assert store.reports.all() == [report]
    for _ in range(2):
        store.add_counts({"update.duplicate": 2, "birth.spec-mismatch": 1})
    assert store.counts() == {"birth.spec-mismatch": 2, "update.duplicate": 4}


def test_a_transaction_is_all_or_nothing(store):
    def crash():
        with store.transaction():
            store.rounds.open(1, [task("a", 1)], now_s=0.0)
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        crash()
    assert store.rounds.last_number() == 0


def test_a_reader_sees_what_a_writer_stored_and_cannot_write(store, tmp_path):
    store.add_counts({"x": 1})
    with closing(Store(tmp_path, read_only=True)) as reader:
        assert reader.counts() == {"x": 1}
        with pytest.raises(StoreError, match="readonly"):
            reader.add_counts({"x": 1})


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_reading_before_the_first_start_says_so(tmp_path, name):
    if name == "empty":
        (tmp_path / FILE_NAME).touch()
    with pytest.raises(StoreError, match="no gateway has stored anything there yet"):
        Store(tmp_path, read_only=True)


def test_another_schema_version_is_refused(store, tmp_path):
    store.close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="schema version 99, this program knows 1"):
        Store(tmp_path)


def test_a_file_that_is_no_database_is_one_line_and_the_exit_code_says_store(tmp_path, capsys):
    state = tmp_path / "state"
    state.mkdir()
    (state / FILE_NAME).write_bytes(b"this is no database" * 100)
    path = tmp_path / "gateway.toml"
    path.write_text('[store]\ndir = "state"\n[signing]\ndir = "keys"\n')
    assert main(["run", "--config", str(path)]) == ExitCode.STORE
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "file is not a database" in err


def test_restoring_a_fresh_store_makes_the_first_fallback_once(store, tmp_path):
    first = restore(store, config(seed=7), DEFAULT_SPEC, NoSigner(), now_s=0.0)
    second = restore(store, config(seed=8), DEFAULT_SPEC, NoSigner(), now_s=0.0)
    assert first.memory.heads == second.memory.heads
    assert first.memory.heads["fallback"].norm > 1.0
    assert first.tasks == ()


def test_restoring_an_open_round_brings_tasks_and_updates_back(store):
    restore(store, config(), DEFAULT_SPEC, NoSigner(), now_s=0.0)
    store.rounds.open(1, [task("a", 1), task("b", 1)], now_s=1.0)
    store.rounds.add_update(1, update("a", 1), now_s=2.0)
    restored = restore(store, config(), DEFAULT_SPEC, NoSigner(), now_s=3.0)
    assert restored.tasks == (task("a", 1), task("b", 1))
    assert restored.update_ids == {"round-000001-a-fallback"}
    assert restored.memory.rounds.next_number == 2


def test_a_store_with_models_of_another_spec_is_refused(store):
    restore(store, config(), DEFAULT_SPEC, NoSigner(), now_s=0.0)
    other = DEFAULT_SPEC.model_copy(update={"version": 2})
    with pytest.raises(ModelSpecError, match=r"use another store\.dir"):
        restore(store, config(), other, NoSigner(), now_s=0.0)


def test_a_life_of_the_store_has_one_number_and_the_next_has_a_larger_one(tmp_path):
    """Whatever the clock says: a device must take the new one for later."""
    store = Store(tmp_path)
    assert store.epoch.number(now_s=1_000.9) == 1_000
    assert store.epoch.number(now_s=5_000.0) == 1_000
    assert store.epoch.renew(now_s=10.0) == 1_001
    store.close()
    again = Store(tmp_path)
    assert again.epoch.number(now_s=0.0) == 1_001
    again.close()
