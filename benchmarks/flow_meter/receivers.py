"""Those who listen while ``sender`` sends: the packet ring with our meters, NFStream and ``scapy.sniff``.

Each is a program of its own that prints ``ready`` when it listens, ends by itself, and says at the end in JSON how many
packets it saw.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flow_meter.peers import CACHE
from device_agent.flows.fast.library import load

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
MORE_S = 20.0
"""How much longer than its time a receiver may take to end before it is killed."""

RING = """
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


@dataclass(frozen=True, slots=True)
class Receiver:
    """One program that listens: its name in the table, its command, and how long it lives by itself."""

    name: str
    command: list[str]
    seconds: float


def all_of(seconds: float) -> list[Receiver]:
    """Return the receivers that can run here, each listening for so many seconds."""
    engines = ["columnar", "fast"] if load() is not None else ["columnar"]
    found = [Receiver(f"ring, {e}", [sys.executable, "-c", RING, e, str(seconds)], seconds) for e in engines]
    python = CACHE / "peers" / "bin" / "python"
    if python.exists():
        for name, code in (("NFStream", NFSTREAM), ("scapy.sniff", SCAPY)):
            found.append(Receiver(name, [str(python), "-c", code, str(seconds)], seconds))
    return found


def listen(receiver: Receiver, inside: list[str], send: Callable[[], dict]) -> tuple[dict, dict]:
    """Start a receiver behind a command prefix, send when it listens; return what was sent and what it says it saw.

    Raises
    ------
    RuntimeError
        If the receiver does not come to listen, or ends without a word of what it saw.
    """
    # A session of its own: NFStream's meters outlive it otherwise.
    child = subprocess.Popen(
        [*inside, *receiver.command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,
    )
    try:
        said = _read(child, START_S, until=b"ready")
        if b"ready" not in said:
            raise RuntimeError(f"{receiver.name} does not listen")
        time.sleep(1.0)
        sent = send()
        said += _read(child, receiver.seconds + MORE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    lines = said.decode(errors="replace").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    if not told:
        raise RuntimeError(f"{receiver.name} did not say what it saw")
    seen = told[-1]
    if "packets_processed" in seen:
        seen["seen"] = seen["packets_processed"] + seen["packets_ignored"]
    return sent, seen


def _read(child: subprocess.Popen[bytes], most_s: float, until: bytes | None = None) -> bytes:
    """Return what a child writes until it says a word or itself ends; its own children may hold the pipe open."""
    end_s, said = time.monotonic() + most_s, b""
    while time.monotonic() < end_s and (until is None or until not in said):
        more = os.read(child.stdout.fileno(), 65_536) if select.select([child.stdout], [], [], 0.2)[0] else b""
        said += more
        if not more and child.poll() is not None:
            break
    return said
