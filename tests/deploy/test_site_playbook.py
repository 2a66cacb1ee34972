"""The deployment proof on booted Debian systems; minutes, so it runs only when asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ACCEPTANCE = REPOSITORY / "scripts/acceptance-deploy"

pytestmark = [pytest.mark.nspawn, pytest.mark.timeout(2400)]

EXPECTED = [
    "boot",
    "check mode on bare machines",
    "check mode changed nothing",
    "site.yml",
    "second run changes nothing",
    "check mode after the installation finds nothing to change",
    "services are active and start at boot",
    "the agent has its own user and one capability",
    "unit files on their own systemd",
    "the kernel command line has the memory cgroup, on its one line",
    "clustering runs inside the sandbox of the gateway",
    "a device writes below its own id and nowhere else",
    "the broker refuses strangers",
    "secrets are readable by their owners only",
    "the device learns from marked traffic in rounds with the gateway",
    "an attack on the live interface raises an alert",
    "killed, the agent comes back",
    "hung, the watchdog brings it back",
    "with the broker dead, detection goes on",
    "after a reboot of the device the agent runs",
    "reset.yml",
    "reset.yml left nothing",
    "a second reset changes nothing",
    "nothing of the lab is left on the host",
]


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    if os.environ.get("KINWATCH_NSPAWN") != "1":
        pytest.skip("takes minutes and needs root; set KINWATCH_NSPAWN=1 to run it")
    able = subprocess.run([sys.executable, ACCEPTANCE, "--check"], capture_output=True, text=True, check=False)
    if able.returncode:
        pytest.skip(able.stdout.strip())
    out = tmp_path_factory.mktemp("deploy") / "deploy.json"
    done = subprocess.run([sys.executable, ACCEPTANCE, "--out", out], capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_proof(summary, name):
    checks = {check["name"]: check for check in summary["checks"]}
    assert name in checks, f"not reached; stopped at {summary['checks'][-1]}"
    assert checks[name]["ok"], checks[name].get("error")
