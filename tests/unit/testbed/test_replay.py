"""Replay up to the socket: frames made ready, refusals with their exit codes, routes read right."""

from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import RawPcapWriter

import testbed.replay as module
from contract.exit_codes import ExitCode
from testbed.captures.errors import CaptureInputError
from testbed.errors import HarnessError
from testbed.interlock import Interface, Namespace
from testbed.pacing import Pace
from testbed.replay import Facts, ReplayOptions, default_route_interfaces, load_frames, replay

MAC = b"\x02\0\0\0\0\x09"
FACTS = Facts(Interface("veth1", "", frozenset(), Namespace.OTHER), 1500, b"\x02\0\0\0\0\x01")


def packet(target: str = "10.0.0.2", size: int = 20) -> bytes:
    return bytes(IP(src="10.0.0.1", dst=target) / UDP(sport=1, dport=9) / Raw(b"x" * size))


def frame(data: bytes) -> bytes:
    return bytes(Ether(src="02:00:00:00:00:05", dst="02:00:00:00:00:06", type=0x0800)) + data


def save(folder: Path, *packets: bytes, linktype: int = 1) -> Path:
    path = folder / "x.pcap"
    writer = RawPcapWriter(str(path), linktype=linktype)
    writer.write_header(None)
    for number, data in enumerate(packets):
        writer.write_packet(data, sec=100 + number, usec=0)
    writer.close()
    return path


def options(capture: Path, interface: str = "veth1", **change: object) -> ReplayOptions:
    return ReplayOptions(capture, interface, Pace(), **change)


def test_ethernet_frames_go_as_captured_or_with_another_destination(tmp_path: Path) -> None:
    path = save(tmp_path, frame(packet()), frame(packet("8.8.8.8")))
    frames, destinations = load_frames(options(path), FACTS)
    assert [f.data for f in frames] == [frame(packet()), frame(packet("8.8.8.8"))]
    assert destinations == ["10.0.0.2", "8.8.8.8"]
    rewritten, _ = load_frames(options(path, target_mac=MAC), FACTS)
    assert rewritten[0].data == MAC + frame(packet())[6:]


def test_packets_without_ethernet_header_get_one_or_are_told(tmp_path: Path) -> None:
    path = save(tmp_path, packet(), linktype=101)
    frames, _ = load_frames(options(path, target_mac=MAC), FACTS)
    assert frames[0].data == MAC + FACTS.mac + b"\x08\0" + packet()
    with pytest.raises(CaptureInputError, match="--dst-mac"):
        load_frames(options(path), FACTS)
    on_loopback, _ = load_frames(options(path, "lo"), FACTS)
    assert on_loopback[0].data == b"\0" * 6 + FACTS.mac + b"\x08\0" + packet()


def test_frames_longer_than_the_interface_takes_are_left_out_or_cut(tmp_path: Path) -> None:
    path = save(tmp_path, frame(packet(size=1472)), frame(packet(size=1473)))
    frames, _ = load_frames(options(path), FACTS)
    assert [(f.data is None, f.reason) for f in frames] == [(False, "no-ip"), (True, "too-long")]
    cut, _ = load_frames(options(path, cut_to_mtu=True), FACTS)
    assert [len(f.data or b"") for f in cut] == [1514, 1514]


def test_public_addresses_are_mapped_on_request(tmp_path: Path) -> None:
    path = save(tmp_path, frame(packet("8.8.8.8")))
    frames, destinations = load_frames(options(path, map_public=True), FACTS)
    assert destinations == ["198.18.0.1"]
    assert Ether(frames[0].data)[IP].dst == "198.18.0.1"


def test_a_limit_takes_the_first_packets_and_an_empty_capture_is_told(tmp_path: Path) -> None:
    path = save(tmp_path, *[frame(packet())] * 5)
    frames, _ = load_frames(ReplayOptions(path, "veth1", Pace(limit=2)), FACTS)
    assert len(frames) == 2
    with pytest.raises(CaptureInputError, match="holds no packet"):
        load_frames(options(save(tmp_path)), FACTS)


def test_an_unknown_interface_and_a_refusal_have_their_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, frame(packet()))
    with pytest.raises(HarnessError, match="no interface nowhere0; there are") as unknown:
        replay(options(path, "nowhere0"))
    assert unknown.value.code is ExitCode.USAGE
    monkeypatch.setattr(module, "interface_facts", lambda _: FACTS)
    with pytest.raises(HarnessError, match=r"replay refused \(no-marker\)") as refused:
        replay(options(path))
    assert refused.value.code is ExitCode.INTERLOCK


def test_missing_rights_have_their_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rights(**_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.conf, "L2socket", no_rights)
    with pytest.raises(HarnessError, match="CAP_NET_RAW") as caught:
        replay(options(save(tmp_path, frame(packet())), "lo"))
    assert caught.value.code is ExitCode.PERMISSION


def test_default_routes_are_read_from_the_kernels_tables() -> None:
    v4 = [
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT",
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0",
        "eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0",
    ]
    zero = "0" * 32
    v6 = [
        f"{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     wlan0",
        f"{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo",
        f"fe80{zero[4:]} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth2",
    ]
    assert default_route_interfaces(v4, v6) == {"eth0", "wlan0"}
    assert default_route_interfaces([], []) == frozenset()
