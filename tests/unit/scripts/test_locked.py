"""What the acceptance scripts read out of a lock file."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
LOCK = """\
engine==1.2.0 ; python_full_version < '3.13' and platform_machine == 'aarch64' \\
    --hash=sha256:09ea12aa2cc1fcc418206d20b7f6cd6ce322081e8e9379f86ca269f96c52b1f2
    # via kinwatch (pyproject.toml)
engine==2.3.0 ; python_full_version >= '3.13' and platform_machine == 'aarch64' \\
    --hash=sha256:08cec0910d071345743379c9bac1b1d76f5050d9dd2d525e2300826ba132e89c
table==7.1 \\
    --hash=sha256:13b2beaad985e05e2d6407ee4c4f35590b11f8d693a258a561055cac8f64cab7
"""


def locked(lock: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    script = PROJECT / "scripts" / "lib" / "locked.py"
    return subprocess.run(
        [sys.executable, str(script), str(lock), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("python", "pins"), [("3.11", ["engine==1.2.0", "table==7.1"]), ("3.13", ["engine==2.3.0", "table==7.1"])]
)
def test_the_pin_is_that_of_the_other_machine(tmp_path: Path, python: str, pins: list[str]) -> None:
    (tmp_path / "agent.lock").write_text(LOCK, encoding="utf-8")
    assert locked(tmp_path / "agent.lock", python, "aarch64", "engine", "table").stdout.splitlines() == pins


@pytest.mark.parametrize(
    ("python", "machine", "names"),
    [("3.11", "aarch64", ["engine==1.2.0", "table==7.1"]), ("3.11", "x86_64", ["table==7.1"])],
)
def test_without_names_all_pins_come_with_their_hashes(
    tmp_path: Path, python: str, machine: str, names: list[str]
) -> None:
    (tmp_path / "agent.lock").write_text(LOCK, encoding="utf-8")
    lines = locked(tmp_path / "agent.lock", python, machine).stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == names
    assert lines[-1] == "table==7.1 --hash=sha256:13b2beaad985e05e2d6407ee4c4f35590b11f8d693a258a561055cac8f64cab7"


@pytest.mark.parametrize("extra", ["agent", "gateway"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_wheelhouse_for_any_python_has_each_package_once(extra: str, machine: str) -> None:
    for python in ("3.11", "3.12", "3.13"):
        lines = locked(PROJECT / "requirements" / f"{extra}.lock", python, machine).stdout.splitlines()
        names = [line.partition("==")[0] for line in lines]
        assert len(names) == len(set(names))
        assert {"numpy", "paho-mqtt", "cryptography"} <= set(names)
        assert all(" --hash=sha256:" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "python", "word"),
    [
        ("table==7.1\n", "3.11", "no hash"),
        ("table=7 --hash=sha256:aa\n", "3.11", "no requirement"),
        (LOCK, "311", "3.13"),
    ],
)
def test_what_cannot_be_trusted_is_an_error_of_one_line(tmp_path: Path, content: str, python: str, word: str) -> None:
    (tmp_path / "agent.lock").write_text(content, encoding="utf-8")
    done = locked(tmp_path / "agent.lock", python, "aarch64")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert word in done.stderr


def test_a_name_without_a_pin_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "agent.lock").write_text(LOCK, encoding="utf-8")
    done = locked(tmp_path / "agent.lock", "3.11", "armv7l", "engine", "table")
    assert done.returncode == 1
    assert not done.stdout
    assert "no engine for Python 3.11 on armv7l" in done.stderr


def test_the_lock_file_of_the_agent_has_a_runtime_for_every_board_that_can_have_one() -> None:
    lock = PROJECT / "requirements" / "agent.lock"
    for python in ("3.11", "3.12", "3.13"):
        assert locked(lock, python, "aarch64", "ai-edge-litert", "numpy").returncode == 0
    assert locked(lock, "3.11", "armv7l", "tflite-runtime").returncode == 0
