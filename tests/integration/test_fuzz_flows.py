"""A short run of ``scripts/fuzz-flows``; the long one is in docs/results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_packets_do_no_harm(seed, tmp_path):
    out = tmp_path / "fuzz.json"
    command = [sys.executable, "scripts/fuzz-flows", "--packets", "20000", "--seed", str(seed), "--json", str(out)]
    done = subprocess.run(
        [*command, "--data", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=110
    )
    result = json.loads(out.read_text(encoding="utf-8"))
    assert done.stderr == ""
    assert result["failures"] == []
    assert result["packets"] >= 20_000
    assert result["metered"] > 5_000
