"""One round with 10, 100 and 1,000 devices against Mosquitto and the real gateway; and the bytes of an update.

python -m benchmarks.transport [load] [--quick] [--devices 10 100 1000] [--json docs/results/transport.json]
python -m benchmarks.transport bytes [--quick] [--json docs/results/bytes.json]

Not repeated for other brokers: the gateway is what is measured, and Mosquitto is the broker of every deployment.
"""

import argparse
import json
import platform
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.transport import sizes
from gateway.broker_files import SETTINGS

PER_PROCESS = 250
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
TICK = 100


def load(devices: int, seconds: float) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port = free_port()
        conf = folder / "mosquitto.conf"
        conf.write_text(
            f"{SETTINGS}listener {port} 127.0.0.1\nuser root\n".replace("allow_anonymous false", "allow_anonymous true")
        )
        (folder / "gateway.toml").write_text(
            f'[broker]\nport = {port}\n[store]\ndir = "state"\n[signing]\ndir = "keys"\n[rounds]\nmax_rounds = 1\n'
            f"interval_s = 0\ndeadline_s = {seconds}\nmin_devices = {devices}\nmin_rows = 100\n"
        )
        children = [subprocess.Popen([MOSQUITTO, "-c", str(conf)], stderr=subprocess.DEVNULL)]
        try:
            wait_for_port(port)
            with (folder / "gateway.log").open("wb") as log:
                command = [sys.executable, "-m", "gateway.cli", "run", "--config", str(folder / "gateway.toml")]
                gateway = subprocess.Popen(command, stderr=log)
            children.append(gateway)
            outs = []
            for first in range(0, devices, PER_PROCESS):
                out = folder / f"devices-{first}.json"
                count = min(PER_PROCESS, devices - first)
                command = [sys.executable, "-m", "benchmarks.transport.devices", "--port", str(port)]
                command += ["--first", str(first), "--count", str(count), "--out", str(out), "--seconds", str(seconds)]
                children.append(subprocess.Popen(command))
                outs.append(out)
            peak_kb = 0
            for child in children[2:]:
                while child.poll() is None:
                    peak_kb = max(peak_kb, rss_kb(gateway.pid))
                    time.sleep(0.05)
            wait_for_round(folder, 60.0)
            gateway_cpu, broker_cpu = cpu_s(gateway.pid), cpu_s(children[0].pid)
            return summary(folder, outs, devices) | {
                "gateway_peak_rss_mb": round(max(peak_kb, rss_kb(gateway.pid)) / 1_024, 1),
                "gateway_cpu_s": round(gateway_cpu, 2),
                "gateway_cpu_ms_per_update": round(1_000 * gateway_cpu / devices, 2),
                "broker_cpu_s": round(broker_cpu, 2),
                "broker_rss_mb": round(rss_kb(children[0].pid) / 1_024, 1),
            }
        finally:
            for child in reversed(children):
                if child.poll() is None:
                    child.terminate()
                    child.wait(20)


def wait_for_round(folder: Path, seconds: float) -> None:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        with closing(sqlite3.connect(folder / "state" / "gateway.sqlite3")) as store:
            if store.execute("SELECT count(*) FROM rounds WHERE state != 'open'").fetchone()[0]:
                return
        time.sleep(0.2)


def summary(folder: Path, outs: list[Path], devices: int) -> dict[str, object]:
    results = [json.loads(out.read_text()) for out in outs]
    latencies = sorted(x for r in results for x in r["latency_s"])
    sent, got = {}, set()
    for out in outs:
        for line in out.with_suffix(".log").read_text().splitlines():
            entry = json.loads(line)
            if "sent" in entry:
                sent[entry["sent"]] = entry["digest"]
            elif entry["accepted"]:
                got.add(entry["got"])
    with closing(sqlite3.connect(folder / "state" / "gateway.sqlite3")) as store:
        stored = [row[0] for row in store.execute("SELECT update_id FROM updates")]
        rounds = store.execute("SELECT state, reason, closed_s - opened_s FROM rounds").fetchall()
        refused = dict(store.execute("SELECT reason, count FROM counters").fetchall())
    return {
        "devices": devices,
        "sent": len(sent),
        "stored": len(stored),
        "stored_once": len(stored) == len(set(stored)),
        "lost": len(set(sent) - set(stored)),
        "acknowledged_not_stored": len(got - set(stored)),
        "waiting": sum(r["waiting"] for r in results),
        "refused": refused,
        "round": rounds[0][:2] if rounds else None,
        "round_s": round(rounds[0][2], 2) if rounds and rounds[0][2] else None,
        "update_to_receipt_s": {
            q: round(latencies[min(len(latencies) - 1, int(len(latencies) * f))], 3)
            for q, f in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))
        }
        if latencies
        else None,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the broker does not answer")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_kb(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1_024
    except OSError:
        return 0


def headline(name: str) -> dict[str, object]:
    """Return what every result begins with."""
    shown = subprocess.run([str(MOSQUITTO), "-h"], capture_output=True, text=True, check=False, timeout=10).stdout
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ":")
    return {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "numpy": metadata.version("numpy"),
            "paho-mqtt": metadata.version("paho-mqtt"),
            "mosquitto": shown.splitlines()[0].removeprefix("mosquitto version ") if shown else "",
        },
        "cpu": cpu.split(":", 1)[1].strip(),
    }


def judge(runs: list[dict[str, Any]]) -> dict[str, object]:
    """Return ratios and bars of the load runs."""
    first, last = runs[0], runs[-1]
    lost = sum(r["lost"] + r["acknowledged_not_stored"] + r["waiting"] + (r["sent"] != r["devices"]) for r in runs)
    twice = sum(not r["stored_once"] for r in runs)
    more = last["devices"] / first["devices"]
    memory = (last["gateway_peak_rss_mb"] - first["gateway_peak_rss_mb"]) / max(1, last["devices"] - first["devices"])
    return {
        "ratios": {
            f"gateway CPU per update, {last['devices']} over {first['devices']} devices": round(
                last["gateway_cpu_ms_per_update"] / max(0.01, first["gateway_cpu_ms_per_update"]), 2
            ),
            f"round time, {more:g} times the devices": round(last["round_s"] / max(0.01, first["round_s"]), 1),
            "gateway MB per further device": round(memory, 3),
        },
        "bars": {
            "updates lost or unanswered": {"value": lost, "bar": 0, "ok": lost == 0},
            "runs with an update stored twice": {"value": twice, "bar": 0, "ok": twice == 0},
            "devices": {"value": last["devices"], "bar": 1_000, "ok": last["devices"] >= 1_000},
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=("load", "bytes"), default="load")
    parser.add_argument("--quick", action="store_true", help="10 and 50 devices, or one seed: whether it runs")
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 100, 1_000])
    parser.add_argument("--seconds", type=float, default=240.0, help="deadline of the round")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "bytes":
        result = headline("bytes") | sizes.measure(quick=arguments.quick)
    else:
        runs = [load(devices, arguments.seconds) for devices in ([10, 50] if arguments.quick else arguments.devices)]
        result = headline("transport") | judge(runs) | {"runs": runs}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    bars: dict[str, Any] = result["bars"]
    return 0 if arguments.quick or all(bar["ok"] for bar in bars.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
