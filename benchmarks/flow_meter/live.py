"""Loss and CPU of live capture on a veth pair between two network namespaces of our own; needs root.

    python -m benchmarks.flow_meter.live [--rates 5000,20000,50000,100000] [--rest SECONDS] [--out FILE]

One sender (``sender.py``) offers frames of 64 to 1,500 bytes at a rate for some seconds, then a few more slowly.
Receivers (``receivers.py``), one at a time: the packet ring with our meters, NFStream, and ``scapy.sniff``; where there
are two processors, sender and receiver have one each. Loss is what the sender handed to the kernel less what the
receiver metered; "no loss at 100,000 a second" holds only if at least 99 % of that rate was really sent. Then the same
interface without traffic: see ``quiet.py``. The last line is JSON; it is also written to
docs/results/flow_meter_live.json.
"""

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flow_meter import quiet, receivers
from testbed.interlock import MARKER

ROOT = Path(__file__).resolve().parents[2]
RATES = (5_000, 20_000, 50_000, 100_000)
SECONDS = 4.0
LIFE_S = SECONDS + 10.0
"""How long every receiver listens: the sender starts late under load, and its last packets come slowly."""
REALLY_SENT = 0.99
"""Share of the offered rate that must be reached for a figure at that rate."""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@dataclass(frozen=True, slots=True)
class Pair:
    """Names of the two namespaces, and the mark of the interface from which may be sent."""

    sender: str
    listener: str
    mark: str


@contextmanager
def namespaces() -> Iterator[Pair]:
    """Make two namespaces joined by a veth pair ``eth0`` - ``eth0`` without addresses."""
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
        _ip("-n", sender, "link", "set", "eth0", "alias", f"{MARKER} {tag}")
        yield Pair(sender, listener, tag)
    finally:
        for name in (sender, listener):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=10)


def cores() -> tuple[int | None, int | None]:
    """Return the processor of the sender and that of the receiver; None where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 and shutil.which("taskset") else (None, None)


def measure(pair: Pair, rates: list[int]) -> list[dict]:
    """Return one row per receiver and rate."""
    return [_one(pair, receiver, rate) for rate in rates for receiver in receivers.all_of(LIFE_S)]


def _one(pair: Pair, receiver: receivers.Receiver, rate: int) -> dict:
    sender_core, receiver_core = cores()
    command = ["-m", "benchmarks.flow_meter.sender", "eth0", pair.mark, str(rate), str(SECONDS)]
    if sender_core is not None:
        command += ["--core", str(sender_core)]

    def send() -> dict:
        done = subprocess.run(
            ["ip", "netns", "exec", pair.sender, sys.executable, *command],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return json.loads(done.stdout.splitlines()[-1])

    inside = ["ip", "netns", "exec", pair.listener]
    inside += [] if receiver_core is None else ["taskset", "-c", str(receiver_core)]
    return row(receiver.name, rate, *receivers.listen(receiver, inside, send))


def row(name: str, rate: int, sent: dict, seen: dict) -> dict:
    """Return a row of the results: what was really sent at which rate, and what arrived of it."""
    total = sent["sent"] + sent["trailing"]
    lost = total - seen["seen"]
    return {
        "receiver": name,
        "offered_pps": rate,
        "reached_pps": int(sent["sent"] / sent["seconds"]),
        "offered": sent["offered"],
        "sent": total,
        "sent_by_the_interface": sent["by_interface"],
        "refused_by_the_kernel": sent["refused"],
        "sender_most_behind_packets": sent["most_behind"],
        "sender_cpu_s": sent["cpu_s"],
        "seen": seen["seen"],
        "lost_packets": lost,
        "lost_percent": round(100 * lost / total, 3),
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
    ours = [row for row in rows if row["receiver"].startswith("ring")]
    fastest = [row for row in ours if row["offered_pps"] == max(RATES)]
    lost = sum(row["lost_packets"] for row in fastest) if fastest else None
    reached = min((row["reached_pps"] for row in fastest), default=0)
    least = round(REALLY_SENT * max(RATES))
    rss = max((row["rss_mb"] for row in ours), default=None)
    flows, waited_s = exported["flows"], exported["seconds_from_last_packet_to_last_record"]
    most_s = exported["idle_timeout_s"] + 2.5
    counted = all(row["sent"] == row["sent_by_the_interface"] for row in fastest)
    return {
        "packets a second really sent, of 100,000": {
            "value": reached,
            "bar": least,
            "ok": reached >= least and counted,
        },
        "packets lost at 100,000 a second": {"value": lost, "bar": 0, "ok": lost == 0 and reached >= least and counted},
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
    with namespaces() as pair:
        rows = measure(pair, [int(rate) for rate in options.rates.split(",")])
        exported = quiet.exported(pair.sender, pair.listener, pair.mark)
        resting = quiet.resting(pair.listener, options.rest)
    show(rows)
    load_after = round(os.getloadavg()[0], 2)
    print(f"load before {load_before}, after {load_after}")
    result = {
        "name": "flow_meter_live",
        "command": "python -m benchmarks.flow_meter.live",
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_before_and_after": [load_before, load_after],
        "processors_of_sender_and_receiver": cores(),
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
