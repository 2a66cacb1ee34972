"""``kinwatch-agent flows`` as other programs see it: pipes, signals, formats, exit codes."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.exit_codes import ExitCode
from device_agent import cli
from device_agent.export.columns import KINDS
from device_agent.flows.fast.library import load
from testbed.traffic.scenario import DeviceScenario
from testbed.traffic.writer import write_capture

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "device_agent", "flows"]


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = tmp_path_factory.mktemp("flows") / "x.pcap"
    write_capture(DeviceScenario("cam-1", "plc", 3, 12, learn_s=120, exam_s=60), path)
    return path


def start(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*COMMAND, *map(str, arguments)], cwd=ROOT, **options)


@pytest.mark.parametrize("engine", ["auto", "fast", "columnar", "packet"])
def test_every_engine_gives_the_same_records(capture, capsys, engine):
    if engine == "fast" and load() is None:
        pytest.skip("no compiled meter; run scripts/build-fast")
    found = {}
    for name in (engine, "packet"):
        assert cli.main(["flows", str(capture), "--engine", name]) == 0
        out, err = capsys.readouterr()
        found[name] = sorted(csv.DictReader(io.StringIO(out)), key=lambda row: (row["flow_id"], row["part_index"]))
        assert err.count("\n") == 1
        assert err.rstrip().endswith(f"engine: {name}") == (name != "auto")
    for got, want in zip(found[engine], found["packet"], strict=True):
        for name, value in want.items():
            if KINDS[name] == "real":
                assert float(got[name]) == pytest.approx(float(value), rel=1e-9), name
            else:
                assert got[name] == value, name


def test_parquet_needs_a_file_and_has_the_rows_of_csv(capture, tmp_path, capsys):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet: pip install 'kinwatch[parquet]'")
    target = tmp_path / "x.parquet"
    assert cli.main(["flows", str(capture), "--format", "parquet", "--output", str(target)]) == 0
    assert cli.main(["flows", str(capture)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [{k: str(v) for k, v in row.items()} for row in parquet.read_table(target).to_pylist()] == rows


def test_an_engine_that_cannot_do_it_is_named(capture, capsys):
    arguments = ["flows", str(capture), "--engine", "columnar", "--idle", "90000", "--active", "90000"]
    assert cli.main(arguments) == ExitCode.CONFIG
    assert "timeouts too long for the columnar meter" in capsys.readouterr().err


def test_a_damaged_capture_gives_its_flows_and_its_exit_code(capture, tmp_path, capsys):
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(capture.read_bytes()[:-5])
    assert cli.main(["flows", str(cut), "--format", "jsonl"]) == ExitCode.CAPTURE_INPUT
    out, err = capsys.readouterr()
    assert len(out.splitlines()) > 10
    assert "ends in the middle of a record" in err


def test_the_reader_of_a_pipe_may_go_away(capture):
    """As `kinwatch-agent flows x.pcap | head -1` does; the pipe is far smaller than the output."""
    child = start(capture, "--idle", "0.001", "--active", "0.01")
    try:
        assert child.stdout.readline().startswith("flow_id,")
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(30) == ExitCode.OK
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


def test_standard_input_and_ctrl_c(capture):
    """What was metered before Ctrl-C is written, and the code says that the capture was not read to its end."""
    child = start("-", "--format", "jsonl", stdin=subprocess.PIPE, text=False)
    try:
        child.stdin.write(capture.read_bytes())
        child.stdin.flush()
        child.stdout.readline()  # a first record: all signals are handled from here on
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == ExitCode.INTERRUPTED
    assert b"flow records of" in err
    assert json.loads(out.splitlines()[-1])["end_reason"] in {"flush", "idle", "tcp_end", "active"}


def test_a_terminal_sees_progress_and_then_the_summary_alone(capture, tmp_path):
    ours, theirs = pty.openpty()
    child = start(capture, "--output", tmp_path / "x.csv", stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while chunk := _read(ours):
            seen += chunk
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        os.close(ours)
    assert b" %  " in seen
    assert b"packets, " in seen
    assert seen.decode().split("\x1b[K")[-1].startswith(tuple("0123456789"))


def _read(descriptor):
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # the other side is closed
        return b""


def test_no_progress_where_records_go_to_the_same_terminal(capture):
    ours, theirs = pty.openpty()
    child = start(capture, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while chunk := _read(ours):
            seen += chunk
        child.wait(30)
    finally:
        child.kill()
        child.wait()
        os.close(ours)
    assert b"\x1b[K" not in seen


def test_seconds_end_a_source_that_does_not_end(tmp_path, capsys):
    os.mkfifo(tmp_path / "f")
    began = time.monotonic()
    assert cli.main(["flows", str(tmp_path / "f"), "--seconds", "0.3"]) == 0
    assert time.monotonic() - began < 5.0
    assert "0 flow records of 0 packets" in capsys.readouterr().err


def test_a_name_is_a_file_first_then_an_interface(tmp_path, monkeypatch):
    from device_agent.export.command import _spec

    monkeypatch.chdir(tmp_path)
    assert _spec("lo") == "iface:lo"
    assert _spec("nothing0") == "nothing0"
    assert _spec("-") == "-"
    Path("lo").touch()
    assert _spec("lo") == "lo"
