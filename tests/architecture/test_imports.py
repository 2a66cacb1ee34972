"""The dependency rules hold, also for imports that the static check cannot see."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_contract_loads_nothing_that_does_io():
    """A subprocess imports every module of the contract and lists what came with it."""
    code = (
        "import sys, pkgutil, importlib, contract\n"
        "for m in pkgutil.walk_packages(contract.__path__, 'contract.'): importlib.import_module(m.name)\n"
        "bad = {'paho', 'scapy', 'sqlite3', 'cryptography', 'tensorflow', 'sklearn', 'ai_edge_litert'}\n"
        "print(sorted(bad & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_import_linter_contracts_hold():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
