"""What happens on an interface without traffic: flows leave by the wall clock, and the agent rests."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IDLE_S = 2.0
FLOWS = 20
SETTLE_S = 15.0
GIVE_UP_S = 30.0
SEND = """
import socket, sys
from benchmarks.flow_meter import sender, traffic
sender.guard("eth0", sys.argv[3])
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("eth0", 0))
for port in range(int(sys.argv[1])):
    sock.send(traffic.udp(0x0A000010, 0x0A000001, 2_000 + int(sys.argv[2]) + port, 53, b"x" * 20))
"""
CONFIG = '[device]\nid = "cam-1"\n[capture]\nsource = "iface:eth0"\n[store]\ndir = "state"\n'


def _inside(namespace: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, sys.executable, *command]


def exported(sender: str, listener: str, mark: str) -> dict:
    """Return when flows came out after their last packet, and whether a stop let out those still open."""
    command = _inside(listener, "-m", "device_agent", "flows", "eth0", "--format", "jsonl", "--idle", str(IDLE_S))
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def send(first: int) -> float:
        subprocess.run(_inside(sender, "-c", SEND, str(FLOWS), str(first), mark), cwd=ROOT, check=True, timeout=30)
        return time.monotonic()

    try:
        time.sleep(3.0)  # until it listens; what it misses shows in the counts
        sent_s = send(0)
        # Fewer lines than flows end with the child.
        watchdog = threading.Timer(GIVE_UP_S, child.kill)
        watchdog.start()
        lines = [line for _ in range(FLOWS) if (line := child.stdout.readline())]
        watchdog.cancel()
        waited_s = time.monotonic() - sent_s
        reasons = [json.loads(line)["end_reason"] for line in lines]
        send(100)
        time.sleep(1.0)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    flushed = [json.loads(line)["end_reason"] for line in out.splitlines()]
    return {
        "flows": FLOWS,
        "idle_timeout_s": IDLE_S,
        "exported_by_the_wall_clock": reasons.count("idle"),
        "seconds_from_last_packet_to_last_record": round(waited_s, 2),
        "flushed_at_the_stop": flushed.count("flush"),
        "summary": err.strip().rpartition("\n")[2],
    }


def resting(listener: str, seconds: float) -> dict:
    """Return the CPU of ``kinwatch-agent run`` and its children on an interface without traffic."""
    with tempfile.TemporaryDirectory(prefix="kinwatch-idle-") as folder:
        config = Path(folder) / "agent.toml"
        config.write_text(CONFIG, encoding="utf-8")
        command = _inside(listener, "-m", "device_agent", "run", "--config", str(config))
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(SETTLE_S)
            began_s, before = time.monotonic(), _ticks(child.pid)
            time.sleep(seconds)
            used = (_ticks(child.pid) - before) / os.sysconf("SC_CLK_TCK")
            passed_s = time.monotonic() - began_s
            rss_mb = _resident_mb(child.pid)
        finally:
            child.terminate()
            child.wait(30)
    return {
        "seconds": round(passed_s, 1),
        "cpu_s": round(used, 2),
        "cpu_percent": round(100 * used / passed_s, 2),
        "rss_mb": round(rss_mb, 1),
    }


def _ticks(pid: int) -> int:
    """Return clock ticks used by a process, its threads and its children that ended or still run."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    own = sum(int(field) for field in fields[11:15])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return own + sum(_ticks(int(child)) for child in children)


def _resident_mb(pid: int) -> float:
    with Path(f"/proc/{pid}/status").open(encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
