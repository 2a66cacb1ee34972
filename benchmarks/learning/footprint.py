"""What the agent takes on disk and in memory, beside TensorFlow and a Flower client with TensorFlow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinwatch" / "benchmarks"
AGENT = "from device_agent.later import put_off; put_off(); import device_agent.service, device_agent.training.worker"
"""What ``kinwatch-agent run`` loads, with the stand-ins for what it does not use."""
PEERS = {"tensorflow": "import tensorflow", "flower_with_tensorflow": "import flwr.client, tensorflow"}
_PACKAGES = {
    "agent": ["{project}[agent]"],
    "tensorflow": ["tensorflow-cpu"],
    "flower_with_tensorflow": ["flwr", "tensorflow-cpu"],
}
_FOLDERS = {"agent": "agent", "tensorflow": "tensorflow", "flower_with_tensorflow": "flower"}
_INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack", "distutils-precedence")
_PROBE = """
import os, time
began, cpu = time.perf_counter(), time.process_time()
{statement}
took, cpu = time.perf_counter() - began, time.process_time() - cpu
pages = int(open("/proc/self/statm").read().split()[1])
import json
rss_mb = round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
print(json.dumps({{"import_s": round(took, 2), "import_cpu_s": round(cpu, 2), "rss_mb": rss_mb}}))
"""


def environment_of(name: str, *, install: bool) -> Path | None:
    """Return the interpreter of a peer's environment under the cache, made if ``install``; None without one."""
    convert = os.environ.get("KINWATCH_CONVERT_PYTHON")
    if name == "tensorflow" and convert and Path(convert).exists():
        return Path(convert)
    folder = CACHE / _FOLDERS[name]
    python = folder / "bin" / "python"
    project = str(Path(__file__).resolve().parents[2])
    if name == "agent" and install:
        shutil.rmtree(folder, ignore_errors=True)  # made of the tree as it is, with its present requirements
    if not python.exists() and install:
        packages = [package.format(project=project) for package in _PACKAGES[name]]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True, timeout=1_800)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"  {name} could not be installed: {error}")
            return None
    return python if python.exists() else None


def installed_mb(python: Path) -> float:
    """Return the size of an environment's packages, without the installer's own, in 10^6 bytes."""
    (site,) = (python.parent.parent / "lib").glob("python*/site-packages")
    total = 0
    for entry in site.iterdir():
        if not entry.name.startswith(_INSTALLERS):
            files = [entry] if entry.is_file() else entry.rglob("*")
            total += sum(f.stat().st_size for f in files if f.is_file() and "__pycache__" not in f.parts)
    return round(total / 1e6, 1)


def import_cost(python: str, statement: str) -> dict[str, float]:
    """Return wall and CPU seconds of an import and the memory after it, the better of two runs."""
    quiet = {"OPENBLAS_NUM_THREADS": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment = {**os.environ, **quiet}
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [python, "-c", _PROBE.format(statement=statement)],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
            env=environment,
            cwd=Path(__file__).resolve().parents[2],
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return min(runs, key=lambda run: run["import_s"])


def measure(*, install: bool) -> dict[str, dict[str, float]]:
    """Return sizes and import costs by name; a peer that is missing is named and left out."""
    found = {}
    for name in _PACKAGES:
        python = environment_of(name, install=install)
        statement = PEERS.get(name, AGENT)
        if python is None:
            if name == "agent":
                found[name] = import_cost(sys.executable, statement)
            print(f"  {name}: no environment in the cache; run without --quick to make it")
            continue
        try:
            found[name] = {"installed_mb": installed_mb(python), **import_cost(str(python), statement)}
        except (subprocess.SubprocessError, ValueError) as error:
            print(f"  {name}: does not run: {error}")
    return found
