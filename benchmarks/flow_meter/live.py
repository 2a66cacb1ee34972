"""Loss and CPU of live capture on a veth pair between two network namespaces of our own; needs root.

    python -m benchmarks.flow_meter.live [--rates 5000,20000,50000,100000] [--rest SECONDS] [--out FILE]

One sender offers frames of 64 to 1,500 bytes at a rate for some seconds, then a few more slowly. Receivers, one at a
time: the packet ring with our meters, NFStream, and ``scapy.sniff``. Loss is what the sender handed to the kernel less
what the receiver metered. Then the same interface without traffic: see ``quiet.py``. The last line is JSON; it is also
written to docs/results/flow_meter_live.json.
"""

import argparse
import datetime as dt
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.flow_meter import quiet
from benchmarks.flow_meter.peers import CACHE
from device_agent.flows.fast.library import load

ROOT = Path(__file__).resolve().parents[2]
RATES = (5_000, 20_000, 50_000, 100_000)
SECONDS = 4.0
LIFE_S = SECONDS + 10.0
"""How long every receiver listens: the sender starts late under load, and its last packets come slowly."""

RECEIVE = """
import json, resource, signal, sys, time
from device_agent.capture.applications import ScapyDissector
from device_agent.capture.ring import RingSource
from device_agent.capture.source import CaptureSettings
from device_agent.flows.select import make_meter

def peak_mb():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
engine, seconds = sys.argv[1], float(sys.argv[2])
source = RingSource("eth0", CaptureSettings(buffer_bytes=16 << 20))
meter = make_meter(prefer=engine, dissector=ScapyDissector())
start = resource.getrusage(resource.RUSAGE_SELF)
print("ready", flush=True)
end, records = time.monotonic() + seconds, 0
while time.monotonic() < end:
    batch = source.read(16_384, 0.2)
    records += len(meter.feed(batch) if len(batch) else meter.expire(time.time_ns() // 1_000))
now, counters = resource.getrusage(resource.RUSAGE_SELF), source.counters()
records += len(meter.flush())
print(json.dumps({
    "seen": meter.counters.packets, "records": records, "kernel_dropped": counters["kernel_dropped_packets"],
    "cpu_s": now.ru_utime + now.ru_stime - start.ru_utime - start.ru_stime, "rss_mb": peak_mb(),
}))
"""

SEND = """
import json, socket, sys, time
import numpy as np
from benchmarks.flow_meter import traffic
rate, seconds = float(sys.argv[1]), float(sys.argv[2])
rng = np.random.default_rng(3)
sizes = rng.choice([22, 100, 400, 1458], p=[0.5, 0.2, 0.15, 0.15], size=4096).tolist()
ends = [(0x0A000010 + i % 60, 0x0A000001, 1024 + i % 2000, 53) for i in range(4096)]
frames = [traffic.udp(*end, b"x" * size) for end, size in zip(ends, sizes)]
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("eth0", 0))
send, start, sent, failed = sock.send, time.perf_counter(), 0, 0
while (passed := time.perf_counter() - start) < seconds:
    due = int(passed * rate)
    for i in range(sent, min(due, sent + 256)):
        try:
            send(frames[i & 4095])
        except OSError:
            failed += 1
    sent = min(due, sent + 256)
    if sent == due:
        time.sleep(0.0005)
passed = time.perf_counter() - start
for _ in range(10):  # some more, slowly: NFStream counts once a second, and only when a packet comes
    time.sleep(0.25)
    send(frames[0])
print(json.dumps({"sent": sent - failed + 10, "seconds": passed}))
"""

NFSTREAM = """
import os, sys, threading, time, json, resource
from nfstream import NFStreamer
if __name__ == "__main__":
    print("ready", flush=True)
    threading.Timer(float(sys.argv[1]), lambda: os._exit(0)).start()
    for _ in NFStreamer(source="eth0", statistical_analysis=True, n_dissections=0, n_meters=1, idle_timeout=15,
                        active_timeout=60, snapshot_length=256, performance_report=1):
        pass
"""
"""Its flows come too late to count, so what it says of itself each second is taken: packets processed so far."""

SCAPY = """
import json, resource, sys, time
from scapy.config import conf
from scapy.sendrecv import sniff
import scapy.layers.all

def peak_mb():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
seen = 0
def count(packet):
    global seen
    seen += 1
print("ready", flush=True)
sniff(iface="eth0", prn=count, store=False, timeout=float(sys.argv[1]))
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"seen": seen, "cpu_s": usage.ru_utime + usage.ru_stime, "rss_mb": peak_mb()}))
"""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Make two namespaces joined by a veth pair ``eth0`` - ``eth0`` without addresses; yield sender and listener."""
    tag = uuid.uuid4().hex[:6]
    sender, listener = f"kwb-{tag}-a", f"kwb-{tag}-b"
    try:
        for name in (sender, listener):
            _ip("netns", "add", name)
            quieter = ["sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1"]
            subprocess.run(["ip", "netns", "exec", name, *quieter], check=False, capture_output=True, timeout=10)
        _ip("-n", sender, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", listener)
        for name in (sender, listener):
            _ip("-n", name, "link", "set", "eth0", "up")
        yield sender, listener
    finally:
        for name in (sender, listener):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=10)


def measure(sender: str, listener: str, rates: list[int]) -> list[dict]:
    """Return one row per receiver and rate."""
    engines = ["columnar", "fast"] if load() is not None else ["columnar"]
    peers = CACHE / "peers" / "bin" / "python"
    receivers = [(f"ring, {e}", [sys.executable, "-c", RECEIVE, e, str(LIFE_S)]) for e in engines]
    if peers.exists():
        receivers.append(("NFStream", [str(peers), "-c", NFSTREAM, str(LIFE_S)]))
        receivers.append(("scapy.sniff", [str(peers), "-c", SCAPY, str(LIFE_S)]))
    return [_one(sender, listener, name, command, rate) for rate in rates for name, command in receivers]


def _one(sender: str, listener: str, name: str, command: list[str], rate: int) -> dict:
    # A session of its own: NFStream's meters outlive it otherwise.
    receiver = subprocess.Popen(
        ["ip", "netns", "exec", listener, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        receiver.stdout.readline()
        time.sleep(1.0)
        done = subprocess.run(
            ["ip", "netns", "exec", sender, sys.executable, "-c", SEND, str(rate), str(SECONDS)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        sent = json.loads(done.stdout)
        # Lines until the receiver itself ends; its children may hold the pipe open.
        lines = []
        while receiver.poll() is None:
            ready, _, _ = select.select([receiver.stdout], [], [], 0.2)
            if ready and (line := receiver.stdout.readline()):
                lines.append(line)
        lines += receiver.stdout.readlines() if name != "NFStream" else []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(receiver.pid, signal.SIGKILL)
        receiver.wait()
        receiver.stdout.close()
    seen = json.loads([line for line in lines if line.startswith("{")][-1])
    if "packets_processed" in seen:
        seen["seen"] = seen["packets_processed"] + seen["packets_ignored"]
    return {
        "receiver": name,
        "offered_pps": rate,
        "reached_pps": round((sent["sent"] - 10) / sent["seconds"]),
        "sent": sent["sent"],
        "seen": seen["seen"],
        "lost_packets": sent["sent"] - seen["seen"],
        "lost_percent": round(100 * (sent["sent"] - seen["seen"]) / sent["sent"], 3),
        "us_per_packet": round(seen["cpu_s"] / max(seen["seen"], 1) * 1e6, 2) if "cpu_s" in seen else None,
        "kernel_dropped": seen.get("kernel_dropped"),
        "rss_mb": round(seen["rss_mb"], 1) if "rss_mb" in seen else None,
    }


def show(rows: list[dict]) -> None:
    """Print the rows as a table."""
    print("\nlive, veth pair: loss and CPU")
    for row in rows:
        cost = f"{row['us_per_packet']:8.2f} us/packet {row['rss_mb']:7.1f} MB" if row["rss_mb"] else ""
        print(
            f"  {row['offered_pps']:8,} pps offered ({row['reached_pps']:,} reached)  {row['receiver']:16}"
            f"{row['lost_percent']:8.3f} % lost {cost}"
        )


def bars(rows: list[dict], exported: dict, resting: dict) -> dict[str, dict]:
    """Return what was asked for, and whether it was met."""
    fastest = [row for row in rows if row["offered_pps"] >= max(RATES) and row["receiver"].startswith("ring")]
    lost = sum(row["lost_packets"] for row in fastest) if fastest else None
    reached = min((row["reached_pps"] for row in fastest), default=0)
    rss = max((row["rss_mb"] for row in rows if row["receiver"].startswith("ring")), default=None)
    flows, waited_s = exported["flows"], exported["seconds_from_last_packet_to_last_record"]
    most_s = exported["idle_timeout_s"] + 2.5
    return {
        "packets lost at 100,000 a second": {"value": lost, "bar": 0, "ok": lost == 0 and reached > 0.95 * max(RATES)},
        "resident MB with a ring of 16 MB": {"value": rss, "bar": 100, "ok": rss is not None and rss <= 100},
        "flows exported without a packet": {
            "value": exported["exported_by_the_wall_clock"],
            "bar": flows,
            "ok": exported["exported_by_the_wall_clock"] == flows and waited_s <= most_s,
        },
        "flows flushed at the stop": {
            "value": exported["flushed_at_the_stop"],
            "bar": flows,
            "ok": exported["flushed_at_the_stop"] == flows,
        },
        "CPU percent of an agent at rest": {
            "value": resting["cpu_percent"],
            "bar": 1.0,
            "ok": resting["cpu_percent"] < 1.0,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--rest", type=float, default=65.0, help="seconds of an agent at rest")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "flow_meter_live.json")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("needs root and iproute2", file=sys.stderr)
        return 1
    load_before = round(os.getloadavg()[0], 2)
    with namespaces() as (sender, listener):
        rows = measure(sender, listener, [int(rate) for rate in options.rates.split(",")])
        exported = quiet.exported(sender, listener)
        resting = quiet.resting(listener, options.rest)
    show(rows)
    result = {
        "name": "flow_meter_live",
        "command": "python -m benchmarks.flow_meter.live",
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before_and_after": [load_before, round(os.getloadavg()[0], 2)],
        "ring_bytes": 16 << 20,
        "seconds_at_each_rate": SECONDS,
        "receivers": rows,
        "without_traffic": exported,
        "agent_at_rest": resting,
        "bars": bars(rows, exported, resting),
    }
    for name, row in result["bars"].items():
        print(f"{'met   ' if row['ok'] else 'MISSED'} {name}: {row['value']} (bar {row['bar']})")
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0 if all(bar["ok"] for bar in result["bars"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
