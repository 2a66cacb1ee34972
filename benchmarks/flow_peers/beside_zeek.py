"""The 10,403 labelled Zeek flows of IoT-23 8-1 beside our meter on the same capture: the join that labels need."""

import csv
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

from benchmarks.flow_peers.beside_nfstream import read
from contract.features import INDEX
from device_agent.flows.meter import MeterSettings
from device_agent.flows.records import EndReason, FlowBatch
from device_agent.flows.select import make_meter

PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1}
SLACK_US = 1
"""The table has its times in seconds with six digits."""


def compare(table: Path, capture: Path, settings: MeterSettings | None = None) -> dict:
    """Return the comparison: rows joined on 5-tuple and time, and why there are fewer flows than rows."""
    settings = settings or MeterSettings()
    meter = make_meter(settings)
    flows = FlowBatch.concat([*[meter.feed(batch) for batch in read(capture)], meter.flush()])
    by_ends: dict[tuple, list[int]] = defaultdict(list)
    for row, record in enumerate(flows.identity):
        src, dst = flows.ip_text(row)
        by_ends[src, int(record["src_port"]), dst, int(record["dst_port"]), int(record["proto"])].append(row)
    starts, ends = flows.identity["ts_start_us"].tolist(), flows.identity["ts_end_us"].tolist()
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts, parts_of, totals = (
        Counter(),
        defaultdict(list),
        {"Zeek": defaultdict(Counter), "ours": defaultdict(Counter)},
    )
    labels: dict[int, set[str]] = defaultdict(set)
    for row in rows:
        left, right = (row["id.orig_h"], int(row["id.orig_p"])), (row["id.resp_h"], int(row["id.resp_p"]))
        proto = PROTOCOLS[row["proto"]]
        start_us = round(float(row["ts"]) * 1e6)
        end_us = start_us + round(float(row["duration"] or 0) * 1e6)
        keys = (*left, *right, proto), (*right, *left, proto)
        around = [
            flow
            for key in keys
            for flow in by_ends.get(key, ())
            if starts[flow] <= start_us + SLACK_US and ends[flow] >= end_us - SLACK_US
        ]
        counts["rows joined" if len(around) == 1 else "rows not joined to one flow"] += 1
        counts["malicious rows"] += row["label"].lower() == "malicious"
        for flow in around:
            parts_of[flow].append((start_us, end_us))
            labels[flow].add(row["label"].lower())
        zeek = totals["Zeek"][min(keys)]
        zeek["packets"] += int(row["orig_pkts"]) + int(row["resp_pkts"])
        zeek["bytes"] += int(row["orig_ip_bytes"]) + int(row["resp_ip_bytes"])
    for key, some in by_ends.items():
        mine = totals["ours"][min(key, (*key[2:4], *key[:2], key[4]))]
        values = flows.features[some]
        mine["packets"] += int(values[:, [INDEX["fwd_pkts"], INDEX["bwd_pkts"]]].sum())
        mine["bytes"] += int(values[:, [INDEX["fwd_bytes"], INDEX["bwd_bytes"]]].sum())
    idle_us, unexplained = round(settings.idle_s * 1e6), 0
    for flow, spans in parts_of.items():
        spans.sort()
        silences = [later[0] - earlier[1] for earlier, later in pairwise(spans)]
        began = abs(spans[0][0] - starts[flow]) <= SLACK_US and abs(max(e for _, e in spans) - ends[flow]) <= SLACK_US
        if not began or any(silence >= idle_us for silence in silences):
            unexplained += 1
        elif silences:
            counts["flows of several rows: Zeek gave up earlier than our idle timeout"] += 1
            counts["rows in such flows"] += len(spans)
        else:
            counts["flows that are one row, first and last time equal"] += 1
    different = sum(totals["ours"][key] != totals["Zeek"][key] for key in totals["ours"].keys() | totals["Zeek"].keys())
    return {
        "rows": len(rows),
        "flows": len(flows),
        **counts,
        "share_joined": counts["rows joined"] / len(rows),
        "flows_without_a_row": len(flows) - len(parts_of),
        "flows_with_rows_of_two_labels": sum(len(some) > 1 for some in labels.values()),
        "five_tuples": len(totals["ours"]),
        "five_tuples_with_other_packets_or_bytes": different,
        "flows_cut_by_the_active_timeout": int((flows.identity["end_reason"] == EndReason.ACTIVE).sum()),
        "unexplained": unexplained,
    }
