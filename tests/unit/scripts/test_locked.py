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
