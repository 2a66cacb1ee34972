"""The benchmark of families runs from the command line, in quick mode, with an honest last line."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_quick_mode_ends_with_one_json_object():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.families", "--quick", "--cells", "iid"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    headline = json.loads(done.stdout.strip().splitlines()[-1])
    assert headline["name"] == "families"
    assert set(headline["bars"]["iid: ours minus FedAdam"]) == {"value", "bar", "ok"}
    assert "quick mode: nothing is written" in done.stdout


def test_a_missing_published_set_is_a_clear_error(tmp_path):
    command = [
        sys.executable,
        "-m",
        "benchmarks.families",
        "--data",
        str(tmp_path),
        "--public",
        "nbaiot",
        "--seeds",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 20
    assert "put its files" in done.stderr
