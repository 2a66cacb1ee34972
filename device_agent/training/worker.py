"""The training process: ``python -m device_agent.training.worker [memory limit in bytes]``.

Jobs come in on standard input, checkpoints and one answer each go out on standard output, in frames. The process is of
low priority, uses as many threads as its environment says (one, unless the board's budget allows more) and ends, in the
middle of a job too, as soon as standard input closes: a parent that was killed leaves no orphan. It does no disk work,
so it needs no I/O priority.
"""

import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from device_agent.inference.engine import Engine
from device_agent.inference.opening import open_engine
from device_agent.training.checkpoint import Checkpoint, checkpoint_to_message
from device_agent.training.frames import FrameError, read_frame, write_frame
from device_agent.training.jobs import (
    TrainingEvent,
    TrainingFailed,
    TrainingFinished,
    event_to_message,
    job_from_message,
)
from device_agent.training.trainer import train

NICENESS = 10


def main(arguments: list[str]) -> int:
    """Serve jobs until standard input closes."""
    _lower_priority()
    if arguments:
        limit = int(arguments[0])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints must not end up between frames
    inbox: queue.Queue[dict[str, Any]] = queue.Queue(maxsize=1)
    threading.Thread(target=_listen, args=(sys.stdin.buffer, inbox), daemon=True).start()
    engines: dict[object, Engine] = {}
    while True:
        message = inbox.get()
        write_frame(answers, event_to_message(_serve(message, engines, answers)))
        del message


def _listen(stream: IO[bytes], inbox: "queue.Queue[dict[str, Any]]") -> None:
    """Hand frames to the main thread; end the process when the parent is gone or talks nonsense."""
    while True:
        try:
            message = read_frame(stream)
        except (FrameError, OSError, MemoryError):  # a silent end of this thread would leave the parent waiting
            os._exit(2)
        if message is None:
            os._exit(0)
        inbox.put(message)
        del message


def _serve(message: dict[str, Any], engines: dict[object, Engine], answers: IO[bytes]) -> TrainingEvent:
    job_id = str(message.get("job_id", ""))
    try:
        job = job_from_message(message)
        message.clear()
        deadline = time.monotonic() + job.time_budget_s
        key = (job.layout, job.artifact)
        if key not in engines:
            engines.clear()  # one interpreter is enough memory
            engines[key] = open_engine(job.layout, job.artifact).engine
        started = time.process_time()
        result = train(
            engines[key],
            job.theta,
            job.data,
            job.settings,
            should_stop=lambda: time.monotonic() >= deadline,
            resume=job.resume,
            on_epoch=_Reporter(answers, job.checkpoint_s),
        )
        return TrainingFinished(job_id, result, time.process_time() - started, engines[key].name, _peak_rss_bytes())
    except MemoryError:
        return TrainingFailed(
            job_id, "out-of-memory", f"the job does not fit in memory ({_peak_rss_bytes()} bytes peak)"
        )
    except (ValueError, TypeError, KeyError) as error:
        return TrainingFailed(job_id, "bad-job", f"{type(error).__name__}: {error}"[:400])
    except Exception as error:  # noqa: BLE001 - the border of the process: a fault is an answer, the next job may work
        return TrainingFailed(job_id, "internal", f"{type(error).__name__}: {error}"[:400])


class _Reporter:
    """Hands out checkpoints, not too often."""

    def __init__(self, answers: IO[bytes], every_s: float) -> None:
        self._answers = answers
        self._every_s = every_s
        self._last_s = time.monotonic()

    def __call__(self, make: Callable[[], Checkpoint]) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s >= self._every_s:
            self._last_s = now_s
            write_frame(self._answers, {"checkpoint": checkpoint_to_message(make())})


def _lower_priority() -> None:
    try:
        os.nice(NICENESS)
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except (OSError, AttributeError):  # a hardened unit may forbid it, macOS has no SCHED_BATCH
        return


def _peak_rss_bytes() -> int:
    """Return VmHWM; ``ru_maxrss`` would show the parent's peak, which exec hands down."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - pathlib costs this process memory
            lines = file.readlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
