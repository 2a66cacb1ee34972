"""The deployment proof on booted Debian systems, which takes minutes and runs only when asked for; its bars always."""

import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ACCEPTANCE = REPOSITORY / "scripts/acceptance-deploy"


def loaded():
    """Return the program as a module."""
    loader = SourceFileLoader("acceptance_deploy", str(ACCEPTANCE))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    path = list(sys.path)
    loader.exec_module(module)
    sys.path[:] = path
    return module


acceptance = loaded()


def checks(quick=False, **changed):
    """Return what a run in which everything went well reports, with changes by a word of a check's name."""
    names = [name for name in acceptance.CHECKS if not (quick and name in acceptance.NOT_QUICK)]
    found = [{"name": name, "ok": True, "changed": 0, "back_s": 5.0, "kinwatch-agent_security": 1.7} for name in names]
    for check in found:
        check.update(alerts_on_attack_flows=2, alert_after_replay_s=0.5)
        check.update(next((value for word, value in changed.items() if word in check["name"]), {}))
    return found


def missed(found, *, quick=False):
    return {name for name, bar in acceptance.bars(found, quick=quick).items() if not bar["ok"]}


def test_a_run_in_which_everything_went_well_meets_every_bar():
    assert missed(checks()) == set()
    assert missed(checks(quick=True), quick=True) == set()


@pytest.mark.parametrize(
    ("changed", "bars"),
    [
        ({"killed": {"ok": False}}, {"checks passed"}),
        ({"second run": {"changed": 1}}, {"tasks changed by repeated runs"}),
        ({"second reset": {"changed": 1}}, {"tasks changed by repeated runs"}),
        ({"unit files": {"kinwatch-renew_security": 2.6}}, {"exposure of the worst unit, of 10"}),
        ({"live interface": {"alerts_on_attack_flows": 0}}, {"alerts on flows of the attack"}),
        ({"live interface": {"alert_after_replay_s": 61.0}}, {"alert after the end of the attack, s"}),
        ({"hung": {"back_s": 61.0}}, {"hung agent back, s"}),
    ],
)
def test_what_went_wrong_misses_its_bar(changed, bars):
    assert missed(checks(**changed)) == bars


def test_what_a_run_did_not_come_to_is_missed():
    assert missed(checks()[:3]) == set(acceptance.bars([], quick=False))
    assert missed(checks(quick=True)) == {"checks passed", "tasks changed by repeated runs"}


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


@pytest.mark.nspawn
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", acceptance.CHECKS)
def test_proof(summary, name):
    checks = {check["name"]: check for check in summary["checks"]}
    assert name in checks, f"not reached; stopped at {summary['checks'][-1]}"
    assert checks[name]["ok"], checks[name].get("error")
