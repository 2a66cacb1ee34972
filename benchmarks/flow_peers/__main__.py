"""Compare our flow records with those of other programs on the same captures; every difference gets its rule.

    python -m benchmarks.flow_peers [--data DIR] [--out DIR]

Needs the shared data sets. NFStream runs in an environment of its own, made at the first run. Figures go to
docs/results/flows-peers.json, a page of them to flows-peers.md; the last line of output is the same JSON.
"""

import argparse
import datetime as dt
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np

from benchmarks.flow_meter.peers import CACHE, python_peers
from benchmarks.flow_peers import beside_cicflowmeter, beside_nfstream, beside_zeek, page

ROOT = Path(__file__).resolve().parents[2]


def bars(nfstream: dict, cicflowmeter: dict, zeek: dict) -> dict[str, dict]:
    """Return what was asked for, and whether it was met."""

    def none(value: int) -> dict:
        return {"value": value, "bar": 0, "ok": value == 0}

    return {
        "nfstream_keys_unexplained": none(nfstream["keys"]["unexplained"]),
        "nfstream_packets_unaccounted_for": none(nfstream["packets_unaccounted_for"]),
        "cicflowmeter_rows_unexplained": none(len(cicflowmeter["unexplained"])),
        "zeek_share_joined": {
            "value": zeek["share_joined"],
            "bar": 0.999,
            "ok": zeek["share_joined"] >= 0.999,
        },
        "zeek_flows_unexplained": none(zeek["unexplained"]),
        "zeek_five_tuples_with_other_packets_or_bytes": none(zeek["five_tuples_with_other_packets_or_bytes"]),
    }


def main() -> int:
    default = os.environ.get("KINWATCH_DATA") or ROOT.parent / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args()
    pcap, tables = options.data / "pcap", options.data / "csv"
    paths = sorted(p for p in pcap.rglob("*") if p.suffix in {".pcap", ".pcapng", ".cap"})
    if not paths:
        print(f"no captures below {options.data}; set KINWATCH_DATA", file=sys.stderr)
        return 1
    peers, missing = python_peers()
    if "NFStream" not in {peer.name for peer in peers}:
        print(f"NFStream is missing: {', '.join(missing)}; see {CACHE}", file=sys.stderr)
        return 1
    nfstream = beside_nfstream.compare(paths)
    cicflowmeter = beside_cicflowmeter.compare(next((tables / "allkahra_cicflow").glob("*.csv")), pcap / "allkahra")
    zeek = beside_zeek.compare(
        tables / "iot23" / "CTU-Malware-Capture-8-1-labeled.csv", next((pcap / "iot23_8-1").glob("*.pcap"))
    )
    found = bars(nfstream, cicflowmeter, zeek)
    result = {
        "name": "flows-peers",
        "command": "python -m benchmarks.flow_peers",
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "nfstream": nfstream,
        "cicflowmeter": cicflowmeter,
        "zeek": zeek,
        "bars": found,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "flows-peers.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (options.out / "flows-peers.md").write_text(page.text(result), encoding="utf-8")
    print(json.dumps(result))
    return 0 if all(bar["ok"] for bar in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
