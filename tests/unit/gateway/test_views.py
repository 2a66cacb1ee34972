"""What the reading commands say: correct, short, and within 80 columns."""

import json
from contextlib import closing

import numpy as np
import pytest

from contract.exit_codes import ExitCode
from contract.messages import ActiveModel, Assignment
from contract.model import DEFAULT_SPEC, ModelId
from gateway.cli import main
from gateway.families import Decision, Family
from gateway.grouping import Scaling
from gateway.log import line
from gateway.registry import Device
from gateway.restore import restore
from gateway.rounds import TargetResult
from gateway.store import Store
from gateway.store.families import StoredGrouping
from tests.unit.gateway.builders import config, task, update
from tests.unit.gateway.test_store import NoSigner

LONG = "d" * 32


@pytest.fixture
def site(tmp_path):
    """A store with a little of everything; returns the configuration's path."""
    path = tmp_path / "gateway.toml"
    path.write_text('[store]\ndir = "state"\n[signing]\ndir = "keys"\n')
    with closing(Store(tmp_path / "state")) as store:
        head = restore(store, config(), DEFAULT_SPEC, NoSigner(), now_s=0.0).memory.heads["fallback"].digest
        for name, refusal in (("cam-3", None), (LONG, "spec-mismatch")):
            store.devices.save(Device(name, state="ready", online=True, refusal=refusal, train_rows=400), now_s=0.0)
        fallback = ModelId(role="fallback", digest=head)
        store.families.save_assignment(
            Assignment(device_id="cam-3", version=2, family_id="family-1", reason="r", fallback=fallback, expert=None)
        )
        store.devices.save_active(
            ActiveModel(
                device_id="cam-3", assignment_version=2, active=fallback, reason="fallback-better", threshold=0.5
            )
        )
        store.rounds.open(1, [task("cam-3", 1)], now_s=10.0)
        store.rounds.add_update(1, update("cam-3", 1), now_s=11.0)
        result = TargetResult("fallback", head, ("cam-3",), "aggregated", {"clients": 1.0})
        store.rounds.close(1, state="closed", reason="complete", results=[result], now_s=12.5)
        store.families.replace_families([Family("family-1", 1, 0.25, np.zeros(2))])
        store.families.add_grouping(
            StoredGrouping(1, 0.0, True, "1 families, separation 0.60", {"gate": 0.6}, Scaling(np.zeros(2), np.ones(2)))
        )
        store.families.add_decision(Decision("cam-3", None, "warm-up", "families are looked for later", 0), now_s=5.0)
        store.families.add_decision(Decision("cam-3", "family-1", "member", "traffic like others " * 6, 1), now_s=6.0)
        store.add_counts({"update.duplicate": 3})
    return str(path)


def read(capsys, *arguments):
    assert main(list(arguments)) == ExitCode.OK
    return capsys.readouterr().out


def test_status_as_json_has_what_a_harness_needs(site, capsys):
    data = json.loads(read(capsys, "status", "--json", "--config", site))
    assert (data["rounds_done"], data["rounds_expired"], data["open_round"]) == (1, 0, None)
    (only,) = data["rounds"]
    assert (only["invited"], only["updates"], only["seconds"]) == (1, 1, 2.5)
    assert only["targets"][0]["devices"] == ["cam-3"]
    assert data["families"] == {"family-1": ["cam-3"]}
    assert data["refusals"] == {"update.duplicate": 3}
    devices = {d["device_id"]: d for d in data["devices"]}
    assert devices["cam-3"]["assignment"]["family_id"] == "family-1"
    assert devices["cam-3"]["active"]["reason"] == "fallback-better"
    assert devices[LONG]["refusal"] == "spec-mismatch"
    assert devices[LONG]["assignment"] is None


@pytest.mark.parametrize("command", [["status"], ["families"], ["families", "--why", "cam-3"], ["models"], ["reports"]])
def test_text_fits_80_columns(site, capsys, command):
    text = read(capsys, *command, "--config", site)
    assert text.strip()
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", [["status"], ["families"], ["families", "--why", "x"], ["models"], ["reports"]])
def test_every_reading_command_speaks_json(site, capsys, command):
    assert isinstance(json.loads(read(capsys, *command, "--json", "--config", site)), dict)


def test_why_tells_the_whole_story(site, capsys):
    text = read(capsys, "families", "--why", "cam-3", "--config", site)
    assert "1970-01-01T00:00:05Z after round 0: fallback, families are looked for later" in text
    assert "after round 1: family-1, traffic like others" in text
    assert "in use: the fallback model" in text
    assert "fallback-better" in text


def test_why_of_an_unknown_device_says_so(site, capsys):
    assert "no decision yet" in read(capsys, "families", "--why", "nobody", "--config", site)


def test_reading_without_a_store_is_one_line(tmp_path, capsys):
    path = tmp_path / "gateway.toml"
    path.write_text('[store]\ndir = "state"\n[signing]\ndir = "keys"\n')
    assert main(["status", "--config", str(path)]) == ExitCode.STORE
    assert capsys.readouterr().err.count("\n") == 1


def test_keys_prints_the_public_files_for_the_agents(site, capsys):
    paths = json.loads(read(capsys, "keys", "--json", "--config", site))["keys"]
    assert [path.rsplit("/", 1)[1] for path in paths] == ["release-1.pub", "release-2.pub"]


def test_log_lines_quote_what_would_break_them():
    assert line("e", a=1, b=None, c="two words", d='q"', f=0.123456, g="") == (
        'event=e a=1 c="two words" d="q\\"" f=0.1235 g=""'
    )
    assert "\n" not in line("e", topic="kinwatch\nevent=forged")
