"""What a demo run needs on disk: its folders, the gateway's and the agents' configuration, the environment record."""

import contextlib
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from contract import CONTRACT_VERSION
from contract.exit_codes import ExitCode
from contract.features import SCHEMA_ID
from contract.model import DEFAULT_SPEC
from testbed.broker import BrokerChoice, RunningBroker
from testbed.captures.loader import LabelledCapture
from testbed.errors import HarnessError

# A device with too little traffic to learn from must not hold up the others.
_QUORUM_TO_OPEN = 0.8
_MARKER = "harness.pid"
Toml = Mapping[str, object]
_PACKAGES = (
    "numpy",
    "pydantic",
    "cbor2",
    "paho-mqtt",
    "scapy",
    "cryptography",
    "ai-edge-litert",
    "scikit-learn",
    "amqtt",
)


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What a person chose.

    Attributes
    ----------
    captures
        Folder of labelled captures; ``None`` = generate traffic from ``seed``.
    out
        Folder of the results.
    devices
        Use only the first so many devices; ``None`` = all.
    rounds
        Rounds in all, warm-up included.
    warmup_rounds
        Rounds that train the fallback alone.
    learn_s, exam_s
        Length of the generated parts in packet time.
    speed
        Packet time per wall time; 0 = as fast as the agents take it.
    chaos
        Kills to make, ``<who>@<when>``.
    keep_running
        Leave everything up after the results until Ctrl-C.
    """

    out: Path
    captures: Path | None = None
    seed: int = 1
    devices: int | None = None
    rounds: int = 40
    warmup_rounds: int = 5
    learn_s: float = 1_200.0
    exam_s: float = 600.0
    broker: BrokerChoice = "auto"
    port: int = 0
    speed: float = 0.0
    chaos: tuple[str, ...] = ()
    keep_running: bool = False
    rounds_timeout_s: float = 240.0

    @property
    def min_rows(self) -> int:
        """Rows from which a device takes part: recorded captures of small hosts hold few flows."""
        return 100 if self.captures is None else 20


@dataclass(frozen=True, slots=True)
class RunDir:
    """Where a run keeps things; everything below ``out``."""

    out: Path

    @property
    def captures(self) -> Path:
        """Generated captures."""
        return self.out / "captures"

    @property
    def run(self) -> Path:
        """State, configuration and logs of the processes; emptied at every start."""
        return self.out / "run"

    @property
    def results(self) -> Path:
        """The figures."""
        return self.out / "results.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.out / "report.html"

    def fifo(self, device_id: str) -> Path:
        """Path of the capture stream of an agent."""
        return self.run / f"{device_id}.pcap"

    def config(self, name: str) -> Path:
        """Path of a configuration file."""
        return self.run / f"{name}.toml"

    def log(self, name: str) -> Path:
        """Output of a process."""
        return self.run / f"{name}.log"

    def alerts(self, device_id: str) -> Path:
        """Alert file of an agent."""
        return self.run / f"{device_id}.eve.json"

    @property
    def signing(self) -> Path:
        """Keys of the gateway."""
        return self.run / "signing"


def prepare_run_dir(out: Path) -> RunDir:
    """Make the folders; what an earlier run left in ``run`` is removed.

    Raises
    ------
    HarnessError
        If the folder cannot be made, or another run is using it.
    """
    where = RunDir(out.resolve())
    try:
        where.run.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(where)
        for old in sorted(where.run.rglob("*"), reverse=True):
            if old.is_dir() and not old.is_symlink():
                old.rmdir()
            else:
                old.unlink()
        (where.run / _MARKER).write_text(f"{os.getpid()}\n")
    except OSError as error:
        raise HarnessError(
            f"{error.filename or out}: {error.strerror}; give another --out", code=ExitCode.STORE
        ) from None
    return where


def _refuse_foreign(where: RunDir) -> None:
    """Only what a run left behind is removed, and only when that run is over."""
    marker = where.run / _MARKER
    if not marker.exists():
        if any(where.run.iterdir()):
            raise HarnessError(f"{where.run} holds files that no run made; give another --out", code=ExitCode.STORE)
        return
    with contextlib.suppress(ValueError):
        pid = int(marker.read_text())
        if pid != os.getpid() and psutil.pid_exists(pid):
            raise HarnessError(f"a run with process id {pid} uses {where.out}; give another --out", code=ExitCode.STORE)


def gateway_config(where: RunDir, settings: DemoSettings, broker: RunningBroker, *, devices: int) -> Toml:
    """Return the gateway's configuration: rounds follow each other at once, all devices take part."""
    return {
        "seed": settings.seed,
        # The embedded broker leaves an MQTT 5 greeting without an answer.
        "broker": {
            "host": broker.host,
            "port": broker.port,
            "protocol": "3.1.1" if broker.kind == "embedded" else "auto",
        },
        "store": {"dir": str(where.run / "gateway")},
        "signing": {"dir": str(where.signing)},
        "rounds": {
            "max_rounds": settings.rounds,
            "warmup_rounds": settings.warmup_rounds,
            "interval_s": 0.2,
            "deadline_s": 45.0,
            "min_devices": math.ceil(_QUORUM_TO_OPEN * devices),
            "min_rows": settings.min_rows,
        },
        "families": {"min_size": 3, "recluster_every": 5},
    }


def agent_config(
    where: RunDir, capture: LabelledCapture, broker: RunningBroker, keys: Sequence[Path], *, min_rows: int = 100
) -> Toml:
    """Return an agent's configuration; ``min_rows`` benign rows make a signature."""
    device_id = capture.device_id
    return {
        "device": {"id": device_id},
        "broker": {"host": broker.host, "port": broker.port},
        "capture": {"source": str(where.fifo(device_id))},
        "store": {"dir": str(where.run / device_id)},
        "alerts": {"path": str(where.alerts(device_id))},
        "labels": {"accept_marks": True},
        "trust": {"keys": [str(key) for key in keys]},
        "training": {"min_benign_rows": min_rows, "block_s": 30},
        "telemetry": {"every_s": 1.0},
    }


def write_toml(path: Path, document: Toml) -> None:
    """Write a configuration of tables with plain values, one level deep."""
    top = [f"{key} = {_toml(value)}" for key, value in document.items() if not isinstance(value, Mapping)]
    tables = [
        "\n".join([f"[{name}]", *(f"{key} = {_toml(item)}" for key, item in table.items())])
        for name, table in document.items()
        if isinstance(table, Mapping)
    ]
    path.write_text("\n\n".join(["\n".join(top), *tables] if top else tables) + "\n", encoding="utf-8")


def _toml(value: object) -> str:
    """Return a TOML value; JSON's text form of strings, numbers, booleans and arrays is TOML's."""
    return json.dumps(value, ensure_ascii=False)


def environment(broker: RunningBroker, captures: Sequence[LabelledCapture]) -> dict[str, str]:
    """Return what a reader needs to judge or repeat the run: versions, machine, inputs."""
    record = {
        "kinwatch": _version("kinwatch"),
        "contract": CONTRACT_VERSION,
        "feature schema": SCHEMA_ID[:16],
        "model spec": DEFAULT_SPEC.spec_id[:16],
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "processors": str(os.cpu_count() or 0),
        "broker": broker.version,
        "captures sha256": _captures_digest(captures)[:16],
    }
    record |= {name: _version(name) for name in _PACKAGES}
    commit = _git_commit()
    return record | ({"git commit": commit} if commit else {})


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed as a package"


def _processor() -> str:
    """Return the processor's name; a Raspberry Pi names its board instead."""
    with contextlib.suppress(OSError):
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
        named = {key.strip(): value.strip() for key, _, value in lines}
        if found := named.get("model name") or named.get("Model") or named.get("Hardware"):
            return found
    return platform.processor() or platform.machine()


def _captures_digest(captures: Sequence[LabelledCapture]) -> str:
    total = hashlib.sha256()
    for capture in captures:
        with capture.path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _git_commit() -> str:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        told = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout.strip() if told.returncode == 0 else ""


def command_line() -> str:
    """Return how this program was called, for the record."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
