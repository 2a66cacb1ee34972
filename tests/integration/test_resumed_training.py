"""A job that a restart of the agent interrupts goes on from its last checkpoint, if its rows still are there."""

import time
from dataclasses import replace

import numpy as np
import pytest

from contract.initial import initial_theta
from contract.messages import RoundTask, TrainTarget
from contract.model import DEFAULT_SPEC, weights_digest
from device_agent.facts import Job
from device_agent.learner import Learner, Outcome
from device_agent.samples.pool import Rows
from device_agent.store.state import StateStore
from device_agent.training.client import Trainer
from device_agent.training.resuming import in_order

BASE = initial_theta(DEFAULT_SPEC.layout, 1)
EPOCHS = 60


def job(**changes):
    target = TrainTarget(role="fallback", base=weights_digest(BASE))
    task = RoundTask(
        round_id="round-000007",
        round_number=7,
        device_id="cam-1",
        spec_id=DEFAULT_SPEC.spec_id,
        targets=(target,),
        local_epochs=EPOCHS,
        learning_rate=0.01,
        proximal_mu=0.1,
        recon_weight=0.5,
        seed=3,
        deadline_s=600.0,
    ).model_copy(update=changes)
    return Job("job-1", target.base, task, target)


def rows(n=1_500):
    rng = np.random.default_rng(0)
    return Rows(
        x=rng.uniform(0, 3, (n, DEFAULT_SPEC.inputs)).astype(np.float32),
        y=rng.integers(-1, 3, n).astype(np.int32),
        start_us=rng.permutation(n).astype(np.int64),
        flow_id=np.arange(n, dtype=np.uint64) + np.uint64(2**63),
        source=np.zeros(n, dtype=np.uint8),
    )


def shuffled_with_more(held):
    """The buffer after the restart: another order, and rows that came since."""
    new = replace(held, x=held.x + 0.1, flow_id=held.flow_id + np.uint64(10_000))
    parts = {name: np.concatenate([getattr(held, name), getattr(new, name)]) for name in held.__slots__}
    order = np.random.default_rng(1).permutation(2 * len(held))
    return Rows(**{name: column[order] for name, column in parts.items()})


@pytest.fixture
def process(tmp_path):
    """Make agents' learning parts on one store, one after the other."""
    made = []

    def make():
        store = StateStore(tmp_path / "state.db")
        learner = Learner(Trainer(), DEFAULT_SPEC, None, budget_s=600.0, store=store, checkpoint_s=0.0)
        made.append((learner, store))
        return learner, store

    yield make
    for learner, store in made:
        learner.close()
        store.close()


def wait(learner):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        outcome = learner.poll()
        if outcome is not None:
            return outcome
        time.sleep(0.01)
    raise AssertionError("no outcome")


def interrupted(process, held):
    """Begin, wait for a checkpoint on disk, then let the agent die."""
    learner, store = process()
    learner.start(job(), held, BASE, seconds_left=600.0)
    deadline = time.monotonic() + 30
    while not store.database.read("SELECT id FROM unfinished"):
        assert learner.poll() is None, "the training was over before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    learner._trainer.close()
    store.close()


def test_the_result_is_that_of_a_training_that_was_never_interrupted(process, tmp_path):
    held = in_order(rows())
    learner, _ = process()
    learner.start(job(), held, BASE, seconds_left=600.0)
    whole = wait(learner)
    interrupted(process, held)
    learner, store = process()
    found = learner.unfinished(job(), shuffled_with_more(held))
    assert found is not None
    kept, checkpoint = found
    assert 0 < checkpoint.epochs < EPOCHS
    learner.start(job(), kept, BASE, seconds_left=600.0, resume=checkpoint)
    resumed = wait(learner)
    assert isinstance(resumed, Outcome)
    np.testing.assert_array_equal(resumed.finished.result.theta, whole.finished.result.theta)
    assert resumed.finished.result.losses == whole.finished.result.losses
    assert store.database.read("SELECT id FROM unfinished") == [], "what is finished is forgotten"


def gone(held):
    return held.select(np.arange(1, len(held)))


def relabelled(held):
    y = held.y.copy()
    y[5] = 2 if y[5] != 2 else 1
    return replace(held, y=y)


def changed(held):
    x = held.x.copy()
    x[7, 3] += 1e-3
    return replace(held, x=x)


@pytest.mark.parametrize("change", [gone, relabelled, changed, lambda held: held.select(np.arange(0))])
def test_other_rows_mean_starting_over(process, change):
    """A result from half of the old rows and half of the new ones would be nobody's."""
    held = in_order(rows())
    interrupted(process, held)
    assert process()[0].unfinished(job(), change(held)) is None


@pytest.mark.parametrize("changes", [{"seed": 4}, {"learning_rate": 0.02}, {"round_id": "round-000008"}])
def test_another_task_starts_over(process, changes):
    held = in_order(rows())
    interrupted(process, held)
    assert process()[0].unfinished(job(**changes), held) is None
    assert process()[0].unfinished(job(), held) is not None


def test_a_damaged_checkpoint_starts_over(process):
    held = in_order(rows())
    interrupted(process, held)
    learner, store = process()
    ((body,),) = store.database.read("SELECT body FROM unfinished")
    for bad in (body[:-1], body[:40] + b"\x01" + body[41:], b""):
        store.database.write("UPDATE unfinished SET body = ?", [(bad,)])
        assert learner.unfinished(job(), held) is None


def test_a_task_that_is_over_leaves_nothing_behind(process):
    held = in_order(rows())
    learner, store = process()
    learner.start(job(), held, BASE, seconds_left=600.0)
    deadline = time.monotonic() + 30
    while not store.database.read("SELECT id FROM unfinished"):
        assert learner.poll() is None
        assert time.monotonic() < deadline
    learner.cancel("job-1")
    assert store.database.read("SELECT id FROM unfinished") == []
    deadline = time.monotonic() + 20
    while learner._trainer.busy:
        assert learner.poll() is None
        assert time.monotonic() < deadline
    assert store.database.read("SELECT id FROM unfinished") == []


def test_the_store_keeps_a_few_and_the_newest_of_each(tmp_path):
    store = StateStore(tmp_path / "state.db")
    for number in range(9):
        store.keep_unfinished(f"job-{number // 2}", bytes([number]))
    assert [store.unfinished(f"job-{n}") for n in range(5)] == [None, b"\x03", b"\x05", b"\x07", b"\x08"]
    store.close()
