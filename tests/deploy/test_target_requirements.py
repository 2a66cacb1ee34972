"""Which packages of a lock file another machine needs, whatever Python asks."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts/lab/target_requirements.py"
LOCK = """
# made by hand
litert==1.2.0 ; python_full_version < '3.13' and platform_machine == 'x86_64' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via kinwatch
litert==2.3.0 ; python_full_version >= '3.13' \\
    --hash=sha256:cc
numpy==2.4.6 \\
    --hash=sha256:dd
coloured[fast]==1 ; sys_platform == 'win32' \\
    --hash=sha256:ee
"""


@pytest.fixture(scope="module")
def script():
    spec = spec_from_file_location("target_requirements", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("version", "platform", "kept"),
    [
        ("3.11", "manylinux2014_x86_64", ["litert==1.2.0 --hash=sha256:aa --hash=sha256:bb"]),
        ("3.11", "manylinux2014_aarch64", []),
        ("3.13", "manylinux_2_28_aarch64", ["litert==2.3.0 --hash=sha256:cc"]),
    ],
)
def test_markers_are_those_of_the_target(script, version, platform, kept):
    found = script.select(LOCK, script.environment(version, platform))
    assert found == [*kept, "numpy==2.4.6 --hash=sha256:dd"]


@pytest.mark.parametrize("extra", ["agent", "gateway"])
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_target_gets_each_package_once(script, extra, version):
    lock = (REPOSITORY / f"requirements/{extra}.lock").read_text(encoding="utf-8")
    for machine in ("x86_64", "aarch64"):
        names = [
            line.partition("==")[0] for line in script.select(lock, script.environment(version, f"linux_{machine}"))
        ]
        assert len(names) == len(set(names))
        assert {"numpy", "paho-mqtt", "cryptography"} <= set(names)
        assert ("ai-edge-litert" in names) == (extra == "agent")


@pytest.mark.parametrize("lock", ["numpy==2.4.6", "numpy=2 --hash=sha256:dd"])
def test_a_line_that_cannot_be_trusted_is_an_error(script, lock):
    with pytest.raises(ValueError, match="numpy"):
        script.select(lock, script.environment("3.13", "linux_x86_64"))


@pytest.mark.parametrize(
    ("version", "platform"), [("313", "linux_x86_64"), ("3.13", "linux_sparc"), ("3.13", "aarch64")]
)
def test_a_target_that_is_none_is_an_error_of_one_line(version, platform):
    lock = REPOSITORY / "requirements/agent.lock"
    done = subprocess.run(
        [sys.executable, SCRIPT, lock, version, platform], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("target_requirements: ")
    assert done.stderr.count("\n") == 1
