"""What the agent's process loads: nothing heavy, nothing twice; its memory is printed and bounded."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {"tensorflow", "keras", "sklearn", "scipy", "scapy.all", "scapy.layers.all", "matplotlib", "rich", "pandas"}
FORBIDDEN_PREFIXES = ("scapy.layers.", "scapy.contrib.")
MAX_RSS_MB = 66
"""Measured on x86-64 with Python 3.11: 59 MB; room for other versions, not for another library."""
MAX_TRAINER_RSS_MB = 48
"""Measured: 41 MB before it loads a runtime."""


def loaded_by(statement):
    """Return module names and resident megabytes of a fresh process after a statement."""
    code = (
        f"{statement}\n"
        "import sys, json\n"
        "pages = int(open('/proc/self/statm').read().split()[1]) if sys.platform == 'linux' else 0\n"
        "print(json.dumps([sorted(sys.modules), pages]))\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    names, pages = json.loads(done.stdout.splitlines()[-1])
    return set(names), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def heavy(names):
    return sorted(n for n in names if n in FORBIDDEN or n.startswith(FORBIDDEN_PREFIXES))


def test_the_service_loads_no_heavy_library():
    names, rss_mb = loaded_by("import device_agent.service")
    sys.stdout.write(f"device_agent.service: {rss_mb:.1f} MB resident, {len(names)} modules\n")
    assert heavy(names) == []
    assert not {n for n in names if n.split(".")[0] in {"cryptography", "ai_edge_litert", "tflite_runtime", "scapy"}}
    assert rss_mb < MAX_RSS_MB


def test_a_source_loads_only_a_little_of_scapy():
    """Neither its tables of names nor the cryptography it asks for: 24 MB on every device."""
    for source in ("files", "live"):
        names, rss_mb = loaded_by(f"import device_agent.service, device_agent.capture.{source}")
        sys.stdout.write(f"with the source {source}: {rss_mb:.1f} MB resident\n")
        assert heavy(names) == []
        assert "cryptography" not in names
        assert rss_mb < MAX_RSS_MB + 3


def test_the_training_process_loads_neither_messages_nor_transport():
    names, rss_mb = loaded_by("import device_agent.training.worker")
    sys.stdout.write(f"device_agent.training.worker: {rss_mb:.1f} MB resident\n")
    assert heavy(names) == []
    assert rss_mb < MAX_TRAINER_RSS_MB
    assert not {n for n in names if n.split(".")[0] in {"pydantic", "paho", "sqlite3", "cryptography", "scapy"}}


def test_the_command_line_answers_before_it_loads_the_service():
    names, _ = loaded_by("import device_agent.cli")
    assert not {"numpy", "pydantic", "paho", "scapy"} & names
