"""Jobs of the core as work for the training process, and its answers as model updates."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from contract.canonical import canonical_json, sha256_hex
from contract.messages import ModelUpdate, RoundTask
from contract.model import ModelSpec
from device_agent.encoding import ErrorFeedback
from device_agent.facts import Job
from device_agent.inference.engine import Engine, Floats
from device_agent.labels.source import Source
from device_agent.rounds import fingerprint
from device_agent.samples.pool import Rows
from device_agent.store.state import StateStore
from device_agent.training.checkpoint import Checkpoint
from device_agent.training.client import Trainer
from device_agent.training.jobs import CHECKPOINT_S, TrainingFailed, TrainingFinished, TrainJob
from device_agent.training.optimizer import OptimizerSettings
from device_agent.training.resuming import SavedJob, digest_of, same_rows, saved_from_bytes, saved_to_bytes
from device_agent.training.trainer import TrainData, TrainSettings, class_weights

_LOCAL = TrainSettings(epochs=100, recon_weight=1.0, max_steps=2_000, optimizer=OptimizerSettings(learning_rate=3e-3))
_OWN = {
    "first": _LOCAL,
    "fine-tuned": TrainSettings(
        epochs=20, max_steps=1_000, optimizer=OptimizerSettings(learning_rate=3e-3, proximal_mu=0.1)
    ),
    "local": TrainSettings(epochs=100, max_steps=2_000, optimizer=OptimizerSettings(learning_rate=5e-3)),
    "sketch": TrainSettings(epochs=1, optimizer=OptimizerSettings(kind="sgd", learning_rate=0.02)),
}
"""Settings of the trainings of the device's own; the fine-tuned model is pulled towards the one it started from."""
_IDLE_S = 60.0
_LOCAL_ROWS = 640
"""The device's own first model: a scan stands out by its reconstruction only after some 2,000 steps, however few the
rows are, so small sets are repeated up to this many rows (20 batches, 100 times)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished job: its settings and rows as they were at the start, and what the trainer found."""

    job: Job
    rows: Rows
    base: Floats
    finished: TrainingFinished


class Learner:
    """One job at a time; a job that is started while a cancelled one still dies waits for that.

    Parameters
    ----------
    trainer
        Handle to the training process.
    spec
        The architecture.
    artifact
        Checked ``.tflite``, or ``None`` for NumPy.
    budget_s
        Longest wall time of one job.
    store
        Keeps how far a job got, so that it goes on after a restart; ``None`` keeps nothing.
    checkpoint_s
        Least time between two of its writes.
    """

    def __init__(
        self,
        trainer: Trainer,
        spec: ModelSpec,
        artifact: bytes | None,
        *,
        budget_s: float,
        store: StateStore | None = None,
        checkpoint_s: float = CHECKPOINT_S,
    ) -> None:
        self._trainer = trainer
        self._spec = spec
        self._artifact = artifact
        self._budget_s = budget_s
        self._store = store
        self._checkpoint_s = checkpoint_s
        self._waiting: TrainJob | None = None
        self._current: tuple[Job, Rows, Floats] | None = None
        self._idle_since_s: float | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the training process."""
        return self._trainer.pid

    def unfinished(self, job: Job, held: Rows) -> tuple[Rows, Checkpoint] | None:
        """Return rows and state of a job that a process before this one began; ``None`` if it must start over.

        Parameters
        ----------
        job
            What is to be trained.
        held
            Rows of the buffer: those of the job must still be among them.
        """
        data = self._store.unfinished(self._name(job)) if self._store is not None else None
        saved = saved_from_bytes(data) if data is not None else None
        rows = same_rows(saved, held) if saved is not None else None
        return (rows, saved.checkpoint) if saved is not None and rows is not None else None

    def start(
        self, job: Job, rows: Rows, base: Floats, *, seconds_left: float, resume: Checkpoint | None = None
    ) -> None:
        """Start a job on copies of rows and weights, or go on with it from a checkpoint."""
        self._current = (job, rows, base)
        work = TrainJob(
            job_id=job.key,
            layout=self._spec.layout,
            artifact=self._artifact,
            theta=base,
            data=_data(job, rows),
            settings=train_settings(job),
            time_budget_s=max(min(seconds_left, self._budget_s), 0.1),
            resume=resume,
            checkpoint_s=self._checkpoint_s,
        )
        if self._trainer.busy:
            self._waiting = work
        else:
            self._trainer.start(work)

    def cancel(self, job_key: str) -> None:
        """Give up a job; its answer, if one comes, is swallowed."""
        if self._current is None or self._current[0].key != job_key:
            return
        self._forget(self._current[0])
        self._current = None
        if self._waiting is not None:
            self._waiting = None
        else:
            self._trainer.cancel()

    def poll(self) -> Outcome | TrainingFailed | None:
        """Return the answer of the current job if it is there."""
        event = self._trainer.poll()
        if event is None:
            self._keep()
            return None
        if self._waiting is not None:
            work, self._waiting = self._waiting, None
            self._trainer.start(work)
        if self._current is None or self._current[0].key != event.job_id:
            return None
        (job, rows, base), self._current = self._current, None
        self._forget(job)
        if isinstance(event, TrainingFailed):
            return event
        if event.result.diverged or event.result.steps == 0:
            return TrainingFailed(event.job_id, "diverged" if event.result.diverged else "no-step", "")
        return Outcome(job, rows, base, event)

    def rest(self, now_s: float) -> None:
        """End a training process that had nothing to do for a minute; its memory is a third of the agent's."""
        if self._trainer.busy or self._trainer.pid is None:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s
        elif now_s - self._idle_since_s >= _IDLE_S:
            self._trainer.close()

    def close(self) -> None:
        """Kill and reap the training process; how far its job got is kept."""
        self._keep()
        self._trainer.close()

    def _keep(self) -> None:
        """Put a new checkpoint of the current job on the disk."""
        if self._current is None or self._store is None or self._waiting is not None:
            return
        checkpoint = self._trainer.take_checkpoint()
        if checkpoint is not None:
            job, rows, _ = self._current
            saved = SavedJob(rows.flow_id, digest_of(rows), checkpoint)
            self._store.keep_unfinished(self._name(job), saved_to_bytes(saved))

    def _forget(self, job: Job) -> None:
        if self._store is not None:
            self._store.drop_unfinished(self._name(job))

    def _name(self, job: Job) -> str:
        """Return what tells this job from any other: task and target, settings, engine, base."""
        task = job.kind if job.task is None else fingerprint(job.task)
        engine = "numpy" if self._artifact is None else sha256_hex(self._artifact)[:12]
        facts = [task, job.update_id, job.base, engine, self._spec.spec_id, repr(train_settings(job))]
        return sha256_hex(canonical_json(facts))


def protect(delta: Floats, task: RoundTask, rng: np.random.Generator) -> Floats:
    """Return an update as it may leave the device: in private mode shortened and with Gaussian noise.

    Parameters
    ----------
    delta
        Shape ``(P,)``, float32.
    task
        Says how long it may be and how much noise it needs, if any.
    rng
        Random source; for protection it must be seeded from the operating system.
    """
    if task.clip_norm is None or task.noise_multiplier is None:
        return delta
    long = delta.astype(np.float64)
    length = float(np.linalg.norm(long))
    clipped = long * min(1.0, task.clip_norm / length) if length else long
    noise = rng.normal(0.0, task.noise_multiplier * task.clip_norm, len(long))
    result: Floats = (clipped + noise).astype(np.float32)
    return result


def make_update(
    outcome: Outcome, validation: Rows, engine: Engine, rng: np.random.Generator, forms: ErrorFeedback
) -> ModelUpdate:
    """Return the update of a round's job; in private mode it tells neither rows nor losses nor time.

    Parameters
    ----------
    outcome
        Of a job with a task.
    validation
        Rows for the losses before and after; may be none.
    engine
        Measures them.
    rng
        For the noise of the private mode.
    forms
        Makes the bytes.
    """
    task, target = outcome.job.task, outcome.job.target
    if task is None or target is None:
        raise ValueError("only a round's job gives an update")
    theta = outcome.finished.result.theta
    delta = forms.encode(task, target, protect(theta - outcome.base, task, rng).astype(np.float32))
    open_ = task.clip_norm is None
    told = validation if open_ else validation.select(np.zeros(len(validation), dtype=bool))
    before, after = (joint_loss(engine, t, told, task.recon_weight) for t in (outcome.base, theta))
    return ModelUpdate(
        update_id=outcome.job.update_id,
        round_id=task.round_id,
        device_id=task.device_id,
        role=target.role,
        family_id=target.family_id,
        spec_id=task.spec_id,
        base=target.base,
        delta_encoding=task.delta_encoding,
        delta=delta,
        delta_digest=sha256_hex(delta),
        rows=len(outcome.rows.y) if open_ else 1,
        rows_by_source=_by_source(outcome.rows) if open_ else {},
        loss_before=before,
        loss_after=after,
        train_seconds=max(outcome.finished.cpu_s, 0.0) if open_ else 0.0,
    )


def joint_loss(engine: Engine, theta: Floats, rows: Rows, recon_weight: float) -> float | None:
    """Return the mean joint loss of rows, ``None`` of none or if it is not finite."""
    if not len(rows.y):
        return None
    known = class_weights(rows.y, engine.layout.classes, cap=1.0)
    wc = np.where(rows.y >= 0, known[np.maximum(rows.y, 0)], 0.0).astype(np.float32)
    wr: npt.NDArray[np.float32] = (rows.y <= 0).astype(np.float32)
    sums = engine.evaluate(theta, rows.x, rows.y, wc, wr)
    loss = sums.loss_class_sum / max(sums.wc_sum, 1e-6) + recon_weight * sums.loss_recon_sum / max(sums.wr_sum, 1e-6)
    return loss if np.isfinite(loss) else None


def _data(job: Job, rows: Rows) -> TrainData:
    if job.kind != "first":
        return TrainData(rows.x, rows.y)
    times = -(-_LOCAL_ROWS // len(rows))
    return TrainData(np.tile(rows.x, (times, 1)), np.tile(rows.y, times))


def _by_source(rows: Rows) -> dict[str, int]:
    counts = Counter(rows.source.tolist())
    return {Source(number).name.lower(): count for number, count in sorted(counts.items())}


def train_settings(job: Job) -> TrainSettings:
    """Return the settings of a job; the device's id goes into a round's seed, so that devices shuffle differently.

    Members of a family teach their expert nothing about classes they never saw. The fallback learns from all: it has to
    tell classes apart that no two devices may have together. A fine-tuned model keeps what it knew, if the job says so.
    """
    task, target = job.task, job.target
    if task is None or target is None:
        return replace(_OWN[job.kind], mask_absent=job.own_classes)
    mixed = int(sha256_hex(f"{task.seed}/{task.device_id}".encode())[:8], 16)
    return TrainSettings(
        epochs=task.local_epochs,
        recon_weight=task.recon_weight,
        seed=mixed,
        mask_absent=target.role == "expert",
        optimizer=OptimizerSettings(learning_rate=task.learning_rate, proximal_mu=task.proximal_mu),
    )
