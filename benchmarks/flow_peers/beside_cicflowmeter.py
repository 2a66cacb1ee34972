"""The 5,789 CICFlowMeter rows of the MQTT testbed beside our meter on the same captures.

Rows and our records are joined by capture and 5-tuple, and in their order where a 5-tuple came back. The table's
exporter counts the first packet of every flow twice and counts Ethernet headers; with that undone, a row is equal if
duration (to 1 us), packets and bytes of both directions are. Where it is not, the row must be equal to all connections
of its 5-tuple together, or with the packets added that our meter ignored because they trail a TCP end.
"""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from benchmarks.flow_peers.beside_nfstream import read
from contract.features import INDEX
from device_agent.flows.meter import FlowMeter, MeterSettings
from device_agent.flows.packets import Packet, parse
from device_agent.flows.records import FlowBatch, PacketBatch, address_text

FOREVER = MeterSettings(idle_s=3_600.0, active_s=3_600.0)
ETHERNET_BYTES = 14
Ends = tuple[str, int, str, int, int]


class _Sums:
    """Packets and bytes, forward and backward, and first and last time of one flow."""

    def __init__(self) -> None:
        self.packets, self.bytes = [0, 0], [0, 0]
        self.first_us = self.last_us = 0
        self.first_frame = 0

    def add(self, side: int, size: int, time_us: int) -> None:
        self.packets[side] += 1
        self.bytes[side] += size
        self.last_us = max(self.last_us, time_us)

    def equals(self, row: dict[str, str]) -> bool:
        """Whether a row of the table says the same, its doubled first packet aside."""
        wire = [size + ETHERNET_BYTES * n for size, n in zip(self.bytes, self.packets, strict=True)]
        return (
            abs(self.last_us - self.first_us - float(row["flow_duration"]) * 1e6) <= 1.0
            and [self.packets[0] + 1, self.packets[1]] == [int(row["tot_fwd_pkts"]), int(row["tot_bwd_pkts"])]
            and wire[0] + self.first_frame == int(float(row["totlen_fwd_pkts"]))
            and wire[1] == int(float(row["totlen_bwd_pkts"]))
        )


def _meter(path: Path) -> tuple[dict[Ends, list[_Sums]], dict[Ends, list[tuple[int, int, int]]]]:
    """Return our flows by ends in order, and the packets ignored behind TCP ends, in both directions of their ends."""
    meter, parts = FlowMeter(FOREVER), []
    firsts: dict[tuple[Ends, int], int] = {}
    trailing: dict[Ends, list[tuple[int, int, int]]] = defaultdict(list)
    for batch in read(path):
        raw, ends = batch.data.tobytes(), batch.offsets.tolist()
        for i, (time_us, wire) in enumerate(zip(batch.ts_us.tolist(), batch.wire_len.tolist(), strict=True)):
            before = meter.counters.ignored["after-tcp-end"]
            one: PacketBatch = batch.slice(i, i + 1)
            parts.append(meter.feed(one))
            packet = parse(raw[ends[i] : ends[i + 1]], wire, batch.link_type)
            if not isinstance(packet, Packet):
                continue
            there, back = _ends(packet)
            firsts.setdefault((there, time_us), wire)
            firsts.setdefault((back, time_us), wire)
            if meter.counters.ignored["after-tcp-end"] > before:
                trailing[there].append((0, packet.ip_len, time_us))
                trailing[back].append((1, packet.ip_len, time_us))
    parts.append(meter.flush())
    flows = FlowBatch.concat(parts)
    found: dict[Ends, list[_Sums]] = defaultdict(list)
    for row in np.argsort(flows.identity["ts_start_us"], kind="stable"):
        record, sums = flows.identity[row], _Sums()
        src, dst = flows.ip_text(row)
        ends = (src, int(record["src_port"]), dst, int(record["dst_port"]), int(record["proto"]))
        values = flows.features[row]
        sums.packets = [int(values[INDEX[f"{side}_pkts"]]) for side in ("fwd", "bwd")]
        sums.bytes = [int(values[INDEX[f"{side}_bytes"]]) for side in ("fwd", "bwd")]
        sums.first_us, sums.last_us = int(record["ts_start_us"]), int(record["ts_end_us"])
        sums.first_frame = firsts[ends, sums.first_us]
        found[ends].append(sums)
    return found, trailing


def _ends(packet: Packet) -> tuple[Ends, Ends]:
    wide = [b"\x00" * 12 + end if len(end) == 4 else end for end in (packet.src, packet.dst)]
    src, dst = (address_text(end, 4 if len(packet.src) == 4 else 6) for end in wide)
    there = (src, packet.src_port, dst, packet.dst_port, packet.proto)
    return there, (dst, packet.dst_port, src, packet.src_port, packet.proto)


def _verdict(row: dict[str, str], mine: list[_Sums], at: int, trailing: list[tuple[int, int, int]]) -> str:
    """Return how a row and our flows of its 5-tuple fit; empty if they do not."""
    if mine[at].equals(row):
        return "equal, one of several connections of its 5-tuple" if len(mine) > 1 else "equal"
    if at == 0 and len(mine) > 1 and _joined(mine).equals(row):
        return "equal to all connections of its 5-tuple together"
    for packet in trailing:
        mine[at].add(*packet)
    return "equal with the packets that trail the TCP end" if mine[at].equals(row) else ""


def _joined(flows: list[_Sums]) -> _Sums:
    """Return flows as one."""
    out = _Sums()
    out.first_us, out.first_frame = flows[0].first_us, flows[0].first_frame
    for flow in flows:
        out.packets = [a + b for a, b in zip(out.packets, flow.packets, strict=True)]
        out.bytes = [a + b for a, b in zip(out.bytes, flow.bytes, strict=True)]
        out.last_us = max(out.last_us, flow.last_us)
    return out


def compare(table: Path, captures: Path) -> dict:
    """Return the comparison of the whole table."""
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            rows[row["capture_id"]].append(row)
    paths = {path.stem: path for path in captures.rglob("*.pcap")}
    found, unexplained = Counter(), []
    for capture, some in sorted(rows.items()):
        flows, trailing = _meter(paths[capture])
        turn: Counter = Counter()
        for row in some:
            ends = (row["src_ip"], int(row["src_port"]), row["dst_ip"], int(row["dst_port"]), int(row["protocol"]))
            found["rows"] += 1
            mine = flows.get(ends, [])
            at, turn[ends] = turn[ends], turn[ends] + 1
            if at >= len(mine):
                unexplained.append(f"{capture}: a row without a flow")
                continue
            verdict = _verdict(row, mine, at, trailing.get(ends, []))
            if verdict:
                found[verdict] += 1
            else:
                unexplained.append(f"{capture}: a row that differs")
    return {
        "captures": len(rows),
        **found,
        "unexplained": unexplained,
        "rules": [
            "the table counts the first packet of each flow twice, and Ethernet headers of 14 bytes",
            "it has no end by RST or mutual FIN: packets behind one are counted there and ignored (and counted) here",
            "a 5-tuple that came back: rows and records are joined in their order",
            "one row for several connections of a 5-tuple: it equals all of ours together",
        ],
    }
