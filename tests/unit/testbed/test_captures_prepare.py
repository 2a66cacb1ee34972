"""Host captures from public data sets: labels, split, shifts, stripped links; on tiny stand-ins and the real data."""

import hashlib
import os
from itertools import pairwise
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import CookedLinux, Ether
from scapy.packet import Packet, Raw
from scapy.utils import RawPcapWriter

from testbed.captures.errors import CaptureInputError, LabelsInputError
from testbed.captures.link import ip_packet
from testbed.captures.loader import load_captures
from testbed.captures.prepare import DATA_VARIABLE, GAP_S, data_folder, prepare_real

DATA = os.environ.get(DATA_VARIABLE, "")
ATTACKER = "172.30.0.200"


def save(
    path: Path, start_s: float, pairs: list[tuple[str, str]], *, cooked: bool = False, step_s: float = 1.0
) -> None:
    """Write one TCP packet per (source, target), one step apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = RawPcapWriter(str(path), linktype=113 if cooked else 1)
    writer.write_header(None)
    link: Packet = CookedLinux() if cooked else Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for number, (source, target) in enumerate(pairs):
        data = bytes(link / IP(src=source, dst=target) / TCP(sport=1000 + number, dport=50) / Raw(b"x"))
        at_s = start_s + number * step_s
        writer.write_packet(data.ljust(70, b"\0"), sec=int(at_s), usec=round(at_s % 1 * 1e6), wirelen=90)
    writer.close()


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A data folder with a few packets for every host."""
    root = tmp_path / "data"
    allkahra = root / "pcap/allkahra"
    for folder, start_s in (("final", 5000), ("blind05", 1000)):
        tag = folder[-2:]
        talk = [("172.30.0.10", f"172.30.0.{last}") for last in (11, 12)] + [("172.30.0.14", "172.30.0.20")]
        save(allkahra / folder / f"benign_{tag}.pcap", start_s, talk)
        hostile = [(ATTACKER, "172.30.0.10"), ("172.30.0.12", "172.30.0.10"), ("172.30.0.13", "172.30.0.100")]
        save(allkahra / folder / f"c2_{tag}.pcap", start_s + 100, hostile)
        head = "\n" if folder == "blind05" else ""
        (allkahra / folder / f"pcap_labels_{tag}.csv").write_text(
            f"{head}filename,label,attack_type\nbenign_{tag}.pcap,0,benign\nc2_{tag}.pcap,1,c2_beacon\n"
        )
    sensors = [("192.168.0.154", "10.16.100.73"), ("192.168.0.180", "10.16.100.73")] * 10
    save(root / "pcap/mqttset/benign-5mb/benign-5mb-train.pcap", 9000, sensors, cooked=True)
    for name, who, broker in (
        ("bruteforce/bruteforce-train.pcapng", "192.168.1.90", "192.168.1.91"),
        ("malariados/malariados-train.pcap", "192.168.1.90", "192.168.1.91"),
        ("malformed/malformed-train.pcap", "192.168.1.90", "192.168.1.91"),
        ("slowite/slowite-train.pcap", "10.16.120.44", "10.16.120.72"),
        ("flood/flood-train.pcap", "192.168.1.100", "10.16.100.73"),
    ):
        save(root / "pcap/mqttset" / name, 20_000, [(who, broker)] * 10)
    pi = "192.168.100.113"
    calls = [(pi, "178.128.185.250"), (pi, "147.231.100.5")] * 5
    save(root / "pcap/iot23_8-1/2018-07-31-15-15-09-192.168.100.113.pcap", 30_000, calls)
    return root


def test_every_host_has_both_parts_and_raw_ip_packets(data_root: Path, tmp_path: Path) -> None:
    hosts = prepare_real(data_root, tmp_path / "out")
    captures = {capture.device_id: capture for capture in load_captures(tmp_path / "out")}
    assert len(captures) == len(hosts) >= 8
    for host in hosts:
        capture = captures[host.device_id]
        assert capture.summary.linktype == 101
        assert len(list(capture.packets("learn"))) == host.learn_packets.total() > 0
        assert len(list(capture.packets("exam"))) == host.exam_packets.total() > 0
        assert all(packet.data[0] >> 4 == 4 for packet in capture.packets())


def test_blind_rounds_come_last_although_they_were_recorded_first(data_root: Path, tmp_path: Path) -> None:
    prepare_real(data_root, tmp_path / "out")
    labels = next(c.labels for c in load_captures(tmp_path / "out") if c.device_id == "allkahra-10")
    assert [(part.name.split("/")[2], part.split) for part in labels.sources] == [
        ("final", "learn"),
        ("final", "learn"),
        ("blind05", "exam"),
        ("blind05", "exam"),
    ]
    assert all(after.start_s - before.end_s == pytest.approx(GAP_S) for before, after in pairwise(labels.sources))
    last_learn, first_exam = labels.sources[1], labels.sources[2]
    assert last_learn.end_s < labels.exam_from_s < first_exam.start_s
    assert first_exam.shift_s > 0


def test_only_the_malicious_endpoints_of_an_attack_capture_are_hostile(data_root: Path, tmp_path: Path) -> None:
    hosts = {host.device_id: host for host in prepare_real(data_root, tmp_path / "out")}
    assert hosts["allkahra-10"].learn_packets == {"benign": 3, "c2_beacon": 1}
    assert hosts["allkahra-12"].exam_packets == {"benign": 2}
    assert hosts["iot23-pi"].learn_packets == {"benign": 3, "c2_beacon": 3}
    assert hosts["mqttset-154"].learn_packets == {"benign": 6}
    broker = hosts["mqttset-broker"]
    assert set(broker.learn_packets) == set(broker.exam_packets) == {
        "benign", "bruteforce", "dos_flood", "mqtt_abuse", "slow_dos",
    }  # fmt: skip
    marks = next(c.labels.marks for c in load_captures(tmp_path / "out") if c.device_id == "allkahra-10")
    assert {mark.label for mark in marks} == {"c2_beacon"}
    assert set(marks[0].hosts) == {ATTACKER, "172.30.0.13"}


def test_packets_keep_their_distances_and_wire_length_without_the_link_header(data_root: Path, tmp_path: Path) -> None:
    prepare_real(data_root, tmp_path / "out")
    capture = next(c for c in load_captures(tmp_path / "out") if c.device_id == "mqttset-154")
    packets = list(capture.packets())
    # 90 bytes on the wire minus 29 of cooked header and padding that were captured beyond the IP packet.
    assert {(len(packet.data), packet.wire_len) for packet in packets} == {(41, 61)}
    assert [after.ts_us - before.ts_us for before, after in pairwise(packets[:6])] == [2_000_000] * 5


def test_a_source_that_differs_from_the_manifest_is_refused(data_root: Path, tmp_path: Path) -> None:
    name = "pcap/iot23_8-1/2018-07-31-15-15-09-192.168.100.113.pcap"
    good = hashlib.sha256((data_root / name).read_bytes()).hexdigest()
    manifest = data_root / "MANIFEST.tsv"
    manifest.write_text(f"path_in_set\tsha256\n{name}\t{good}\n")
    prepare_real(data_root, tmp_path / "out")
    manifest.write_text(f"path_in_set\tsha256\n{name}\t{'0' * 64}\n")
    with pytest.raises(CaptureInputError, match=r"differs from the digest in MANIFEST\.tsv"):
        prepare_real(data_root, tmp_path / "out")


def test_a_missing_source_and_an_unknown_class_are_told(data_root: Path, tmp_path: Path) -> None:
    table = data_root / "pcap/allkahra/final/pcap_labels_al.csv"
    table.write_text(table.read_text().replace("c2_beacon", "magic"))
    with pytest.raises(LabelsInputError, match="magic"):
        prepare_real(data_root, tmp_path / "out")
    table.unlink()
    (data_root / "pcap/mqttset/flood/flood-train.pcap").unlink()
    with pytest.raises(CaptureInputError, match=r"no packets for the learn part|cannot read"):
        prepare_real(data_root, tmp_path / "out")


def test_the_data_folder_comes_from_the_argument_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert data_folder(None) == tmp_path
    with pytest.raises(CaptureInputError, match="no such data folder"):
        data_folder(tmp_path / "none")
    monkeypatch.delenv(DATA_VARIABLE)
    with pytest.raises(CaptureInputError, match=DATA_VARIABLE):
        data_folder(None)


@pytest.mark.parametrize("linktype", [1, 101, 113, 228, 276, 0])
def test_link_headers_and_padding_are_stripped(linktype: int) -> None:
    inner = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(dport=53) / Raw(b"hello"))
    header = {
        1: b"\0" * 12 + b"\x81\x00\x00\x05\x08\x00",
        101: b"",
        228: b"",
        113: b"\0" * 14 + b"\x08\x00",
        276: b"\x08\x00" + b"\0" * 18,
        0: b"\2\0\0\0",
    }[linktype]
    assert ip_packet(header + inner + b"\0" * 13, linktype) == inner


@pytest.mark.parametrize("data", [b"", b"\0" * 12, b"\0" * 12 + b"\x08\x06" + b"\0" * 28, b"\0" * 12 + b"\x08\x00\x45"])
def test_frames_without_ip_are_none(data: bytes) -> None:
    assert ip_packet(data, 1) is None


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason=f"{DATA_VARIABLE} does not name a data folder")
def test_the_real_data_give_at_least_eight_hosts_and_known_counts(tmp_path: Path) -> None:
    hosts = {host.device_id: host for host in prepare_real(Path(DATA), tmp_path)}
    assert len(hosts) >= 8
    gateway = hosts["allkahra-10"]
    attacks = {"scan", "bruteforce", "slow_dos", "dos_flood", "c2_beacon", "mqtt_abuse"}
    assert attacks | {"benign"} == set(gateway.learn_packets) == set(gateway.exam_packets)
    assert hosts["iot23-pi"].learn_packets["c2_beacon"] + hosts["iot23-pi"].exam_packets["c2_beacon"] == 12_334
    assert hosts["mqttset-154"].learn_packets.total() + hosts["mqttset-154"].exam_packets.total() == 13_954
    assert len(load_captures(tmp_path)) == len(hosts)
