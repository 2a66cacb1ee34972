"""The command line: exit codes, one-line errors, the small commands."""

import csv
import io

import pytest

from contract.exit_codes import ExitCode
from device_agent import cli
from testbed.traffic.scenario import DeviceScenario
from testbed.traffic.writer import write_capture

GOOD = '[device]\nid = "cam-1"\n[capture]\nsource = "x.pcap"\n[store]\ndir = "state"\n'


@pytest.fixture(autouse=True)
def logging_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(cli, "_start_logging", lambda _level: None)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(GOOD, encoding="utf-8")
    return path


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "x.pcap"
    write_capture(DeviceScenario("cam-1", "plc", 3, 12, learn_s=120, exam_s=60), path)
    return path


def error_line(capsys):
    err = capsys.readouterr().err.strip().splitlines()
    return next(line for line in err if line.startswith("kinwatch-agent:"))


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith("kinwatch-agent ")


def test_a_wrong_command_line_is_code_2(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["fly"])
    assert done.value.code == ExitCode.USAGE


def test_print_config_shows_the_settings_in_effect(config, capsys):
    assert cli.main(["config", "--config", str(config), "--print-config"]) == 0
    assert "false_alarms_per_hour = 1.0" in capsys.readouterr().out
    assert cli.main(["config", "--config", str(config)]) == 0


@pytest.mark.parametrize(
    ("change", "code", "wanted"),
    [
        (("[store]", "[sture]"), ExitCode.CONFIG, "unknown key sture; did you mean store?"),
        (('id = "cam-1"', 'id = "cam-1"\nboard = "no.toml"'), ExitCode.CONFIG, "no.toml: the board file"),
        (("[store]", '[trust]\nkeys = ["no.pub"]\n[store]'), ExitCode.CONFIG, "no.pub: the release key"),
        (("x.pcap", "absent.pcap"), ExitCode.CAPTURE_INPUT, "absent.pcap: no such file"),
        (('dir = "state"', 'dir = "agent.toml"'), ExitCode.STORE, "agent.toml: the state directory cannot be made"),
    ],
)
def test_run_refuses_with_one_line_and_a_numbered_code(config, capsys, change, code, wanted):
    config.write_text(GOOD.replace(*change), encoding="utf-8")
    assert cli.main(["run", "--config", str(config)]) == code
    assert wanted in error_line(capsys)


def test_flows_prints_records_and_a_summary(capture, capsys):
    assert cli.main(["flows", str(capture)]) == 0
    out = capsys.readouterr()
    records = list(csv.DictReader(io.StringIO(out.out)))
    assert len(records) > 10
    assert f"{len(records)} flow records of " in out.err


def test_flows_writes_a_file(capture, tmp_path, capsys):
    target = tmp_path / "flows.jsonl"
    assert cli.main(["flows", str(capture), "--format", "jsonl", "--output", str(target)]) == 0
    assert len(target.read_text(encoding="utf-8").splitlines()) > 10
    assert cli.main(["flows", str(capture), "--output", str(tmp_path / "no" / "x")]) == ExitCode.CONFIG
    assert cli.main(["flows", str(capture), "--idle", "0"]) == ExitCode.CONFIG
    assert cli.main(["flows", str(tmp_path / "absent")]) == ExitCode.CAPTURE_INPUT


def test_the_self_test_names_every_check_and_the_first_failure_is_the_code(config, capture, capsys):
    assert cli.main(["self-test", "--config", str(config)]) == 0
    table = capsys.readouterr().out
    for check in ("board", "engine", "store", "capture", "release keys", "broker"):
        assert f"\n{check} " in f"\n{table}"
    assert "FAILED" not in table
    config.write_text(GOOD + '[broker]\nhost = "127.0.0.1"\nport = 1\n', encoding="utf-8")
    assert cli.main(["self-test", "--config", str(config)]) == ExitCode.BROKER_UNREACHABLE
    assert "127.0.0.1:1 does not answer" in capsys.readouterr().out


def test_the_self_test_leaves_nothing_in_the_store(config, capture, tmp_path):
    cli.main(["self-test", "--config", str(config)])
    assert list((tmp_path / "state").iterdir()) == []
