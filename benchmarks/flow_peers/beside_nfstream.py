"""NFStream beside our meter on all captures: equal flows, and a named rule for every other one.

For each key (both endpoints, protocol, VLAN) the flows of both programs are compared: first and last time, packets and
bytes of each direction. Where they differ, NFStream's flows are predicted from its rules; a key is explained if the
prediction is exact and a rule that the two programs do not share applies to its packets. Anything else is unexplained.
"""

import ipaddress
import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.flow_meter.peers import CACHE
from benchmarks.flow_peers.nfstream_rules import LINK_TYPE, Key, Model, View, key_of, view
from contract.features import INDEX
from device_agent.capture.errors import CaptureInputError
from device_agent.capture.source import CaptureSettings, open_source
from device_agent.flows.meter import MeterSettings
from device_agent.flows.packets import ACK, SYN, Packet, parse
from device_agent.flows.records import EndReason, FlowBatch, PacketBatch, address_text
from device_agent.flows.select import make_meter

IDLE_S, ACTIVE_S = 15, 60
TRAILING = "metered there, refused here: after-tcp-end"
TCP_END = "flows end with the TCP connection here; trailing packets are ignored"
CLOCK = "packet times behind the newest one are moved to it there"
EDGE = "a gap or a duration reaches the timeout in milliseconds but not in microseconds, or the reverse"
SYN_ACK = "the first packet is a SYN-ACK: its receiver is the initiator here"
KEPT = "the direction is kept over a timeout cut here"


def theirs(paths: list[Path]) -> dict[str, dict]:
    """Return NFStream's flows by path of the capture."""
    side = Path(__file__).with_name("nfstream_side.py")
    done = subprocess.run(
        [str(CACHE / "peers" / "bin" / "python"), str(side), str(IDLE_S), str(ACTIVE_S)],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        check=True,
        timeout=1_800,
    )
    return {row["path"]: row for row in map(json.loads, done.stdout.splitlines())}


def read(path: Path) -> Iterator[PacketBatch]:
    """Yield the whole frames of a capture."""
    source = open_source(str(path), CaptureSettings(snap_bytes=65_535))
    try:
        while (batch := source.read(4_096, 0.0)) is not None:
            yield batch
    except CaptureInputError:
        return
    finally:
        source.close()


def ours(flows: FlowBatch) -> dict[Key, list[tuple]]:
    """Return our records by key, as ``Flow`` with the end reason and part behind it."""
    found: dict[Key, list[tuple]] = defaultdict(list)
    names = ("fwd_pkts", "bwd_pkts", "fwd_bytes", "bwd_bytes")
    numbers = flows.features[:, [INDEX[name] for name in names]].astype(int).tolist()
    for row, record in enumerate(flows.identity):
        src_ip, dst_ip = flows.ip_text(row)
        src, dst = (src_ip, int(record["src_port"])), (dst_ip, int(record["dst_port"]))
        key = key_of(src, dst, int(record["proto"]), int(record["vlan"]))
        times = int(record["ts_start_us"]) // 1_000, int(record["ts_end_us"]) // 1_000
        found[key].append((src, *times, *numbers[row], int(record["end_reason"]), int(record["part_index"])))
    return found


def _our_key(packet: Packet) -> Key:
    version = 4 if len(packet.src) == 4 else 6
    wide = [end if version == 6 else b"\x00" * 12 + end for end in (packet.src, packet.dst)]
    src, dst = (
        (address_text(wide[0], version), packet.src_port),
        (address_text(wide[1], version), packet.dst_port),
    )
    return key_of(src, dst, packet.proto, packet.vlan & 0x0FFF)


def packet_cause(mine: Packet | str, other: View | str) -> tuple[str, list[Key]] | None:
    """Return why the programs see a packet differently, and the keys it concerns."""
    if isinstance(mine, str):
        if isinstance(other, str):
            return None
        return f"metered there, refused here: {mine}", [key_of(other.src, other.dst, other.proto, other.vlan)]
    mine_key = _our_key(mine)
    if isinstance(other, str):
        return f"ignored there: {other}", [mine_key]
    other_key = key_of(other.src, other.dst, other.proto, other.vlan)
    if other_key != mine_key:
        why = "IP in IP is unpacked there" if other.inner else "other addresses, ports or VLAN"
        return why, [mine_key, other_key]
    if other.size != mine.ip_len:
        return "sizes: the length field there, what was on the wire at most here", [mine_key]
    return None


class _Capture:
    """A capture as our meter sees it, and as NFStream should."""

    def __init__(self, path: Path) -> None:
        self.name = f"{path.parent.name}/{path.name}"
        self.packet_causes: Counter = Counter()
        self._causes: dict[Key, set[str]] = defaultdict(set)
        self._syn_ack: set[Key] = set()
        self._seen: set[Key] = set()
        self._model = Model(IDLE_S, ACTIVE_S)
        meter, parts, link_types = make_meter(MeterSettings(IDLE_S, ACTIVE_S)), [], set()
        for batch in read(path):
            parts.append(meter.feed(batch))
            link_types.add(batch.link_type)
            self._packets(batch)
        parts.append(meter.flush())
        self.metered = meter.counters.metered
        trailing = meter.counters.ignored["after-tcp-end"]
        if trailing and any(view(b"", link_type) == LINK_TYPE for link_type in link_types):
            self.packet_causes[f"ignored there: {LINK_TYPE}"] -= trailing  # ignored by both
        elif trailing:
            self.packet_causes[TRAILING] += trailing
        self.flows = ours(FlowBatch.concat(parts))
        self.predicted = self._model.finish()

    def _packets(self, batch: PacketBatch) -> None:
        raw, ends = batch.data.tobytes(), batch.offsets.tolist()
        for i, (time_us, wire) in enumerate(zip(batch.ts_us.tolist(), batch.wire_len.tolist(), strict=True)):
            frame = raw[ends[i] : ends[i + 1]]
            mine, other = parse(frame, wire, batch.link_type), view(frame, batch.link_type)
            if isinstance(other, View):
                self._model.take(other, time_us)
            if isinstance(mine, Packet):
                key = _our_key(mine)
                if key not in self._seen and mine.tcp_flags & (SYN | ACK) == SYN | ACK:
                    self._syn_ack.add(key)
                self._seen.add(key)
            cause = packet_cause(mine, other)
            if cause is not None:
                self.packet_causes[cause[0]] += 1
                for key in cause[1]:
                    self._causes[key].add(cause[0])

    def causes_of(self, key: Key, mine: list[tuple], other: list[tuple]) -> set[str]:
        """Return the rules that the programs do not share and that apply to a key."""
        if sorted(map(_undirected, mine)) == sorted(map(_undirected, other)):
            kept = {KEPT} if any(flow[8] for flow in mine) else set()
            return {SYN_ACK} if key in self._syn_ack else kept
        found = set(self._causes.get(key, ()))
        if any(flow[7] == EndReason.TCP_END for flow in mine):
            found.add(TCP_END)
        if key in self._model.late:
            found.add(CLOCK)
        if key in self._model.edges:
            found.add(EDGE)
        return found


class Comparison:
    """Totals over captures."""

    def __init__(self) -> None:
        self.captures = 0
        self.refused: list[str] = []
        self.keys = Counter()
        self.flows = Counter()
        self.packets = Counter()
        self.bytes = Counter()
        self.packet_causes: Counter = Counter()
        self.key_causes: Counter = Counter()
        self.flow_causes: dict[str, Counter] = defaultdict(Counter)
        self.unexplained: list[str] = []

    def add(self, path: Path, row: dict) -> None:
        """Compare one capture."""
        self.captures += 1
        seen = _Capture(path)
        self.packet_causes += seen.packet_causes
        self.packets["ours"] += seen.metered
        if row["error"]:
            self.refused.append(f"{path.name}: {row['error']}")
        by_key: dict[Key, list[tuple]] = defaultdict(list)
        for src_ip, src_port, dst_ip, dst_port, proto, vlan, *rest in row["flows"]:
            src, dst = (_plain(src_ip), src_port), (_plain(dst_ip), dst_port)
            by_key[key_of(src, dst, proto, vlan)].append((src, *rest))
        for key in seen.flows.keys() | by_key.keys():
            self._key(seen, key, by_key.get(key, []), refused=bool(row["error"]))

    def _key(self, seen: "_Capture", key: Key, other: list[tuple], *, refused: bool) -> None:
        """Compare the flows of a key."""
        mine = seen.flows.get(key, [])
        for name, flows in (("ours", mine), ("NFStream", other)):
            self.flows[name] += len(flows)
            self.bytes[name] += sum(flow[5] + flow[6] for flow in flows)
        self.packets["NFStream"] += sum(flow[3] + flow[4] for flow in other)
        self.keys["all"] += 1
        if sorted(flow[:7] for flow in mine) == sorted(other):
            self.keys["equal"] += 1
            self.flows["equal"] += len(other)
            return
        found = seen.causes_of(key, mine, other)
        exact = sorted(seen.predicted.get(key, [])) == sorted(other)
        if refused:
            exact, found = not other, {"NFStream does not open the capture"}
        if not found or not exact:
            self.unexplained.append(f"{seen.name}: " + ("no cause" if exact else "not as predicted"))
            self.keys["unexplained"] += 1
            return
        self.keys["explained"] += 1
        label = "; ".join(sorted(found))
        self.key_causes[label] += 1
        self.flow_causes[label]["ours"] += len(mine)
        self.flow_causes[label]["NFStream"] += len(other)

    def unaccounted(self) -> int:
        """Return by how many the packets of both programs differ beyond those seen differently."""
        more = sum(n for cause, n in self.packet_causes.items() if cause.startswith("metered there"))
        fewer = sum(n for cause, n in self.packet_causes.items() if cause.startswith("ignored there"))
        return abs(self.packets["ours"] + more - fewer - self.packets["NFStream"])

    def result(self) -> dict:
        """Return plain values."""
        return {
            "timeouts_s": {"idle": IDLE_S, "active": ACTIVE_S},
            "captures": self.captures,
            "flows": dict(self.flows),
            "packets": dict(self.packets),
            "bytes": dict(self.bytes),
            "keys": {"unexplained": 0} | dict(self.keys),
            "keys_that_differ_by_cause": {
                label: {
                    "keys": n,
                    "flows_ours": self.flow_causes[label]["ours"],
                    "flows_NFStream": self.flow_causes[label]["NFStream"],
                }
                for label, n in self.key_causes.most_common()
            },
            "packets_seen_differently_by_cause": dict(self.packet_causes.most_common()),
            "packets_unaccounted_for": self.unaccounted(),
            "captures_refused_by_NFStream": self.refused,
            "unexplained": self.unexplained[:50],
        }


def _undirected(flow: tuple) -> tuple:
    return flow[1], flow[2], flow[3] + flow[4], flow[5] + flow[6]


def _plain(address: str) -> str:
    return str(ipaddress.ip_address(address))


def compare(paths: list[Path]) -> dict:
    """Return the comparison over captures."""
    comparison = Comparison()
    rows = theirs(paths)
    for path in paths:
        comparison.add(path, rows[str(path)])
    return comparison.result()
