"""Settings: good files, and one clear line for each kind of fault."""

import tomllib

import pytest

from contract.exit_codes import ExitCode
from device_agent.config import is_loopback, load_config, read_secret, render_config
from device_agent.errors import ConfigError

GOOD = """
[device]
id = "cam-1"
[broker]
host = "127.0.0.1"
port = 18830
[capture]
source = "traffic.pcap"
[store]
dir = "state"
[labels]
accept_marks = true
"""


def write(tmp_path, text):
    path = tmp_path / "agent.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_gives_frozen_settings_with_defaults(tmp_path):
    config = load_config(write(tmp_path, GOOD))
    assert config.device.id == "cam-1"
    assert config.labels.accept_marks is True
    assert config.training.min_benign_rows == 200
    with pytest.raises(ValueError, match="frozen"):
        config.device.id = "other"


def test_relative_paths_are_meant_from_the_directory_of_the_file(tmp_path):
    config = load_config(write(tmp_path, GOOD + '[trust]\nkeys = ["keys/a.pub", "/etc/b.pub"]\n'))
    assert config.store.dir == tmp_path / "state"
    assert config.alert_path == tmp_path / "state" / "eve.json"
    assert [str(p) for p in config.trust.keys] == [str(tmp_path / "keys/a.pub"), "/etc/b.pub"]


def test_without_a_broker_the_device_stands_alone(tmp_path):
    text = '[device]\nid = "a"\n[capture]\nsource = "-"\n[store]\ndir = "s"\n'
    assert load_config(write(tmp_path, text)).broker is None


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("accept_marks", "acept_marks"), "unknown key labels.acept_marks; did you mean labels.accept_marks?"),
        (("[labels]", "[label]"), "unknown key label; did you mean labels?"),
        (('host = "127.0.0.1"', 'hots = "127.0.0.1"'), "unknown key broker.hots; did you mean broker.host?"),
        (("accept_marks", "zzzzzz"), "unknown key labels.zzzzzz; valid here: accept_marks, baseline_s"),
        (("port = 18830", "port = 99999"), "broker.port: input should be less than or equal to 65535 (found 99999)"),
        (("port = 18830", 'port = "18830"'), "broker.port: input should be a valid integer"),
        (('id = "cam-1"', 'id = "Cam 1"'), "device.id: string should match pattern"),
        (("[store]\ndir", "[store]\n#"), "store.dir is missing"),
        (('"127.0.0.1"', '"10.0.0.9"'), "broker: MQTT to 10.0.0.9 would travel in plain text"),
        (("port = 18830", "port = = 1"), "not TOML"),
    ],
)
def test_a_fault_is_one_line_that_names_file_key_and_remedy(tmp_path, change, wanted):
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert wanted in message
    assert "\n" not in message
    assert caught.value.exit_code == ExitCode.CONFIG


def test_plain_mqtt_over_the_network_needs_consent_or_tls(tmp_path):
    far = GOOD.replace('"127.0.0.1"', '"10.0.0.9"')
    assert load_config(write(tmp_path, far.replace("port = 18830", "allow_plaintext = true"))).broker.host == "10.0.0.9"
    assert load_config(write(tmp_path, far.replace("port = 18830", 'ca_file = "ca.crt"'))).broker.port == 1883


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file"):
        load_config(tmp_path / "absent.toml")


def test_the_printed_settings_are_toml_that_gives_the_same_settings(tmp_path):
    config = load_config(write(tmp_path, GOOD))
    again = tmp_path / "again.toml"
    again.write_text(render_config(config), encoding="utf-8")
    assert load_config(again) == config
    assert tomllib.loads(render_config(config))["flows"]["idle_s"] == 15.0


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.5", True), ("::1", True), ("10.0.0.1", False), ("broker.example", False)],
)
def test_loopback_hosts(host, expected):
    assert is_loopback(host) is expected


def test_secrets_come_from_files_without_their_line_end(tmp_path):
    path = tmp_path / "password"
    path.write_text("s3cret\n", encoding="utf-8")
    assert read_secret(path) == "s3cret"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="empty"):
        read_secret(path)
