"""Alerts in the store, and verdicts on them from the command line to the broker."""

import json

import pytest

from contract.codec import decode
from contract.exit_codes import ExitCode
from contract.messages import EveAlert, Verdict
from contract.topics import parse
from gateway import cli
from gateway.events import KeepAlert, PeerSaid
from gateway.machine import GatewayMachine
from gateway.performer import Performer
from gateway.registry import Refused
from gateway.restore import restore
from gateway.store import Store
from gateway.store import alerts as stored_alerts
from tests.unit.contract.samples import SAMPLES
from tests.unit.gateway.builders import config
from tests.unit.gateway.test_performer import STATE
from tests.unit.gateway.test_store import DEFAULT_SPEC, NoSigner

SAMPLE = next(message for message in SAMPLES if isinstance(message, EveAlert))


def alert(flow_id=7, device_id="cam-1", attack_class="scan", second=0):
    inner = SAMPLE.kinwatch.model_copy(update={"device_id": device_id, "attack_class": attack_class})
    at = f"2026-01-01T00:00:{second:02d}.000000+0000"
    return SAMPLE.model_copy(update={"flow_id": flow_id, "kinwatch": inner, "timestamp": at})


@pytest.fixture
def gateway(tmp_path):
    """A stopped gateway: its configuration file, and a store with alerts of two devices."""
    path = tmp_path / "gateway.toml"
    path.write_text('[store]\ndir = "state"\n[signing]\ndir = "keys"\n', encoding="utf-8")
    store = Store(tmp_path / "state")
    store.alerts.add([alert(), alert(8, attack_class="anomaly", second=1), alert(9, "plug-1")], now_s=5.0)
    store.close()
    return path


def run(gateway, *arguments):
    return cli.main([*arguments, "--config", str(gateway)])


def waiting(gateway):
    store = Store(gateway.parent / "state", read_only=True)
    try:
        return [(v.device_id, v.flow_id, v.label) for _, v in store.alerts.unsent_verdicts()]
    finally:
        store.close()


def test_alerts_are_listed_newest_first_with_their_verdicts(gateway, capsys):
    assert run(gateway, "verdict", "cam-1", "7", "dismiss") == ExitCode.OK
    capsys.readouterr()
    assert run(gateway, "alerts", "--json") == ExitCode.OK
    listed = json.loads(capsys.readouterr().out)["alerts"]
    assert [(a["flow_id"], a["verdict"]) for a in listed] == [(9, None), (8, None), (7, "benign")]
    assert run(gateway, "alerts", "--device", "cam-1", "--limit", "1") == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:3] == ["cam-1", "8", "anomaly"]


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (("7", "confirm"), "scan"),
        (("7", "confirm", "--label", "bruteforce"), "bruteforce"),
        (("7", "dismiss"), "benign"),
        (("8", "confirm", "--label", "c2_beacon"), "c2_beacon"),
    ],
)
def test_a_verdict_waits_in_the_store_for_the_gateway(gateway, words, label):
    assert run(gateway, "verdict", "cam-1", *words) == ExitCode.OK
    assert waiting(gateway) == [("cam-1", int(words[0]), label)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cam-1", "77", "confirm"), "no alert on flow 77"),
        (("plug-1", "7", "confirm"), "no alert on flow 7"),
        (("cam-1", "8", "confirm"), "--label"),
        (("cam-1", "7", "confirm", "--label", "worm"), "no class of attack"),
        (("cam-1", "7", "confirm", "--label", "benign"), "dismiss it instead"),
        (("cam-1", "7", "dismiss", "--label", "scan"), "goes with confirm"),
    ],
)
def test_a_verdict_that_makes_no_sense_is_one_line_and_changes_nothing(gateway, capsys, words, message):
    """An anomaly has no class: the operator must say which one it is."""
    assert run(gateway, "verdict", *words) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert waiting(gateway) == []


def test_the_gateway_sends_each_verdict_once(gateway):
    run(gateway, "verdict", "cam-1", "7", "confirm")
    run(gateway, "verdict", "plug-1", "9", "dismiss")
    store, published = Store(gateway.parent / "state"), []

    def publish(topic, payload, **_options):
        assert parse(topic).topic.name == "verdict"
        published.append(decode(Verdict, payload))

    try:
        performer = Performer(config(), store, NoSigner(), publish, STATE)
        for _ in range(2):
            performer.send_verdicts()
        assert [(v.device_id, v.label) for v in published] == [("cam-1", "scan"), ("plug-1", "benign")]
    finally:
        store.close()


def test_alerts_that_come_twice_are_kept_once_and_the_oldest_make_room(tmp_path, monkeypatch):
    store = Store(tmp_path)
    try:
        for _ in range(2):
            store.alerts.add([alert(n, second=n) for n in range(4)], now_s=1.0)
        assert [s.alert.flow_id for s in store.alerts.recent()] == [3, 2, 1, 0]
        monkeypatch.setattr(stored_alerts, "MAX_ALERTS", 3)
        store.alerts.add([alert(4, second=4)], now_s=1.0)
        assert [s.alert.flow_id for s in store.alerts.recent()] == [4, 3, 2]
        store.alerts.add([alert(4, second=9)], now_s=2.0)
        assert store.alerts.of_flow("cam-1", 4).timestamp.endswith("09.000000+0000"), "a flow may alert again"
    finally:
        store.close()


def test_an_alert_in_the_name_of_another_device_is_refused(tmp_path):
    store = Store(tmp_path)
    try:
        machine = GatewayMachine(
            config(), DEFAULT_SPEC, restore(store, config(), DEFAULT_SPEC, NoSigner(), now_s=0).memory
        )
        assert KeepAlert(alert()) in machine.handle(PeerSaid("cam-1", alert()), 0.0)
        assert machine.handle(PeerSaid("plug-1", alert()), 0.0) == [Refused("plug-1", "evealert", "foreign-device")]
        performer = Performer(config(), store, NoSigner(), lambda *_a, **_k: None, STATE)
        performer.perform(KeepAlert(alert()))
        performer.flush()
        assert [s.alert for s in store.alerts.recent()] == [alert()]
    finally:
        store.close()
