"""The training desk: at most one job runs; a round task, its targets, its deadline. A core without I/O.

Rules
-----
- A task with the fingerprint of one that was trained does nothing new: its waiting updates are sent again.
- The same task while it runs does nothing; an older round than the running one is refused.
- A newer task, a cleared one and a passed deadline cancel the job.
- A target whose base is not held waits until the base is; the others go first. One whose base was refused is given up.
- A task that is over without all its updates is declined, so that nobody waits for it.
- A round task goes before the device's own training, which is taken up again afterwards.
"""

from contract.canonical import canonical_json, sha256_hex
from contract.messages import RoundTask, TrainTarget
from device_agent.effects import CancelTraining, Effect, Refuse, SendUpdate, StartTraining
from device_agent.facts import Job, JobKind

LOCAL_TRAINING_S = 120.0
"""Longest wall time of the device's own training."""


def fingerprint(task: RoundTask) -> str:
    """Return what tells two tasks apart; a gateway that starts over reuses round numbers but not bases and seeds."""
    bases = [[t.role, t.family_id, t.base] for t in task.targets]
    return sha256_hex(canonical_json([task.round_id, task.seed, bases]))[:24]


class TrainingDesk:
    """State of local training.

    Attributes
    ----------
    task
        The task that is worked on, or ``None``.
    job
        The job that runs, or ``None``.
    """

    def __init__(self) -> None:
        self.task: RoundTask | None = None
        self.job: Job | None = None
        self._todo: list[TrainTarget] = []
        self._failure = ""
        self._deadline_s = 0.0
        self._jobs_started = 0

    @property
    def bases(self) -> frozenset[str]:
        """Models that the open targets start from."""
        running = {self.job.base} if self.job is not None else set()
        return frozenset({target.base for target in self._todo} | running)

    def accept(self, task: RoundTask, now_s: float) -> list[Effect]:
        """Take a new task; whatever runs makes room."""
        if self.task is not None and task.round_number < self.task.round_number:
            return [Refuse("task-older")]
        effects = self.clear()
        if self.job is not None:
            effects += self._cancel()
        self.task = task
        self._todo = list(task.targets)
        self._failure = ""
        self._deadline_s = now_s + task.deadline_s
        return effects

    def clear(self) -> list[Effect]:
        """Give up the task and its job; the device's own training goes on."""
        self.task = None
        self._todo = []
        return self._cancel() if self.job is not None and self.job.task is not None else []

    def expire(self, now_s: float) -> list[Effect]:
        """Give up what is past its deadline."""
        if now_s < self._deadline_s:
            return []
        if self.task is not None:
            return [Refuse("task-deadline", "own"), *self.clear()]
        if self.job is not None:
            return [Refuse("local-training-deadline", "own"), *self._cancel()]
        return []

    def next_job(self, held: frozenset[str], now_s: float) -> list[Effect]:
        """Start the next target whose base is held."""
        if self.task is None or self.job is not None:
            return []
        for target in self._todo:
            if target.base in held:
                self._todo.remove(target)
                return self._start(Job(self._next_key(), target.base, self.task, target), self._deadline_s - now_s)
        return []

    def start_local(
        self, base: str, now_s: float, kind: JobKind = "first", *, own_classes: bool = False
    ) -> list[Effect]:
        """Start a training of the device's own; the desk must be free."""
        self._deadline_s = now_s + LOCAL_TRAINING_S
        return self._start(Job(self._next_key(), base, kind=kind, own_classes=own_classes), LOCAL_TRAINING_S)

    def finish(self, job_key: str) -> tuple[Job | None, list[Effect]]:
        """Close the running job; a late answer to a cancelled one is refused."""
        job = self.job
        if job is None or job.key != job_key:
            return None, [Refuse("training-late", "own")]
        self.job = None
        return job, [SendUpdate(job)] if job.task is not None else []

    def fail(self, job_key: str, reason: str) -> tuple[Job | None, list[Effect]]:
        """Close the running job without a result; the task counts as not trained."""
        job, effects = self.finish(job_key)
        if job is None:
            return None, effects
        if job.task is not None:
            self._failure = self._failure or reason
        return job, [Refuse(reason, "own")]

    def give_up_base(self, digest: str) -> None:
        """Give up the targets that start from a model which cannot be had."""
        kept = [target for target in self._todo if target.base != digest]
        if len(kept) < len(self._todo):
            self._todo, self._failure = kept, self._failure or "base-refused"

    def take_finished_task(self) -> tuple[RoundTask | None, str]:
        """Return the task once all its targets are done, and why one of them gave no update; the desk is free then."""
        task = self.task
        if task is None or self._todo or self.job is not None:
            return None, ""
        self.task = None
        return task, self._failure

    def _next_key(self) -> str:
        self._jobs_started += 1
        return f"job-{self._jobs_started}"

    def _start(self, job: Job, seconds: float) -> list[Effect]:
        self.job = job
        return [StartTraining(job, max(seconds, 0.0))]

    def _cancel(self) -> list[Effect]:
        job, self.job = self.job, None
        return [CancelTraining(job.key)] if job is not None else []
