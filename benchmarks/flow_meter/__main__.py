"""Measure the flow meter beside other programs.

    python -m benchmarks.flow_meter [--quick] [--data DIR] [--rounds N] [--out FILE]
    python -m benchmarks.flow_meter.live [--rates 5000,...]     on a veth pair; needs root

CPU time (user and system, children included) of whole processes, in turns, medians; start-up is the same command on
ten packets, shown and subtracted. The last line is JSON; it is also written to docs/results/flow_meter.json.
"""

import argparse
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.flow_meter import bars, stages, traffic
from benchmarks.flow_meter.ours import batches, groups, make
from benchmarks.flow_meter.peers import Peer, python_peers, system_peers
from device_agent.flows import select
from device_agent.flows.gather import Gathered

ROOT = Path(__file__).resolve().parents[2]
SLOW_PACKETS = 5_000
TIMES = 4
"""Recorded traffic is given so many times over: a compiled meter is done with it once before its start-up is over."""
BATCH_SIZES = (64, 256, 1_024, 4_096, 16_384, 65_536)


def run(command: list[str]) -> float:
    """Run a command to its end; return its CPU seconds, children included.

    Raises
    ------
    RuntimeError
        If it fails.
    """
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def ours(engine: str, batch: int, without: str = "") -> Peer:
    command = [sys.executable, "-m", "benchmarks.flow_meter.ours", engine]
    return Peer(
        bars.ours(engine, batch) + (f", without {without}" if without else ""),
        lambda capture, _: [*command, str(capture), str(batch), *([without] if without else [])],
        slow=False,
        does="flows, all features" + (f" but {without}" if without else ""),
    )


def compare(name: str, frames: traffic.Frames, peers: list[Peer], rounds: int, scratch: Path) -> dict[str, dict]:
    """Return nanoseconds a packet, start-up and failures of each program on one capture."""
    captures = {"all": scratch / f"{name}.pcap", "slow": scratch / f"{name}-slow.pcap", "tiny": scratch / "tiny.pcap"}
    traffic.write(captures["all"], frames)
    traffic.write(captures["slow"], frames[:SLOW_PACKETS])
    traffic.write(captures["tiny"], frames[:10])
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    start: dict[str, list[float]] = {peer.name: [] for peer in peers}
    failed: dict[str, str] = {}
    for turn in range(rounds):
        for peer in peers:
            if peer.name in failed or (peer.slow and turn):
                continue
            try:
                start[peer.name].append(run(peer.command(captures["tiny"], scratch)))
                times[peer.name].append(run(peer.command(captures["slow" if peer.slow else "all"], scratch)))
            except (RuntimeError, OSError) as error:
                failed[peer.name] = str(error)
    rows = {}
    for peer in peers:
        if peer.name in failed:
            rows[peer.name] = {"failed": failed[peer.name]}
            continue
        n = min(len(frames), SLOW_PACKETS) if peer.slow else len(frames)
        start_s, whole_s = statistics.median(start[peer.name]), statistics.median(times[peer.name])
        rows[peer.name] = {
            "ns_per_packet": round(max(whole_s - start_s, 0.0) / n * 1e9),
            "least_ns_per_packet": round(max(min(times[peer.name]) - min(start[peer.name]), 0.0) / n * 1e9),
            "start_up_s": round(start_s, 3),
            "packets": n,
            "does": peer.does,
        }
    return rows


def loop(path: Path, engine: str, sizes: tuple[int, ...], rounds: int, *, gathered: bool = False) -> dict[str, int]:
    """Return nanoseconds a packet of the meter alone, by batch size; ``gathered``: where batches wait for others."""
    found: dict[str, int] = {}
    for size in sizes:
        packets, best = batches(path, size), []
        for _ in range(rounds):
            meter = Gathered(make(engine)) if gathered else make(engine)
            started = time.process_time()
            for batch in packets:
                meter.feed(batch)
            meter.flush()
            best.append(time.process_time() - started)
        found[str(size)] = round(statistics.median(best) / sum(map(len, packets)) * 1e9)
    return found


def show(name: str, rows: dict[str, dict], base: str = "NFStream") -> None:
    reference = rows.get(base, {}).get("ns_per_packet")
    print(f"\n{name}: CPU nanoseconds a packet, start-up subtracted")
    for peer, row in sorted(rows.items(), key=lambda item: item[1].get("ns_per_packet", 1e12)):
        if "failed" in row:
            print(f"  {peer:32} failed: {row['failed']}")
            continue
        ratio = f"{reference / row['ns_per_packet']:8.1f}x {base}" if reference and row["ns_per_packet"] else ""
        print(f"  {peer:32}{row['ns_per_packet']:12,}  start {row['start_up_s']:6.2f} s {ratio:20}  {row['does']}")


def cost(rows: dict[str, dict], names: list[str]) -> dict[str, dict[str, int]]:
    """Return what leaving each group of features out saves, by engine."""
    found: dict[str, dict[str, int]] = {}
    for engine in names:
        whole = rows.get(bars.ours(engine, bars.BATCH), {}).get("ns_per_packet")
        if whole is None:
            continue
        found[engine] = {"all": whole}
        for group in groups(engine):
            less = rows[f"{bars.ours(engine, bars.BATCH)}, without {group}"].get("ns_per_packet")
            found[engine][group] = whole - less if less is not None else None
    return found


def engines() -> list[str]:
    """Return the engines that can be used here."""
    found = []
    for name in ("packet", "columnar", "fast"):
        try:
            select.make_meter(prefer=name)  # type: ignore[arg-type]
            found.append(name)
        except ValueError:
            continue
    return found


def main() -> int:
    default = os.environ.get("KINWATCH_DATA") or ROOT.parent / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small synthetic captures, one round, no peers")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    load = round(os.getloadavg()[0], 2)
    rounds = 1 if options.quick else options.rounds
    peers, missing = ([], []) if options.quick else python_peers()
    if not options.quick:
        more, absent = system_peers()
        peers, missing = peers + more, missing + absent
    names = engines()
    mine = [ours(engine, bars.BATCH) for engine in names] + [ours(engine, bars.SMALL_BATCH) for engine in names]
    frames = [] if options.quick else traffic.recorded(options.data)
    kind = "recorded" if frames else "synthetic"
    frames = traffic.repeated(frames, TIMES) or traffic.devices(20_000 if options.quick else 600_000)
    n_scan = 15_000 if options.quick else 150_000
    with tempfile.TemporaryDirectory(prefix="kinwatch-bench-") as folder:
        scratch = Path(folder)
        mixed = compare("mixed", frames, mine + peers, rounds, scratch)
        loops = {e: loop(scratch / "mixed.pcap", e, BATCH_SIZES if e != "packet" else (256,), rounds) for e in names}
        without = [
            ours(engine, bars.BATCH, group) for engine in names if engine != "packet" for group in ("", *groups(engine))
        ]
        loops[bars.GATHERED] = loop(scratch / "mixed.pcap", "columnar", BATCH_SIZES[:3], rounds, gathered=True)
        by_group = compare("groups", frames, without, rounds, scratch)
        scanned = compare("scan", traffic.scan(frames[:100_000], n_scan), mine + peers, rounds, scratch)
        where = {
            "mixed": stages.measure(scratch / "mixed.pcap", bars.BATCH),
            "mixed, batch 256": stages.measure(scratch / "mixed.pcap", bars.SMALL_BATCH),
            "scan": stages.measure(scratch / "scan.pcap", bars.BATCH),
        }
        scan_loops = {e: loop(scratch / "scan.pcap", e, (bars.BATCH,), rounds) for e in names if e != "packet"}
    result = {
        "name": "flow_meter",
        "command": "python -m benchmarks.flow_meter" + (" --quick" if options.quick else ""),
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load_before_and_after": [load, round(os.getloadavg()[0], 2)],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "rounds": rounds,
        "mixed_traffic": f"{kind}, {len(frames):,} packets",
        "ratios": bars.ratios(mixed, scanned),
        "mixed": mixed,
        "scan": scanned,
        "meter_alone_ns_per_packet": {"mixed": loops, "scan": scan_loops},
        "cost_of_feature_groups_ns_per_packet": cost(by_group, names),
        "columnar_by_stage_ns_per_packet": where,
        "missing_peers": missing,
    }
    # A quick run has no peers, so most bars cannot be told.
    result["bars"] = {n: bar for n, bar in bars.bars(result).items() if not options.quick or bar["value"] is not None}
    show(f"mixed ({kind}, {len(frames):,} packets)", mixed)
    show(f"scan ({n_scan:,} flows over {min(len(frames), 100_000):,} packets)", scanned)
    for engine, by_size in loops.items():
        print(f"\nmeter alone, {engine}: " + ", ".join(f"{n} at {int(size):,}" for size, n in by_size.items()) + " ns")
    print("\nmissing: " + (", ".join(missing) or "none"))
    for name, row in result["bars"].items():
        print(f"{'met   ' if row['ok'] else 'MISSED'} {name}: {row['value']} (bar {row['bar']})")
    out = options.out or (None if options.quick else ROOT / "docs" / "results" / "flow_meter.json")
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


def cpu_name() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
