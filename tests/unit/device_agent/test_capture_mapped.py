"""The fast reader of classic pcap files against the general one, with and without the compiled walk."""

import os
import struct

import numpy as np
import pytest

from device_agent.capture import mapped
from device_agent.capture.errors import CaptureInputError
from device_agent.capture.files import CaptureFile
from device_agent.capture.mapped import MappedCapture, is_classic_pcap
from device_agent.capture.source import CaptureSettings, open_source
from device_agent.flows.fast.library import load

WALKS = [
    pytest.param(False, id="python"),
    pytest.param(
        True,
        id="compiled",
        marks=pytest.mark.skipif(load() is None, reason="no compiled meter; run scripts/build-fast"),
    ),
]
pytestmark = pytest.mark.parametrize("compiled", WALKS)


@pytest.fixture(autouse=True)
def walk(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(mapped, "load", lambda: None)


def capture(path, frames, *, order="<", magic=0xA1B2C3D4, link_type=1, tail=b""):
    """Write frames a millisecond apart; each is said to be 10 bytes longer on the wire."""
    parts = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65_535, link_type)]
    for i, frame in enumerate(frames):
        fraction = i * 1_000 if magic == 0xA1B2C3D4 else i * 1_000_000 + 999
        parts += [struct.pack(f"{order}IIII", 1_700_000_000, fraction, len(frame), len(frame) + 10), frame]
    path.write_bytes(b"".join(parts) + tail)
    return path


def drain(source, size):
    batches, error = [], None
    try:
        while (batch := source.read(size, 0.0)) is not None:
            batches.append(batch)
    except CaptureInputError as caught:
        error = caught
    assert source.read(size, 0.0) is None
    counters = source.counters()
    source.close()
    return batches, error, counters


def joined(batches):
    frames = [b.data[o:e].tobytes() for b in batches for o, e in zip(b.offsets[:-1], b.offsets[1:], strict=True)]
    times, wire = (np.concatenate([getattr(b, name) for b in batches]) for name in ("ts_us", "wire_len"))
    return frames, times.tolist(), wire.tolist()


def frames_of(n, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.bytes(int(size)) for size in rng.integers(0, 1_600, size=n)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D])
@pytest.mark.parametrize("size", [1, 64, 5_000])
def test_same_packets_as_the_general_reader(tmp_path, order, magic, size):
    """Also over the borders of the window, which 2,500 frames cross."""
    path = capture(tmp_path / "x.pcap", frames_of(2_500 if size > 1 else 40), order=order, magic=magic)
    settings = CaptureSettings(snap_bytes=100)
    got, error, counters = drain(MappedCapture(path, settings), size)
    want, _, _ = drain(CaptureFile(str(path), os.open(path, os.O_RDONLY), settings), size)
    assert error is None
    assert joined(got) == joined(want)
    assert counters == {"packets": sum(map(len, want)), "truncated": 0}


def test_a_capture_cut_in_a_record_gives_what_came_before(tmp_path):
    frames = frames_of(30)
    path = capture(tmp_path / "x.pcap", frames, tail=struct.pack("<IIII", 1, 1, 100, 100) + b"x" * 40)
    batches, error, counters = drain(MappedCapture(path, CaptureSettings()), 8)
    assert len(joined(batches)[0]) == 30
    assert "ends in the middle of a record at byte" in str(error)
    assert counters == {"packets": 30, "truncated": 1}


@pytest.mark.parametrize("length", [262_145, 0xFFFFFFFF])
def test_an_absurd_length_ends_the_capture(tmp_path, length):
    path = capture(tmp_path / "x.pcap", frames_of(5), tail=struct.pack("<IIII", 1, 1, length, 100) + b"x" * 300_000)
    batches, error, _ = drain(MappedCapture(path, CaptureSettings()), 100)
    assert len(joined(batches)[0]) == 5
    assert "is damaged at byte" in str(error)


def test_a_header_only_has_no_packets(tmp_path):
    assert drain(MappedCapture(capture(tmp_path / "x.pcap", []), CaptureSettings()), 10)[:2] == ([], None)


def test_other_files_are_told_apart_and_refused(tmp_path):
    (tmp_path / "x.ng").write_bytes(b"\x0a\x0d\x0d\x0a" + b"\x00" * 40)
    (tmp_path / "short.pcap").write_bytes(b"\xd4\xc3\xb2\xa1\x02")
    assert not is_classic_pcap(tmp_path / "x.ng")
    assert not is_classic_pcap(tmp_path / "nothing")
    assert not is_classic_pcap(tmp_path)
    assert is_classic_pcap(capture(tmp_path / "x.pcap", []))
    source = open_source(str(tmp_path / "x.pcap"))
    assert isinstance(source, MappedCapture)
    source.close()
    for path in (tmp_path / "x.ng", tmp_path / "short.pcap"):
        with pytest.raises(CaptureInputError, match="no classic pcap"):
            MappedCapture(path, CaptureSettings())
    with pytest.raises(CaptureInputError, match="link type 147 is not supported"):
        MappedCapture(capture(tmp_path / "y.pcap", [], link_type=147), CaptureSettings())
    with pytest.raises(CaptureInputError, match="cannot be read"):
        MappedCapture(tmp_path / "nothing", CaptureSettings())
