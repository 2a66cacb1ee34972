"""Processes are started apart, watched, and stopped for certain."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from testbed.processes import Died, ProcessSpec, last_line, python_command, supervised, wait_until

BOUND_S = 10.0


def python(name, log_dir, code, stage=0):
    return ProcessSpec(name, (sys.executable, "-c", textwrap.dedent(code)), log_dir / f"{name}.log", stage=stage)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_output_goes_to_the_log_and_a_restart_appends(tmp_path):
    with supervised() as supervisor:
        spec = python("one", tmp_path, "print('hello')")
        supervisor.start(spec)
        assert wait_until(lambda: not supervisor.alive("one"), timeout_s=BOUND_S)
        supervisor.restart("one")
        assert wait_until(lambda: not supervisor.alive("one"), timeout_s=BOUND_S)
    assert spec.log_path.read_text() == "hello\nhello\n"


def test_an_unexpected_end_is_told_once_by_name_with_the_last_log_line(tmp_path):
    with supervised() as supervisor:
        supervisor.start(python("agent cam-1", tmp_path, "import sys; print('no such file\\n'); sys.exit(20)"))
        assert wait_until(lambda: not supervisor.alive("agent cam-1"), timeout_s=BOUND_S)
        died = supervisor.died()
        assert died == [Died("agent cam-1", 20, "no such file")]
        assert str(died[0]) == "agent cam-1 ended unexpectedly (exit code 20): no such file"
        assert supervisor.died() == []


def test_a_kill_that_was_asked_for_is_no_surprise_and_spares_the_children(tmp_path):
    code = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        print(child.pid, flush=True)
        time.sleep(60)
    """
    with supervised() as supervisor:
        spec = python("agent", tmp_path, code)
        supervisor.start(spec)
        assert wait_until(lambda: last_line(spec.log_path) != "", timeout_s=BOUND_S)
        child = int(last_line(spec.log_path))
        supervisor.kill("agent")
        assert supervisor.died() == []
        assert wait_until(lambda: gone(child), timeout_s=BOUND_S), "the child notices its closed stdin by itself"


def test_stop_all_ends_higher_stages_first_and_kills_what_ignores_sigterm(tmp_path):
    stubborn = """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print('up', flush=True)
        time.sleep(60)
    """
    polite = """
        import signal, sys, time
        def leave(*_):
            print(time.monotonic(), flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        print('up', flush=True)
        time.sleep(60)
    """
    with supervised() as supervisor:
        specs = [python("broker", tmp_path, polite, 0), python("agent", tmp_path, polite, 2)]
        specs.append(python("stubborn", tmp_path, stubborn, 1))
        for spec in specs:
            supervisor.start(spec)
        for spec in specs:
            assert wait_until(lambda spec=spec: last_line(spec.log_path) == "up", timeout_s=BOUND_S)
        assert supervisor.stop_all(grace_s=0.5) == ["stubborn"]
        assert not any(supervisor.alive(spec.name) for spec in specs)
    assert float(last_line(specs[1].log_path)) + 0.4 < float(last_line(specs[0].log_path))


def test_stop_all_also_ends_children_that_outlive_their_parent(tmp_path):
    code = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(child.pid, flush=True)
        time.sleep(60)
    """
    with supervised() as supervisor:
        spec = python("agent", tmp_path, code)
        supervisor.start(spec)
        assert wait_until(lambda: last_line(spec.log_path) != "", timeout_s=BOUND_S)
    child = int(last_line(spec.log_path))
    assert wait_until(lambda: gone(child), timeout_s=BOUND_S)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
def test_a_killed_harness_leaves_no_orphan(tmp_path):
    code = f"""
        import sys, time
        from pathlib import Path
        from testbed.processes import ProcessSpec, Supervisor
        argv = (sys.executable, "-c", "import time; time.sleep(60)")
        pid = Supervisor().start(ProcessSpec("x", argv, Path({str(tmp_path)!r}) / "x.log"))
        print(pid, flush=True)
        time.sleep(60)
    """
    harness = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, cwd=_root())
    pid = int(harness.stdout.readline())
    time.sleep(0.3)  # the launcher makes its request after the start
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    harness.stdout.close()
    assert wait_until(lambda: gone(pid), timeout_s=BOUND_S)


def test_a_second_process_of_a_name_is_refused(tmp_path):
    with supervised() as supervisor:
        spec = python("one", tmp_path, "import time; time.sleep(60)")
        supervisor.start(spec)
        with pytest.raises(ValueError, match="one runs already"):
            supervisor.start(spec)


def test_memory_of_a_process_and_its_children(tmp_path):
    with supervised() as supervisor:
        supervisor.start(python("one", tmp_path, "import time; time.sleep(60)"))
        assert wait_until(lambda: supervisor.resident_bytes("one")[0] > 1_000_000, timeout_s=BOUND_S)
        assert supervisor.resident_bytes("one")[1] == 0
    assert supervisor.resident_bytes("one") == (0, 0)


def test_our_programs_run_without_being_installed(tmp_path):
    with supervised() as supervisor:
        spec = ProcessSpec("cli", (*python_command("testbed.broker"), "--help"), tmp_path / "cli.log")
        supervisor.start(spec)
        assert wait_until(lambda: not supervisor.alive("cli"), timeout_s=BOUND_S)
        assert "embedded" in spec.log_path.read_text()


def test_a_missing_log_has_no_last_line(tmp_path):
    assert last_line(tmp_path / "none.log") == ""


def _root():
    return Path(__file__).resolve().parents[3]
