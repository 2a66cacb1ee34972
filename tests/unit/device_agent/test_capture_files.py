"""Capture files, streams and FIFOs as sources; hostile, cut and slow ones too."""

import gzip
import os
import struct
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from contract.exit_codes import ExitCode
from device_agent.capture.errors import CaptureInputError
from device_agent.capture.source import CaptureSettings, open_source
from tests.unit.device_agent.frames import ipv4, tcp, udp, udp_header

FRAMES = [udp(payload=bytes([i]) * (i + 1)) for i in range(5)]
TIMES_US = [1_700_000_000_000_001 + i * 250_000 for i in range(5)]


def pcap(frames=FRAMES, times_us=TIMES_US, *, order="<", nano=False, link_type=1, snap=65_535):
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    out = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 65_535, link_type)
    for frame, time_us in zip(frames, times_us, strict=True):
        fraction = time_us % 1_000_000 * (1_000 if nano else 1)
        kept = frame[:snap]
        out += struct.pack(order + "IIII", time_us // 1_000_000, fraction, len(kept), len(frame)) + kept
    return out


def block(kind, body, order="<"):
    body += b"\x00" * (-len(body) % 4)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def pcapng(frames=FRAMES, times_us=TIMES_US, *, order="<", link_types=(1,), resolution=None, interfaces=None):
    options = b"" if resolution is None else struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    out = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)
    for link_type in link_types:
        out += block(1, struct.pack(order + "HHI", link_type, 0, 0) + options, order)
    units = 10 ** (6 if resolution is None else resolution)
    for i, (frame, time_us) in enumerate(zip(frames, times_us, strict=True)):
        ticks = time_us * units // 1_000_000
        interface = interfaces[i] if interfaces else 0
        head = struct.pack(order + "5I", interface, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
        out += block(6, head + frame, order)
        out += block(5, b"\x00" * 12, order)
    return out


def write(tmp_path, data, name="x.pcap"):
    path = tmp_path / name
    path.write_bytes(data)
    return str(path)


def drain(source, max_packets=100):
    """Return (frames, times, lengths) of all packets until the end."""
    frames, times, lengths = [], [], []
    while (batch := source.read(max_packets, 0.0)) is not None:
        raw = batch.data.tobytes()
        frames += [raw[a:b] for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
        times += batch.ts_us.tolist()
        lengths += batch.wire_len.tolist()
    return frames, times, lengths


@pytest.mark.parametrize(
    "data",
    [
        pcap(),
        pcap(order=">"),
        pcap(nano=True),
        pcap(order=">", nano=True),
        pcapng(),
        pcapng(order=">"),
        pcapng(resolution=9),
        gzip.compress(pcap()),
        gzip.compress(pcapng()),
        gzip.compress(pcap()[:100]) + gzip.compress(pcap()[100:]),
    ],
    ids=["pcap", "big-endian", "nano", "nano-big", "ng", "ng-big", "ng-nano", "gz", "ng-gz", "gz-two-members"],
)
def test_every_format_gives_the_same_packets(tmp_path, data):
    source = open_source(write(tmp_path, data))
    assert drain(source) == (FRAMES, TIMES_US, [len(f) for f in FRAMES])
    assert source.counters().items() >= {"packets": 5, "truncated": 0}.items()
    assert not source.live


def test_max_packets_bounds_a_batch(tmp_path):
    source = open_source(write(tmp_path, pcap()))
    assert [len(source.read(2, 0.0)) for _ in range(3)] == [2, 2, 1]
    assert source.read(2, 0.0) is None


def test_packets_are_cut_to_what_the_meter_reads(tmp_path):
    long = [udp(payload=b"x" * 1_000)]
    frames, _, lengths = drain(open_source(write(tmp_path, pcap(long, [1])), CaptureSettings(snap_bytes=96)))
    assert (len(frames[0]), lengths) == (96, [1042])


def test_a_snapped_file_keeps_the_wire_length(tmp_path):
    frames, _, lengths = drain(open_source(write(tmp_path, pcap([udp(payload=b"x" * 1_000)], [1], snap=60))))
    assert (len(frames[0]), lengths) == (60, [1042])


def test_link_types_are_kept_apart(tmp_path):
    raw = ipv4(udp_header(), proto=17)
    data = pcapng([FRAMES[0], raw, raw], [1, 2, 3], link_types=(1, 101), interfaces=[0, 1, 1])
    source = open_source(write(tmp_path, data))
    batches = [source.read(100, 0.0), source.read(100, 0.0)]
    assert [(b.link_type, len(b)) for b in batches] == [(1, 1), (101, 2)]
    assert source.read(100, 0.0) is None


@pytest.mark.parametrize("cut", [1, 7, 15, 16, 17, 40])
@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_a_cut_capture_gives_the_good_packets_then_one_error(tmp_path, form, cut):
    data = pcap() if form == "pcap" else pcapng()[:-24]
    source = open_source(write(tmp_path, data[:-cut]))
    assert len(source.read(100, 0.0)) == 4
    with pytest.raises(CaptureInputError, match="ends in the middle of a record at byte") as caught:
        source.read(100, 0.0)
    assert caught.value.exit_code == ExitCode.CAPTURE_INPUT
    assert "\n" not in str(caught.value)
    assert source.read(100, 0.0) is None
    assert source.counters().items() >= {"packets": 4, "truncated": 1}.items()


def test_a_cut_gzip_file_is_an_error(tmp_path):
    source = open_source(write(tmp_path, gzip.compress(pcap(FRAMES * 50, TIMES_US * 50), mtime=0)[:-9]))
    with pytest.raises(CaptureInputError, match="ends in the middle"):
        drain(source)


def test_damaged_gzip_is_an_error(tmp_path):
    data = bytearray(gzip.compress(np.random.default_rng(1).bytes(4_000)))
    data[40] ^= 0xFF
    with pytest.raises(CaptureInputError, match=r"gzip|not a pcap"):
        drain(open_source(write(tmp_path, bytes(data))))


def test_an_impossible_record_length_is_an_error(tmp_path):
    data = pcap() + struct.pack("<IIII", 1, 1, 0xFFFFFFF0, 10) + b"x" * 1_000_000
    source = open_source(write(tmp_path, data))
    assert len(source.read(100, 0.0)) == 5
    with pytest.raises(CaptureInputError):
        source.read(100, 0.0)


def test_a_capture_without_packets_is_fine(tmp_path):
    source = open_source(write(tmp_path, pcap([], [])))
    assert source.read(10, 0.0) is None
    assert source.counters()["packets"] == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\xd4\xc3", "not a pcap or pcapng"),
        (b"hello world, no capture at all", "not a pcap or pcapng"),
        (pcap()[:20], "header of the capture is cut short"),
        (pcap(link_type=105), "link type 105 is not supported"),
        (pcapng(link_types=(105,)), "link type 105 is not supported"),
    ],
)
def test_what_is_no_capture_says_so(tmp_path, data, message):
    with pytest.raises(CaptureInputError, match=message):
        drain(open_source(write(tmp_path, data)))


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(CaptureInputError, match="no such file"):
        open_source(str(tmp_path / "nothing.pcap"))
    with pytest.raises(CaptureInputError, match="is a directory"):
        open_source(str(tmp_path))


def test_a_filter_is_for_interfaces(tmp_path):
    with pytest.raises(CaptureInputError, match="live interfaces only"):
        open_source(write(tmp_path, pcap()), CaptureSettings(bpf="tcp"))


def test_hostile_files_only_raise_the_one_error(tmp_path):
    rng = np.random.default_rng(3)
    for seed in (pcap(), pcapng(), pcapng(order=">", resolution=9), gzip.compress(pcap())):
        for _ in range(60):
            data = bytearray(seed[: rng.integers(8, len(seed) + 1)])
            for _ in range(rng.integers(1, 8)):
                data[rng.integers(len(data))] = rng.integers(256)
            try:
                source = open_source(write(tmp_path, bytes(data)))
            except CaptureInputError:
                continue
            with suppress(CaptureInputError):
                frames, times, _ = drain(source)
                assert len(frames) == len(times)
            assert source.read(1, 0.0) is None
            source.close()


@pytest.mark.parametrize("data", [pcap(), pcapng(), gzip.compress(pcap())], ids=["pcap", "pcapng", "gzip"])
def test_progress_goes_from_the_start_to_the_size_of_the_file(tmp_path, data):
    source = open_source(write(tmp_path, data))
    size = len(data)
    assert source.progress[0] <= 24
    drain(source)
    assert source.progress == (size, size)


def test_a_stream_has_no_progress(tmp_path):
    os.mkfifo(tmp_path / "f")
    source = open_source(str(tmp_path / "f"))
    assert source.progress is None
    source.close()


def test_standard_input(tmp_path):
    with Path(write(tmp_path, pcap())).open("rb") as file:
        saved = os.dup(0)
        try:
            os.dup2(file.fileno(), 0)
            source = open_source("-")
        finally:
            os.dup2(saved, 0)
            os.close(saved)
    assert drain(source)[0] == FRAMES


class TestFifo:
    @pytest.fixture
    def fifo(self, tmp_path):
        path = tmp_path / "live.pcap"
        os.mkfifo(path)
        return path

    def test_nothing_yet_is_an_empty_batch(self, fifo):
        source = open_source(str(fifo))
        assert len(source.read(10, 0.0)) == 0
        assert len(source.read(10, 0.03)) == 0
        source.close()

    def test_what_is_there_comes_at_once_while_the_writer_pauses(self, fifo):
        source = open_source(str(fifo))
        data = pcap()
        with fifo.open("wb", buffering=0) as writer:
            assert len(source.read(10, 0.0)) == 0, "a writer that has written nothing"
            writer.write(data[:10])
            assert len(source.read(10, 0.0)) == 0, "half a header"
            writer.write(data[10:-3])
            assert len(source.read(10, 5.0)) == 4, "without waiting for the rest of the fifth"
            assert len(source.read(10, 0.0)) == 0
            writer.write(data[-3:])
            batch = source.read(10, 5.0)
            assert batch.ts_us.tolist() == TIMES_US[4:]
        assert source.read(10, 5.0) is None
        assert source.counters().items() >= {"packets": 5, "truncated": 0}.items()

    def test_every_split_of_the_stream_gives_the_same(self, fifo):
        for data in (pcap(), pcapng()):
            source = open_source(str(fifo))
            frames = []
            with fifo.open("wb", buffering=0) as writer:
                for i in range(len(data)):
                    writer.write(data[i : i + 1])
                    batch = source.read(10, 0.0)
                    raw = batch.data.tobytes()
                    frames += [raw[a:b] for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
            assert source.read(10, 1.0) is None
            assert frames == FRAMES

    def test_a_reader_waits_for_packets_up_to_its_timeout(self, fifo):
        source = open_source(str(fifo))
        with fifo.open("wb", buffering=0) as writer:
            writer.write(pcap([], []))
            assert len(source.read(10, 0.0)) == 0
            thread = threading.Timer(0.05, writer.write, [pcap()[24:]])
            thread.start()
            assert len(source.read(10, 10.0)) >= 1
            thread.join()

    def test_a_writer_that_dies_inside_a_record_is_an_error(self, fifo):
        source = open_source(str(fifo))
        with fifo.open("wb", buffering=0) as writer:
            writer.write(pcap()[:-2])
        assert len(source.read(10, 1.0)) == 4
        with pytest.raises(CaptureInputError, match="middle of a record"):
            source.read(10, 1.0)


def test_close_twice_is_safe(tmp_path):
    source = open_source(write(tmp_path, pcap()))
    source.read(1, 0.0)
    source.close()
    source.close()
    assert source.read(1, 0.0) is None


def test_frames_feed_the_meter_unchanged(tmp_path):
    """End to end without Scapy on the writing side: a file and the frames themselves give the same flows."""
    from device_agent.flows.meter import FlowMeter
    from device_agent.flows.records import PacketBatch

    frames = [tcp(payload=b"x" * 400), *FRAMES]
    times = [TIMES_US[0] - 5, *TIMES_US]
    source = open_source(write(tmp_path, pcap(frames, times)))
    from_file, direct = FlowMeter(), FlowMeter()
    from_file.feed(source.read(100, 0.0))
    source.close()
    direct.feed(PacketBatch.from_frames(frames, times))
    assert from_file.flush().features.tobytes() == direct.flush().features.tobytes()
