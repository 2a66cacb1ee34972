"""The command line: one line and a numbered code for whatever goes wrong, no heavy import before it is needed."""

import subprocess
import sys

import pytest
from rich.cells import cell_len

from contract.exit_codes import ExitCode
from testbed import cli
from testbed.demo_results import write_results
from tests.unit.testbed.test_report import sample


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.json"
    write_results(sample(notes=("agent cam-1 was killed (learn) and started again 1 s later",)), path)
    return path


def test_report_prints_tables_within_80_columns_and_writes_the_page(results, capsys):
    assert cli.main(["report", str(results)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert results.with_name("report.html").read_text().startswith("<!doctype html>")
    path_lines = ("report", str(results.parent))
    wide = [line for line in out.splitlines() if cell_len(line) > 80 and not line.strip().startswith(path_lines)]
    assert wide == []
    for wanted in ("cam-1", "family-2", "printer-1", "like nobody: plc-1, printer-1", "held-out exam flows", "note"):
        assert wanted in out


def test_ids_and_figures_are_never_broken_over_lines(results, capsys):
    cli.main(["report", str(results)])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("cam-1"))
    device = sample().devices[0]
    assert row.split()[:4] == ["cam-1", "family-1", "expert", f"{device.f1_of('fallback'):.3f}"]


def test_long_device_ids_take_the_room_of_the_gaps(tmp_path, capsys):
    long = [d.model_copy(update={"device_id": f"building-7-{d.device_id}"}) for d in sample().devices]
    path = tmp_path / "results.json"
    write_results(sample(devices=tuple(long)), path)
    cli.main(["report", str(path)])
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("building-7-cam-1"))
    assert row.split()[3] == f"{long[0].f1_of('fallback'):.3f}"
    assert "…" not in row


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["report", "none.json"], ExitCode.CAPTURE_INPUT, "none.json: No such file"),
        (["demo", "--captures", "nowhere", "--out", "OUT"], ExitCode.CAPTURE_INPUT, "nowhere: no such folder"),
        (["demo", "--out", "OUT", "--devices", "99"], ExitCode.USAGE, "99 devices asked for"),
        (["traffic", "OUT", "--learn-s", "1"], ExitCode.USAGE, "at least"),
        (["prepare", "OUT", "--data", "nowhere"], ExitCode.CAPTURE_INPUT, "nowhere: no such data folder"),
        (["replay", "x.pcap", "no-such-if0"], ExitCode.USAGE, "no interface no-such-if0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_fault_is_one_line_with_its_exit_code(arguments, code, text, tmp_path, capsys):
    assert cli.main([str(tmp_path / "out") if a == "OUT" else a for a in arguments]) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert error.startswith("kinwatch-testbed: ")


@pytest.mark.parametrize(
    "arguments",
    [["demo", "--devices", "0"], ["demo", "--rounds", "x"], ["replay", "a", "b", "--pps", "-1"], [], ["fly"]],
)
def test_a_wrong_command_line_is_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == ExitCode.USAGE
    assert "usage:" in capsys.readouterr().err


def test_a_mac_address_is_six_bytes():
    assert cli._mac("02:00:00:00:00:01") == b"\x02\0\0\0\0\1"
    with pytest.raises(Exception, match="no MAC address"):
        cli._mac("02:00")


def test_help_loads_nothing_heavy():
    code = """
import sys
from testbed.cli import main
try:
    main(["demo", "--help"])
except SystemExit:
    pass
heavy = {"numpy", "scapy", "matplotlib", "rich", "paho", "sklearn", "pydantic", "amqtt"} & set(sys.modules)
sys.exit(", ".join(sorted(heavy)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
