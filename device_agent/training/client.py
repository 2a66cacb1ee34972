"""The agent's handle to its training process."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import device_agent
from device_agent.training.checkpoint import Checkpoint, checkpoint_from_message
from device_agent.training.frames import FrameError, read_frame, write_frame
from device_agent.training.jobs import TrainingEvent, TrainingFailed, TrainJob, event_from_message, job_to_message

GRACE_S = 10.0
"""Wall time on top of a job's budget for starting the process and moving the rows, before it is killed."""

MAX_RESTARTS = 2
"""A job whose process dies is taken up again this often, each time only if it got a checkpoint further."""

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Trainer:
    """Runs one job at a time in a long-lived process; every job started gives exactly one event.

    The process starts with the first job, and again after it died or a job was cancelled. No method blocks on the
    training: writing and reading happen in a thread of the job.

    Parameters
    ----------
    notify
        Called from another thread when an event waits; for waking the agent's loop.
    memory_limit_bytes
        Address space of the process, ``None`` = no limit. LiteRT maps about 300 MB, most of it never touched.
    threads
        Of its mathematics.
    clock
        Monotonic seconds.
    python
        Interpreter of the process.
    """

    def __init__(
        self,
        *,
        notify: Callable[[], None] = lambda: None,
        memory_limit_bytes: int | None = None,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
        python: str = sys.executable,
    ) -> None:
        self._notify = notify
        self._arguments = [] if memory_limit_bytes is None else [str(memory_limit_bytes)]
        self._threads = threads
        self._clock = clock
        self._python = python
        self._events: queue.Queue[TrainingEvent] = queue.Queue()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._killed_for = ""
        self._deadline: float | None = None
        self._checkpoint: Checkpoint | None = None
        # A killed process may look alive for a moment: it must not get the next job.
        self._condemned = False

    @property
    def busy(self) -> bool:
        """Whether a job was started whose event :meth:`poll` has not yet returned."""
        return self._deadline is not None

    @property
    def pid(self) -> int | None:
        """Process id of the training process, ``None`` while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self, job: TrainJob) -> None:
        """Start a job.

        Raises
        ------
        RuntimeError
            If the last job's event has not been polled yet.
        """
        if self.busy:
            raise RuntimeError("the trainer is busy; poll the last job's event first")
        self._killed_for = ""
        self._checkpoint = None
        self._deadline = self._clock() + job.time_budget_s + GRACE_S
        self._thread = threading.Thread(target=self._run, args=(job,), name="trainer", daemon=True)
        self._thread.start()

    def poll(self) -> TrainingEvent | None:
        """Return the event of the job if there is one; kills a job that is past its deadline."""
        if self._deadline is None:
            return None
        try:
            event = self._events.get_nowait()
        except queue.Empty:
            if self._clock() >= self._deadline:
                self._kill("deadline")
            return None
        self._deadline = None
        return event

    def take_checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint of the job in hand that was not taken yet."""
        checkpoint, self._checkpoint = self._checkpoint, None
        return checkpoint

    def cancel(self) -> None:
        """Kill the job in hand, if any; its event is ``TrainingFailed`` with reason ``cancelled``, or came before."""
        if self.busy:
            self._kill("cancelled")

    def close(self) -> None:
        """End the process and its thread; a job in hand fails with reason ``closed``."""
        self._kill("closed")
        if self._thread is not None:
            self._thread.join(timeout=GRACE_S)
        with self._lock:
            self._dispose()

    def _run(self, job: TrainJob) -> None:
        ends_s = self._clock() + job.time_budget_s
        event, reached = self._converse(job)
        for _ in range(MAX_RESTARTS):
            left_s = ends_s - self._clock()
            died = isinstance(event, TrainingFailed) and event.reason == "worker-died"
            if not died or reached is None or left_s <= 0.0:
                break
            event, reached = self._converse(replace(job, resume=reached, time_budget_s=left_s))
        self._events.put(event)
        self._notify()

    def _converse(self, job: TrainJob) -> tuple[TrainingEvent, Checkpoint | None]:
        """Send a job and wait for its answer; any fault of the process becomes ``TrainingFailed``.

        The newest checkpoint of this process is returned as well: there is none if it got no further than it began.
        """
        reached: Checkpoint | None = None
        try:
            with self._lock:
                if self._killed_for:
                    return TrainingFailed(job.job_id, self._killed_for, "before the process took the job"), None
                stdin, stdout = self._ready_process()
            write_frame(stdin, job_to_message(job))
            while (message := read_frame(stdout)) is not None:
                if "checkpoint" not in message:
                    return event_from_message(message), reached
                reached = self._checkpoint = checkpoint_from_message(message["checkpoint"])
                self._notify()
            detail = self._last_words()
        except (OSError, FrameError, ValueError, TypeError, KeyError) as error:
            detail = f"{error}; {self._last_words()}"
        self._discard()
        return TrainingFailed(job.job_id, self._killed_for or "worker-died", detail[:400]), reached

    def _ready_process(self) -> tuple[IO[bytes], IO[bytes]]:
        """Return the pipes of a living process, starting one if needed; the lock is held."""
        if self._process is None or self._condemned or self._process.poll() is not None:
            self._dispose()
            environment = {**os.environ, **dict.fromkeys(_THREADS, str(self._threads))}
            packages = str(Path(device_agent.__file__).parent.parent)
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (packages, environment.get("PYTHONPATH"))))
            self._errors = _scratch_file()
            self._process = subprocess.Popen(
                [self._python, "-m", "device_agent.training.worker", *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise OSError("the training process has no pipes")
        return stdin, stdout

    def _kill(self, reason: str) -> None:
        with self._lock:
            self._killed_for = self._killed_for or reason
            if self._process is not None:
                self._process.kill()
                self._condemned = True

    def _discard(self) -> None:
        with self._lock:
            self._dispose()

    def _dispose(self) -> None:
        """Reap the process and close its files; the lock is held."""
        process, self._process = self._process, None
        self._condemned = False
        errors, self._errors = self._errors, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # unsent bytes for a dead reader
                        pipe.close()
        if errors is not None:
            errors.close()

    def _last_words(self) -> str:
        """Return the exit code and the last line on standard error of the process."""
        with self._lock:
            process, errors = self._process, self._errors
            if process is None or errors is None:
                return "the process did not start"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1.0)
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        return f"exit code {process.returncode}" + (f": {lines[-1]}" if lines else "")


def _scratch_file() -> IO[bytes]:
    """Return a file without a name; its owner closes it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("trainer-errors"), "w+b")
    from tempfile import TemporaryFile  # noqa: PLC0415 - brings archives and random numbers

    return TemporaryFile()
