"""Captures to measure on: the recorded set-up traffic of IoT devices if it is at hand, and synthetic scans and floods.

Nothing recorded is kept: the merged capture is written to a scratch directory and deleted with it.
"""

import struct
from pathlib import Path

import numpy as np

EPOCH_US = 1_700_000_000_000_000
Frames = list[tuple[int, bytes, int]]
"""Time in microseconds, captured bytes, length on the wire."""


def write(path: Path, frames: Frames) -> None:
    """Write a classic pcap file of Ethernet frames."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for time_us, frame, wire_len in frames:
            file.write(struct.pack("<IIII", time_us // 1_000_000, time_us % 1_000_000, len(frame), wire_len))
            file.write(frame)


def read(path: Path) -> Frames:
    """Read a classic pcap file of Ethernet frames; of another kind: nothing."""
    data = path.read_bytes()
    if len(data) < 24 or data[:4] not in {b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4"}:
        return []
    order = "<" if data[0] == 0xD4 else ">"
    if struct.unpack_from(f"{order}I", data, 20)[0] != 1:
        return []
    at, frames = 24, []
    while at + 16 <= len(data):
        seconds, fraction, captured, wire_len = struct.unpack_from(f"{order}IIII", data, at)
        at += 16
        frames.append((seconds * 1_000_000 + fraction, data[at : at + captured], wire_len))
        at += captured
    return frames


def recorded(data: Path) -> Frames:
    """Return all captures of the IoT Sentinel set, each moved to the same start, merged by time."""
    frames: Frames = []
    for path in sorted((data / "pcap" / "iot_sentinel").rglob("*.pcap")):
        capture = read(path)
        if capture:
            first_us = capture[0][0]
            frames += [(EPOCH_US + time_us - first_us, frame, wire_len) for time_us, frame, wire_len in capture]
    return sorted(frames, key=lambda record: record[0])


def repeated(frames: Frames, times: int) -> Frames:
    """Return frames several times, one minute of silence between, so that each time has flows of its own."""
    if not frames:
        return []
    span_us = frames[-1][0] - frames[0][0] + 60_000_000
    return [(t + i * span_us, frame, wire_len) for i in range(times) for t, frame, wire_len in frames]


def tcp(src: int, dst: int, sport: int, dport: int, flags: int, payload: bytes = b"") -> bytes:
    """Return a TCP frame."""
    head = struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 0x50, flags, 8192, 0, 0)
    return _ethernet(src, dst, 6, head + payload)


def udp(src: int, dst: int, sport: int, dport: int, payload: bytes = b"") -> bytes:
    """Return a UDP frame."""
    return _ethernet(src, dst, 17, struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload)


def _ethernet(src: int, dst: int, proto: int, body: bytes) -> bytes:
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(body), 1, 0, 64, proto, 0, src, dst)
    return b"\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08\x00" + ip + body


def devices(n_packets: int, seed: int = 1) -> Frames:
    """Return synthetic traffic of 60 devices: TCP sessions to brokers and servers, DNS and discovery."""
    rng = np.random.default_rng(seed)
    frames: Frames = []
    time_us, ports = EPOCH_US, {}
    gaps = rng.exponential(400, n_packets).astype(np.int64)
    for gap, device, kind, size in zip(
        gaps.tolist(), rng.integers(60, size=n_packets).tolist(), rng.random(n_packets).tolist(),
        rng.integers(1_200, size=n_packets).tolist(), strict=True,
    ):  # fmt: skip
        time_us += gap
        here, broker = 0x0A000010 + device, 0x0A000001
        if kind < 0.1:
            frame = udp(here, 0x0A000001, 30_000 + size * 7 + device, 53, b"q" * 30)
        elif kind < 0.15:
            frame = udp(here, 0xE00000FB, 5353, 5353, b"m" * 80)
        else:
            port, step = ports.get(device, (40_000, 0))
            flags = (0x02, 0x12, 0x10)[step] if step < 3 else 0x18
            if step > 3 + size // 10:
                flags, port, step = 0x14, port + 1 if port < 60_000 else 40_000, -1
            ends = (here, broker, port, 1883) if step % 2 == 0 or step == -1 else (broker, here, 1883, port)
            ports[device] = port, step + 1
            frame = tcp(*ends, flags, b"d" * size if flags == 0x18 else b"")
        frames.append((time_us, frame, len(frame)))
    return frames


def scan(under: Frames, n_packets: int, seed: int = 2) -> Frames:
    """Return a telnet scan and a flood over other traffic: nearly every added packet is a flow of its own.

    Two thirds are SYNs of four infected devices to random addresses, ports 23 and 2323; one third a flood of SYNs and
    UDP packets from random ports to one victim. They come at 25,000 packets a second.
    """
    rng = np.random.default_rng(seed)
    bots, victim = [0x0A000030 + i for i in range(4)], 0x0A000005
    addresses = rng.integers(0x0B000000, 0xDF000000, n_packets).tolist()
    numbers = rng.integers(1 << 30, size=n_packets).tolist()
    start_us = under[0][0] if under else EPOCH_US
    added: Frames = []
    for i, (address, number) in enumerate(zip(addresses, numbers, strict=True)):
        bot, port = bots[number % 4], 1_024 + (number >> 2) % 60_000
        if i % 3:
            frame = tcp(bot, address, port, 2323 if number % 10 == 0 else 23, 0x02)
        elif number % 2:
            frame = tcp(bot, victim, port, 80, 0x02)
        else:
            frame = udp(bot, victim, port, 1 + number % 65_000, b"x" * 64)
        frame = frame.ljust(60, b"\x00")
        added.append((start_us + i * 40, frame, len(frame)))
    return sorted(under + added, key=lambda record: record[0])
