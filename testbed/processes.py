"""The processes of a run: started in groups of their own, watched, and stopped for certain."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

STOP_GRACE_S = 5.0
_LAUNCHER = str(Path(__file__).with_name("launch.py"))
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run.

    Attributes
    ----------
    name
        Unique name for people.
    argv
        Program and arguments.
    log_path
        File that takes standard output and error; a restart appends.
    stage
        Processes of a higher stage are stopped first.
    env
        Variables on top of the harness' own environment.
    """

    name: str
    argv: tuple[str, ...]
    log_path: Path
    stage: int = 0
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Died:
    """A process that ended without being asked to.

    Attributes
    ----------
    name
        Its name.
    returncode
        As of ``subprocess``: negative = the signal.
    last_line
        The last line of its log that is not blank.
    """

    name: str
    returncode: int
    last_line: str

    def __str__(self) -> str:
        how = f"signal {-self.returncode}" if self.returncode < 0 else f"exit code {self.returncode}"
        return f"{self.name} ended unexpectedly ({how}): {self.last_line or 'its log is empty'}"


@dataclass(slots=True)
class _Running:
    spec: ProcessSpec
    process: subprocess.Popen[bytes]
    expected_to_end: bool = False


class Supervisor:
    """Starts, watches and stops processes.

    On Linux the kernel kills every one of them when the thread that called :meth:`start` ends, so call it from the
    main thread only.
    """

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}

    def start(self, spec: ProcessSpec) -> int:
        """Start a process and return its process id.

        Raises
        ------
        ValueError
            If a process of that name runs already.
        OSError
            If the log cannot be opened or the launcher not be started.
        """
        current = self._running.get(spec.name)
        if current is not None and current.process.poll() is None:
            raise ValueError(f"{spec.name} runs already")
        argv = [sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid()), *spec.argv]
        with spec.log_path.open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": _search_path(), **spec.env},
                process_group=0,
            )
        self._running[spec.name] = _Running(spec, process)
        return process.pid

    def pid(self, name: str) -> int:
        """Return the process id of a process that was started."""
        return self._running[name].process.pid

    def alive(self, name: str) -> bool:
        """Return whether the process runs."""
        return self._running[name].process.poll() is None

    def kill(self, name: str) -> None:
        """Kill one process outright (SIGKILL), as a power cut would; its children must notice by themselves."""
        running = self._running[name]
        running.expected_to_end = True
        running.process.kill()
        running.process.wait()

    def restart(self, name: str) -> int:
        """Start a process that ended again, with its old arguments and log, and return its new process id."""
        return self.start(self._running[name].spec)

    def died(self) -> list[Died]:
        """Return the processes that ended without being asked to, each one once."""
        result = []
        for name, running in self._running.items():
            code = running.process.poll()
            if code is not None and not running.expected_to_end:
                running.expected_to_end = True
                result.append(Died(name, code, last_line(running.spec.log_path)))
        return result

    def resident_bytes(self, name: str) -> tuple[int, int]:
        """Return the resident memory of a process and of its children together; zeros if it is gone."""
        try:
            leader = psutil.Process(self.pid(name))
            own = int(leader.memory_info().rss)
            children = leader.children(recursive=True)
        except psutil.Error:
            return 0, 0
        total = 0
        for child in children:
            with contextlib.suppress(psutil.Error):
                total += int(child.memory_info().rss)
        return own, total

    def stop_all(self, grace_s: float = STOP_GRACE_S) -> list[str]:
        """Stop everything, highest stage first: SIGTERM to each group, SIGKILL to what is left after ``grace_s``.

        Returns
        -------
        list of str
            Names of the processes that had to be killed.
        """
        killed: list[str] = []
        for stage in sorted({r.spec.stage for r in self._running.values()}, reverse=True):
            killed += _stop([r for r in self._running.values() if r.spec.stage == stage], grace_s)
        return killed


def _search_path() -> str:
    """Let children import the packages from where this one came, installed or not."""
    own = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, (own, os.environ.get("PYTHONPATH", ""))))


def python_command(module: str) -> tuple[str, ...]:
    """Return how to run the ``main`` of one of our modules with this interpreter, installed or not."""
    return (sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())")


def _stop(group: Sequence[_Running], grace_s: float) -> list[str]:
    alive = [running for running in group if running.process.poll() is None]
    for running in reversed(alive):
        running.expected_to_end = True
        _signal_group(running.process.pid, signal.SIGTERM)
    wait_until(lambda: all(r.process.poll() is not None for r in alive), timeout_s=grace_s)
    killed = [r.spec.name for r in alive if r.process.poll() is None]
    for running in alive:
        _signal_group(running.process.pid, signal.SIGKILL)  # also children that outlived their parent
        running.process.wait()
    return killed


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Poll a condition until it holds or the time is over; return whether it held."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def last_line(path: Path, *, tail_bytes: int = 8_192) -> str:
    """Return the last line of a log that is not blank, at most 300 characters; empty if there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - tail_bytes))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


@contextlib.contextmanager
def supervised() -> Iterator[Supervisor]:
    """Give a supervisor and stop all of its processes on the way out, whatever happened."""
    supervisor = Supervisor()
    try:
        yield supervisor
    finally:
        supervisor.stop_all()
