"""The commands of docs/flows.md work as they stand there."""

import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.traffic.scenario import DeviceScenario
from testbed.traffic.writer import write_capture

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "flows.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the captures that the page names and a program that runs this tree."""
    folder = tmp_path_factory.mktemp("page")
    write_capture(DeviceScenario("cam-1", "plc", 3, 12, learn_s=120, exam_s=60), folder / "home.pcap")
    (folder / "home.pcap.gz").write_bytes(gzip.compress((folder / "home.pcap").read_bytes()))
    program = folder / "kinwatch-agent"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m device_agent "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.mark.parametrize("command", BLOCKS[0].splitlines())
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_command_on_a_file_works(folder, command):
    if "parquet" in command:
        pytest.importorskip("pyarrow", reason="needs the extra parquet: pip install 'kinwatch[parquet]'")
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # With `head`, what feeds the program may lose its reader too.
    assert done.returncode == 0 or ("head" in command and done.returncode == 128 + signal.SIGPIPE), done.stderr
    target = re.search(r"flows\.\w+$", command)
    if target:
        assert (folder / target[0]).stat().st_size > 1_000
    else:
        assert len(done.stdout.splitlines()) == 5


def test_options_of_the_page_are_those_of_the_program(folder):
    shown = subprocess.run(
        [folder / "kinwatch-agent", "flows", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    offered = set(re.findall(r"--[a-z]+", shown)) - {"--help"}
    assert offered <= set(re.findall(r"--[a-z]+", PAGE))
    assert set(re.findall(r"(?<=`)--[a-z]+", PAGE)) <= offered
    assert set(re.findall(r"(?<=flows eth0 )--\w+|(?<= )--bpf", BLOCKS[1])) <= offered
