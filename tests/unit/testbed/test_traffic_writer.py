"""Captures made from scenarios: correct packets, correct conversations, correct labels, always the same."""

import struct
from collections import defaultdict
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import checksum as scapy_checksum
from scapy.utils import rdpcap

from testbed.captures.loader import load_captures
from testbed.captures.sidecar import LabelMark, read_sidecar
from testbed.interlock import is_public
from testbed.traffic.attacks import ATTACKS
from testbed.traffic.profiles import PROFILES
from testbed.traffic.scenario import DeviceScenario, Episode
from testbed.traffic.writer import CAPTURE_EPOCH_S, generate, play, write_capture

PROFILE_OF = {"media": "camera", "sensor": "temp_sensor", "odd": "plc"}
FORMS = [(name, family) for name, attack in ATTACKS.items() for family in attack.forms]


def scenario(profile: str, *episodes: Episode, seed: int = 3) -> DeviceScenario:
    return DeviceScenario("dev-1", profile, seed, 10, learn_s=120.0, exam_s=60.0, episodes=episodes)


def assert_checksums(packet: Ether) -> None:
    """The IP and transport checksums of a dissected packet are those of its bytes."""
    ip = packet[IP]
    header = bytes(ip)[: ip.ihl * 4]
    assert scapy_checksum(header) == 0
    body = bytes(ip)[ip.ihl * 4 : ip.len]
    if ip.proto in {6, 17}:
        pseudo = header[12:20] + bytes((0, ip.proto)) + len(body).to_bytes(2)
        assert scapy_checksum(pseudo + body) == 0
    else:
        assert scapy_checksum(body) == 0


@pytest.mark.parametrize("profile", PROFILES)
def test_every_packet_of_a_profile_dissects_with_correct_checksums(profile: str) -> None:
    frames, marks, attack_packets = play(scenario(profile))
    assert len(frames) > 300
    assert marks == []
    assert attack_packets == 0
    for _, frame in frames[::4]:
        packet = Ether(frame)
        assert ARP in packet or IP in packet
        if IP in packet:
            assert packet[IP].len <= 1500
            assert_checksums(packet)


@pytest.mark.parametrize(("name", "family"), FORMS)
def test_every_form_of_an_attack_is_labelled_and_sound(name: str, family: str) -> None:
    quiet = scenario(PROFILE_OF[family])
    benign = {frame for _, frame in play(quiet)[0]}
    frames, (mark,), count = play(scenario(PROFILE_OF[family], Episode(name, 30.0, 45.0)))
    assert mark.label == ATTACKS[name].label
    assert 8 <= count <= 6000
    assert 29.9 <= mark.start_s < mark.end_s <= 90.0
    hostile = [(at_us, frame) for at_us, frame in frames if frame not in benign]
    # Frames of benign activities keep their bytes but for the running IP numbers, so look at the claimed flows.
    claimed = [frame for at_us, frame in hostile if mark_fits(mark, frame)]
    assert len(claimed) >= 0.9 * count
    for frame in claimed[::4]:
        assert_checksums(Ether(frame))
    assert not [frame for _, frame in play(quiet)[0] if mark_fits(mark, frame) and name != "telnet_sweep"]


def mark_fits(mark: LabelMark, frame: bytes) -> bool:
    """Whether the mark's address rule claims a frame."""
    proto, ends = flow_of(frame)
    return bool(ends) and (mark.proto is None or proto == mark.proto) and ends_fit(mark, ends)


def ends_fit(mark: LabelMark, ends: frozenset[tuple[str, int]]) -> bool:
    """Whether the mark's rule, protocol aside, claims a flow between these two ends."""
    if mark.ports and not {port for _, port in ends} & set(mark.ports):
        return False
    one, other = (address for address, _ in ends)
    return any(a in mark.hosts and (not mark.peers or b in mark.peers) for a, b in ((one, other), (other, one)))


def flow_of(frame: bytes) -> tuple[int, frozenset[tuple[str, int]]]:
    """Return protocol and ends of a frame; no ends for ARP, port 0 for ICMP."""
    if frame[12:14] != b"\x08\0":
        return 0, frozenset()
    proto, (sport, dport) = frame[23], struct.unpack_from("!HH", frame, 34) if frame[23] in {6, 17} else (0, 0)
    addresses = (".".join(map(str, frame[26:30])), ".".join(map(str, frame[30:34])))
    return proto, frozenset(zip(addresses, (sport, dport), strict=True))


@pytest.mark.parametrize("profile", ["camera", "smart_plug", "plc"])
def test_tcp_conversations_are_complete_and_their_numbers_fit(profile: str) -> None:
    conversations: dict[frozenset[tuple[str, int]], list[TCP]] = defaultdict(list)
    for _, frame in play(scenario(profile))[0]:
        packet = Ether(frame)
        if TCP in packet:
            ip = packet[IP]
            key = frozenset(((ip.src, packet[TCP].sport), (ip.dst, packet[TCP].dport)))
            length = ip.len - 20 - packet[TCP].dataofs * 4
            conversations[key].append((ip.src, packet[TCP], length))
    whole = 0
    for packets in conversations.values():
        assert packets[0][1].flags == "S"
        next_seq = {}
        for source, tcp, length in packets:
            expected = next_seq.get(source, tcp.seq)
            assert tcp.seq in {expected, (expected - length) % 2**32}, "a number that is neither next nor a repeat"
            step = length + ("S" in tcp.flags) + ("F" in tcp.flags)
            next_seq[source] = (tcp.seq + step) % 2**32
            others = [number for other, number in next_seq.items() if other != source]
            if "A" in tcp.flags and others:
                assert tcp.ack == others[0]
        flags = "".join(str(tcp.flags) for _, tcp, _ in packets)
        whole += flags.count("F") == 2
    assert whole >= 0.7 * len(conversations)
    assert len(conversations) >= 15


def test_names_are_asked_before_connections_and_background_is_there() -> None:
    ports = {Ether(frame)[UDP].dport for _, frame in play(scenario("camera"))[0] if UDP in Ether(frame)}
    assert ports >= {53, 123, 5353, 1900}


def test_no_packet_goes_to_a_public_address() -> None:
    episodes = [
        Episode(name, 20.0 + 4 * n, 26.0 + 4 * n) for n, (name, family) in enumerate(FORMS) if family == "media"
    ]
    for _, frame in play(scenario("camera", *episodes))[0]:
        packet = Ether(frame)
        if IP in packet:
            assert not is_public(packet[IP].dst)
            assert not is_public(packet[IP].src)


@pytest.mark.parametrize("profile", PROFILES)
def test_benign_conversations_of_the_learn_part_end_before_the_exam(profile: str) -> None:
    for seed in range(2):
        frames, _, _ = play(scenario(profile, seed=seed))
        learn = {flow_of(f) for at_us, f in frames if at_us < 118_000_000}
        exam = {flow_of(f) for at_us, f in frames if at_us >= 120_000_000}
        shared = {ends for proto, ends in learn & exam if proto in {6, 17}}
        assert not [ends for ends in shared if not any(ip_address(address).is_multicast for address, _ in ends)]


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path: Path) -> None:
    attack = Episode("bruteforce", 30.0, 40.0)
    contents = []
    for number, seed in enumerate((5, 5, 6)):
        path = tmp_path / f"{number}.pcap"
        write_capture(scenario("temp_sensor", attack, seed=seed), path)
        contents.append((path.read_bytes(), path.with_name(f"{number}.labels.json").read_bytes()))
    assert contents[0] == contents[1]
    assert contents[0][0] != contents[2][0]


def test_an_attack_does_not_change_the_times_of_benign_packets() -> None:
    quiet = play(scenario("temp_sensor"))[0]
    attacked = play(scenario("temp_sensor", Episode("bruteforce", 30.0, 40.0)))[0]
    assert {at_us for at_us, _ in quiet} <= {at_us for at_us, _ in attacked}


def test_written_captures_load_and_start_with_the_origin_of_all_offsets(tmp_path: Path) -> None:
    seen = []
    written = generate(tmp_path / "fleet", 2, learn_s=120.0, exam_s=60.0, devices=3, on_written=seen.append)
    assert seen == written
    captures = load_captures(tmp_path / "fleet")
    assert [capture.device_id for capture in captures] == ["cam-1", "plc-1", "temp-1"]
    for capture in captures:
        info = next(info for info in written if info.device_id == capture.device_id)
        assert capture.summary.first_us == CAPTURE_EPOCH_S * 1_000_000
        assert capture.summary.packets == info.packets
        assert capture.summary.size_bytes == info.size_bytes
        assert capture.labels.exam_from_s == 120.0
        assert {m.label for m in capture.labels.marks}
        times = [packet.ts_us for packet in capture.packets()]
        assert times == sorted(times)


def test_scapys_own_reader_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    info = write_capture(scenario("air_quality"), path)
    assert len(rdpcap(str(path))) == info.packets
    assert read_sidecar(path).family == "sensor"


def test_attacks_overlap_benign_traffic() -> None:
    frames, (mark,), count = play(scenario("camera", Episode("c2_beacon", 30.0, 60.0)))
    inside = [at_us for at_us, _ in frames if mark.start_s <= at_us / 1e6 <= mark.end_s]
    assert len(inside) > 2 * count


@pytest.mark.parametrize("family", PROFILE_OF)
def test_marks_of_attacks_that_overlap_in_time_claim_no_flow_of_another(family: str) -> None:
    played = {}
    for name in (name for name, attack in ATTACKS.items() if family in attack.forms):
        frames, (mark,), _ = play(scenario(PROFILE_OF[family], Episode(name, 30.0, 40.0)))
        played[name] = mark, {flow_of(frame)[1] for _, frame in frames if mark_fits(mark, frame)}
    for name, (mark, claimed) in played.items():
        for other, (other_mark, _) in played.items():
            wrong = [ends for ends in claimed if other_mark.label != mark.label and ends_fit(other_mark, ends)]
            assert not wrong, (name, other)
