"""The training process: one answer per job, whatever happens to it."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.initial import initial_theta
from contract.model import DEFAULT_SPEC
from device_agent.boards import Budgets
from device_agent.inference.numpy_engine import NumpyEngine
from device_agent.inference.select import load_artifact
from device_agent.parts import make_trainer
from device_agent.training.client import GRACE_S, MAX_RESTARTS, Trainer
from device_agent.training.jobs import TrainingFailed, TrainingFinished, TrainJob
from device_agent.training.trainer import TrainData, TrainSettings, train

LAYOUT = DEFAULT_SPEC.layout
ENDLESS = TrainSettings(epochs=100)
RSS_BUDGET_BYTES = 60_000_000


def data(n):
    rng = np.random.default_rng(0)
    return TrainData(rng.uniform(0, 3, (n, LAYOUT.inputs)).astype(np.float32), rng.integers(-1, 3, n).astype(np.int32))


def job(n=200, **changes):
    plain = TrainJob("job", LAYOUT, None, initial_theta(LAYOUT, 1), data(n), TrainSettings(), 30.0)
    return replace(plain, **changes)


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


class Harness:
    """A trainer and its bell."""

    def __init__(self, **options):
        self.bell = threading.Event()
        self.trainer = Trainer(notify=self.bell.set, **options)

    def result(self, timeout_s=30.0):
        assert self.bell.wait(timeout_s), "no event came"
        self.bell.clear()
        event = self.trainer.poll()
        assert self.trainer.poll() is None
        assert not self.trainer.busy
        return event

    def last(self, timeout_s=30.0):
        """Return the event that ends the job; checkpoints ring the bell too."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.bell.wait(timeout_s)
            self.bell.clear()
            event = self.trainer.poll()
            if event is not None:
                return event
        raise AssertionError("no event came")

    def running(self):
        """Wait until the process is busy with mathematics: it has used CPU time beyond its start."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            pid = self.trainer.pid
            if pid is not None and cpu_ticks(pid) > 60:
                return pid
            time.sleep(0.02)
        raise AssertionError("the process never got busy")


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def gone(pid, within_s=10.0):
    """Whether a process ends (or is a zombie that init has yet to reap)."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def harness():
    made = []

    def make(**options):
        made.append(Harness(**options))
        return made[-1]

    yield make
    for one in made:
        one.trainer.close()


def test_the_process_gives_what_the_loop_gives(harness):
    """Same rows, seed and engine: the same weights to the last bit, on every job."""
    h = harness()
    expected = train(NumpyEngine(LAYOUT), initial_theta(LAYOUT, 1), data(200), TrainSettings())
    for _ in range(2):
        h.trainer.start(job())
        event = h.result()
        assert isinstance(event, TrainingFinished)
        np.testing.assert_array_equal(event.result.theta, expected.theta)
        assert replace(event.result, theta=None) == replace(expected, theta=None)
        assert event.engine == "numpy"


def test_litert_stays_within_the_memory_budget(harness):
    """Ten thousand rows, LiteRT: the process stays below 60 MB resident, and keeps a low priority."""
    pytest.importorskip("ai_edge_litert.interpreter")
    h = harness()
    h.trainer.start(job(10_000, artifact=load_artifact(DEFAULT_SPEC)))
    event = h.result()
    assert event.engine == "litert"
    assert 0 < event.peak_rss_bytes < RSS_BUDGET_BYTES
    assert os.getpriority(os.PRIO_PROCESS, h.trainer.pid) >= 10
    assert "pydantic" not in Path(f"/proc/{h.trainer.pid}/maps").read_text()


def test_one_job_at_a_time(harness):
    h = harness()
    h.trainer.start(job())
    with pytest.raises(RuntimeError, match="busy"):
        h.trainer.start(job())
    assert isinstance(h.result(), TrainingFinished)


def test_the_budget_ends_the_loop_with_what_it_has(harness):
    h = harness()
    h.trainer.start(job(5_000, settings=ENDLESS, time_budget_s=0.3))
    event = h.result()
    assert isinstance(event, TrainingFinished)
    assert event.result.stopped
    assert 0 < event.result.steps < 100 * 157


def test_a_killed_process_is_a_failed_job_and_the_next_one_works(harness):
    h = harness()
    h.trainer.start(job(5_000, settings=ENDLESS))
    os.kill(h.running(), signal.SIGKILL)
    event = h.result()
    assert isinstance(event, TrainingFailed)
    assert event.reason == "worker-died"
    assert "-9" in event.detail
    h.trainer.start(job())
    assert isinstance(h.result(), TrainingFinished)


LONG = TrainSettings(epochs=40)


def test_a_process_killed_after_a_checkpoint_is_replaced_and_the_result_is_the_same(harness):
    """Twice: the second one is killed as well, after it got further than the first."""
    h = harness()
    expected = train(NumpyEngine(LAYOUT), initial_theta(LAYOUT, 1), data(2_000), LONG)
    h.trainer.start(job(2_000, settings=LONG, checkpoint_s=0.0))
    reached = 0
    for _ in range(MAX_RESTARTS):
        seen = reached
        while seen <= reached:
            assert h.bell.wait(20.0)
            h.bell.clear()
            checkpoint = h.trainer.take_checkpoint()
            seen = checkpoint.epochs if checkpoint is not None else seen
        reached = seen
        assert reached < LONG.epochs, "too quick to be killed in the middle; take more rows"
        os.kill(h.trainer.pid, signal.SIGKILL)
    event = h.last()
    assert isinstance(event, TrainingFinished), event
    np.testing.assert_array_equal(event.result.theta, expected.theta)
    assert replace(event.result, theta=None) == replace(expected, theta=None)


def test_a_process_that_dies_without_getting_further_is_not_started_for_ever(harness):
    """A worker that ends as soon as it has the job, such as one that the kernel kills for its memory."""
    h = harness()
    h.trainer.start(job(2_000, settings=LONG, checkpoint_s=0.0))
    while h.trainer.take_checkpoint() is None:
        assert h.bell.wait(20.0)
        h.bell.clear()
    h.trainer._python = "/bin/false"
    os.kill(h.trainer.pid, signal.SIGKILL)
    event = h.last()
    assert (event.reason, h.trainer.pid) == ("worker-died", None)


def test_a_cancelled_job_is_not_taken_up_again(harness):
    h = harness()
    h.trainer.start(job(5_000, settings=ENDLESS, checkpoint_s=0.0))
    while h.trainer.take_checkpoint() is None:
        assert h.bell.wait(20.0)
        h.bell.clear()
    h.trainer.cancel()
    assert h.last().reason == "cancelled"


def test_the_boards_budget_sets_memory_and_threads_of_the_process():
    """Read from the process itself: its limit of address space and the threads that its mathematics may use."""
    trainer = make_trainer(Budgets(trainer_memory_mb=100, trainer_threads=2))
    try:
        trainer.start(job())
        while trainer.poll() is None:
            time.sleep(0.01)
        limits = Path(f"/proc/{trainer.pid}/limits").read_text()
        environment = Path(f"/proc/{trainer.pid}/environ").read_bytes().split(b"\0")
        (line,) = [line for line in limits.splitlines() if line.startswith("Max address space")]
        assert int(line.split()[3]) == (100 + 512) * 1_048_576
        assert {b"OPENBLAS_NUM_THREADS=2", b"OMP_NUM_THREADS=2"} <= set(environment)
    finally:
        trainer.close()


def test_a_cancelled_job_fails_and_the_next_one_works(harness):
    h = harness()
    h.trainer.start(job(5_000, settings=ENDLESS))
    pid = h.running()
    h.trainer.cancel()
    assert h.result() == TrainingFailed("job", "cancelled", "exit code -9")
    assert gone(pid)
    h.trainer.start(job())
    assert isinstance(h.result(), TrainingFinished)


def test_cancelling_at_once_still_gives_one_event(harness):
    h = harness()
    h.trainer.start(job(5_000, settings=ENDLESS))
    h.trainer.cancel()
    assert h.result().reason == "cancelled"


def test_a_job_past_its_deadline_is_killed(harness):
    """The process ignores its budget here (it is far away); the parent's clock decides."""
    clock = Clock()
    h = harness(clock=clock)
    h.trainer.start(job(5_000, settings=ENDLESS, time_budget_s=1_000.0))
    h.running()
    clock.now_s = 999.0 + GRACE_S
    assert h.trainer.poll() is None
    assert h.trainer.pid is not None
    clock.now_s = 1_000.0 + GRACE_S
    assert h.trainer.poll() is None
    assert h.result().reason == "deadline"


def test_a_bad_job_is_an_answer_and_the_process_lives_on(harness):
    h = harness()
    h.trainer.start(job(theta=np.zeros(3, np.float32)))
    event = h.result()
    assert (event.reason, "shape" in event.detail) == ("bad-job", True)
    pid = h.trainer.pid
    h.trainer.start(job())
    assert isinstance(h.result(), TrainingFinished)
    assert h.trainer.pid == pid


def test_closing_in_mid_job_leaves_nothing(harness):
    h = harness()
    h.trainer.start(job(5_000, settings=ENDLESS))
    pid = h.running()
    h.trainer.close()
    assert gone(pid)
    assert h.result().reason == "closed"


def test_a_trainer_that_was_never_used_closes():
    trainer = Trainer()
    assert trainer.poll() is None
    trainer.cancel()
    trainer.close()
    assert trainer.pid is None


def test_a_python_that_does_not_exist_is_a_failed_job(harness):
    h = harness(python="/nonexistent/python")
    h.trainer.start(job())
    event = h.result()
    assert event.reason == "worker-died"
    assert "/nonexistent/python" in event.detail


def test_too_little_memory_is_a_failed_job(harness):
    h = harness(memory_limit_bytes=150_000_000)
    h.trainer.start(job(400_000))
    assert h.result().reason in {"out-of-memory", "worker-died"}


PARENT = """
import sys, time
from tests.integration.test_training_process import ENDLESS, Harness, job
h = Harness()
if sys.argv[1] == "training":
    h.trainer.start(job(100_000, settings=ENDLESS))
    print(h.running(), flush=True)
else:
    h.trainer.start(job())
    h.result()
    print(h.trainer.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("state", ["training", "idle"])
def test_a_killed_parent_leaves_no_orphan(state):
    """SIGKILL to the agent: the training process ends at once, although its job would run for half a minute."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, state], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(parent.stdout.readline())
        assert not gone(pid, within_s=0.1)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert gone(pid, within_s=5.0)


def test_a_process_that_was_killed_after_its_answer_does_not_get_the_next_job():
    """Cancelled in the moment between the answer and its poll: the dying process may still look alive."""
    harness = Harness()
    try:
        for number in range(20):
            harness.trainer.start(job(n=32, job_id=f"first-{number}"))
            assert harness.bell.wait(30.0)
            harness.bell.clear()
            harness.trainer.cancel()
            assert isinstance(harness.trainer.poll(), TrainingFinished)
            harness.trainer.start(job(n=32, job_id=f"second-{number}"))
            assert isinstance(harness.result(), TrainingFinished)
    finally:
        harness.trainer.close()
