"""The broker of a run: chosen, started on loopback, ready when it accepts an MQTT connection."""

import socket

import pytest

from contract.exit_codes import ExitCode
from testbed import broker
from testbed.errors import HarnessError
from testbed.processes import supervised


@pytest.fixture(params=["embedded", "mosquitto"])
def kind(request):
    if request.param == "mosquitto" and broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    return request.param


def test_a_broker_starts_on_a_free_port_answers_and_stops(kind, tmp_path):
    with supervised() as supervisor:
        running = broker.start_broker(kind, run_dir=tmp_path, supervisor=supervisor)
        assert (running.kind, running.host) == (kind, "127.0.0.1")
        assert running.version.split()[1][0].isdigit()
        assert broker.answers(running.host, running.port)
        assert not broker.port_is_free(running.port)
    assert broker.port_is_free(running.port)


def test_a_wanted_port_is_used(kind, tmp_path):
    port = broker.free_port()
    with supervised() as supervisor:
        assert broker.start_broker(kind, run_dir=tmp_path, supervisor=supervisor, port=port).port == port


def test_a_port_in_use_is_one_clear_line(tmp_path):
    with socket.socket() as taken, supervised() as supervisor:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(HarnessError, match=f"port {port} on 127.0.0.1 is in use") as caught:
            broker.start_broker("auto", run_dir=tmp_path, supervisor=supervisor, port=port)
    assert caught.value.code == ExitCode.PORT_IN_USE


def test_a_listener_that_speaks_no_mqtt_is_not_ready():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not broker.answers("127.0.0.1", silent.getsockname()[1], timeout_s=0.2)


def test_auto_takes_mosquitto_if_it_is_there(monkeypatch):
    monkeypatch.setattr(broker, "find_mosquitto", lambda: "/usr/sbin/mosquitto")
    assert broker.choose("auto") == "mosquitto"
    monkeypatch.setattr(broker, "find_mosquitto", lambda: None)
    assert broker.choose("auto") == "embedded"
    with pytest.raises(HarnessError, match="--broker embedded"):
        broker.choose("mosquitto")


def test_the_configuration_listens_on_loopback_only():
    text = broker.mosquitto_config(1884, user="somebody")
    assert [line for line in text.splitlines() if line.startswith("listener")] == ["listener 1884 127.0.0.1"]
    limit = next(line for line in text.splitlines() if line.startswith("max_packet_size"))
    assert int(limit.split()[1]) > 4 * 34_000
