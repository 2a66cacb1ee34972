"""Reading captures: every packet, and every kind of damage told in one line."""

import gzip
import struct
from pathlib import Path

import pytest
from scapy.utils import RawPcapWriter

from contract.exit_codes import ExitCode
from testbed.captures.errors import CaptureInputError
from testbed.captures.reader import read_packets, summarise

PACKETS = [(1_700_000_000_000_123, b"a" * 60), (1_700_000_001_999_999, b"b" * 70), (1_700_000_001_000_000, b"c" * 80)]


def write(path: Path, linktype: int = 1) -> Path:
    writer = RawPcapWriter(str(path), linktype=linktype, endianness="<")
    writer.write_header(None)
    for ts_us, data in PACKETS:
        writer.write_packet(data, sec=ts_us // 1_000_000, usec=ts_us % 1_000_000, wirelen=len(data) + 9)
    writer.close()
    return path


def block(kind: int, body: bytes) -> bytes:
    """Return one pcapng block."""
    body += b"\0" * (-len(body) % 4)
    return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)


def write_ng(path: Path) -> Path:
    content = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)) + block(1, struct.pack("<HHI", 1, 0, 65535))
    for ts_us, data in PACKETS:
        head = struct.pack("<IIIII", 0, ts_us >> 32, ts_us & 0xFFFFFFFF, len(data), len(data) + 9)
        content += block(6, head + data)
    path.write_bytes(content)
    return path


def test_packets_come_in_file_order_with_time_and_wire_length(tmp_path: Path) -> None:
    packets = list(read_packets(write(tmp_path / "x.pcap", linktype=113)))
    assert [(p.ts_us, p.data) for p in packets] == PACKETS
    assert [p.wire_len for p in packets] == [69, 79, 89]
    assert {p.linktype for p in packets} == {113}


def test_gzipped_and_big_endian_and_nanosecond_captures_are_read(tmp_path: Path) -> None:
    zipped = tmp_path / "x.pcap.gz"
    zipped.write_bytes(gzip.compress(write(tmp_path / "x.pcap").read_bytes()))
    assert [p.data for p in read_packets(zipped)] == [data for _, data in PACKETS]
    nano = tmp_path / "n.pcap"
    nano.write_bytes(
        struct.pack(">IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101) + struct.pack(">IIII", 7, 5_999, 3, 3) + b"abc"
    )
    assert [tuple(p) for p in read_packets(nano)] == [(7_000_005, 3, b"abc", 101)]


def test_pcapng_is_read(tmp_path: Path) -> None:
    packets = list(read_packets(write_ng(tmp_path / "x.pcapng")))
    assert [p.data for p in packets] == [data for _, data in PACKETS]
    assert [p.ts_us for p in packets] == [ts_us for ts_us, _ in PACKETS]


def test_an_empty_capture_is_a_capture_without_packets(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcap")
    path.write_bytes(path.read_bytes()[:24])
    assert summarise(path).packets == 0


def test_the_summary_spans_first_packet_and_latest_time(tmp_path: Path) -> None:
    summary = summarise(write(tmp_path / "x.pcap"))
    assert (summary.packets, summary.first_us, summary.last_us) == (3, PACKETS[0][0], PACKETS[1][0])


@pytest.mark.parametrize("cut", [1, 79, 81, 90])
def test_a_truncated_capture_is_told_after_its_whole_packets(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "x.pcap")
    path.write_bytes(path.read_bytes()[:-cut])
    packets = read_packets(path)
    assert [next(packets).data for _ in range(2)] == [data for _, data in PACKETS[:2]]
    with pytest.raises(CaptureInputError, match=r"x\.pcap: truncated"):
        next(packets)


@pytest.mark.parametrize("cut", [1, 40])
def test_a_truncated_pcapng_is_told(tmp_path: Path, cut: int) -> None:
    path = write_ng(tmp_path / "x.pcapng")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(CaptureInputError, match=r"x\.pcapng"):
        list(read_packets(path))


@pytest.mark.parametrize("content", [b"", b"hello, this is no capture", b"\xd4\xc3\xb2\xa1\x02"])
def test_what_is_no_capture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    with pytest.raises(CaptureInputError, match="not a pcap or pcapng capture") as caught:
        list(read_packets(path))
    assert caught.value.code is ExitCode.CAPTURE_INPUT
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_link_type_are_told(tmp_path: Path) -> None:
    with pytest.raises(CaptureInputError, match="no such file"):
        list(read_packets(tmp_path / "none.pcap"))
    with pytest.raises(CaptureInputError, match="link type 147 is not known"):
        list(read_packets(write(tmp_path / "x.pcap", linktype=147)))
