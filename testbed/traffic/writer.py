"""Play a scenario and write the capture with its label sidecar."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

import numpy as np
from scapy.utils import RawPcapWriter

from testbed.captures.errors import CaptureInputError
from testbed.captures.sidecar import GeneratorInfo, LabelMark, LabelSidecar, write_sidecar
from testbed.traffic.attacks import ATTACKS
from testbed.traffic.profiles import PROFILES
from testbed.traffic.scenario import EXAM_S, LEARN_S, DeviceScenario, Episode, default_fleet
from testbed.traffic.scene import ROUTER, US_PER_S, Scene, Tape, lan_host
from testbed.traffic.wire import arp_frame

CAPTURE_EPOCH_S: Final = 1_767_225_600
LINKTYPE_ETHERNET: Final = 1
_TAIL_S: Final = 12.0
_MARK_MARGIN_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class CaptureInfo:
    """What was written.

    Parameters
    ----------
    path
        The capture.
    device_id
        The observed device.
    packets, attack_packets
        Frames in the capture, and how many of them attacks made.
    size_bytes
        Size of the capture file.
    cpu_s
        Processor time spent, seconds.
    """

    path: Path
    device_id: str
    packets: int
    attack_packets: int
    size_bytes: int
    cpu_s: float


def play(scenario: DeviceScenario) -> tuple[list[tuple[int, bytes]], list[LabelMark], int]:
    """Play a scenario in memory.

    Returns
    -------
    tuple
        Frames as (microseconds since the start, bytes) in time order, the marks, the number of attack frames.
    """
    device = lan_host(f"10.20.0.{scenario.number}")
    tape = Tape(device)
    # The announcement at time zero makes the capture's first packet the origin of all offsets.
    tape.add(0, arp_frame(device, ROUTER, reply=False))
    parts = (("learn", 0.0, scenario.learn_s), ("exam", scenario.learn_s, scenario.duration_s))
    for part, from_s, to_s in parts:
        for name, activity in PROFILES[scenario.profile].activities.items():
            rng = np.random.default_rng((scenario.seed, crc32(f"{part}/{name}".encode())))
            activity(Scene(tape, rng, int((from_s + 0.5) * US_PER_S), int((to_s - _TAIL_S) * US_PER_S)))
    benign_count = len(tape.frames)
    marks = [_strike(scenario, tape, number, episode) for number, episode in enumerate(scenario.episodes)]
    attack_count = len(tape.frames) - benign_count
    end_us = int(scenario.duration_s * US_PER_S)
    frames = sorted(frame for frame in tape.frames if frame[0] < end_us)
    return frames, marks, attack_count


def _strike(scenario: DeviceScenario, tape: Tape, number: int, episode: Episode) -> LabelMark:
    """Play one attack episode; its mark spans the frames it made."""
    attack = ATTACKS[episode.attack]
    first = len(tape.frames)
    rng = np.random.default_rng((scenario.seed, number, crc32(episode.attack.encode())))
    scene = Scene(tape, rng, int(episode.start_s * US_PER_S), int(episode.end_s * US_PER_S))
    rule = attack.forms[scenario.family](scene)
    times_us = [at_us for at_us, _ in tape.frames[first:]] or [scene.start_us]
    return LabelMark(
        start_s=round(min(times_us) / US_PER_S - _MARK_MARGIN_S, 6),
        end_s=round(max(times_us) / US_PER_S + _MARK_MARGIN_S, 6),
        label=rule.label,
        hosts=rule.hosts,
        peers=rule.peers,
        proto=rule.proto,
        ports=rule.ports,
    )


def write_capture(scenario: DeviceScenario, path: Path) -> CaptureInfo:
    """Write the capture of a scenario and its sidecar.

    Parameters
    ----------
    scenario
        What happens.
    path
        The capture to write, ``*.pcap``; the sidecar goes beside it.

    Raises
    ------
    CaptureInputError
        The file cannot be written.
    """
    began_s = time.process_time()
    frames, marks, attack_packets = play(scenario)
    try:
        _write_frames(frames, path)
        write_sidecar(
            LabelSidecar(
                version=1,
                device_id=scenario.device_id,
                profile=scenario.profile,
                family=scenario.family,
                exam_from_s=scenario.learn_s,
                marks=tuple(marks),
                generator=GeneratorInfo(name="kinwatch-testbed traffic", seed=scenario.seed),
            ),
            path,
        )
    except OSError as error:
        raise CaptureInputError(f"{path}: cannot write the capture ({error.strerror or error})") from error
    return CaptureInfo(
        path=path,
        device_id=scenario.device_id,
        packets=len(frames),
        attack_packets=attack_packets,
        size_bytes=path.stat().st_size,
        cpu_s=time.process_time() - began_s,
    )


def _write_frames(frames: Iterable[tuple[int, bytes]], path: Path) -> None:
    """Write frames as a little-endian microsecond capture, the same on every machine."""
    writer = RawPcapWriter(str(path), linktype=LINKTYPE_ETHERNET, endianness="<")
    try:
        writer.write_header(None)
        for at_us, frame in frames:
            second, micro = divmod(at_us, US_PER_S)
            writer.write_packet(frame, sec=CAPTURE_EPOCH_S + second, usec=micro)
    finally:
        writer.close()


def generate(
    out_dir: Path,
    seed: int,
    *,
    learn_s: float = LEARN_S,
    exam_s: float = EXAM_S,
    devices: int | None = None,
    on_written: Callable[[CaptureInfo], None] | None = None,
) -> list[CaptureInfo]:
    """Write the captures of the default fleet, the work of ``kinwatch-testbed traffic``.

    Parameters
    ----------
    out_dir
        Folder for the captures; made when missing.
    seed
        Seed of the fleet, 0 or more; equal seeds give equal files.
    learn_s, exam_s
        Length of the two parts, seconds.
    devices
        Only the first so many devices.
    on_written
        Called after each capture, for progress.

    Raises
    ------
    ValueError
        A length or the number of devices is out of range.
    CaptureInputError
        A file cannot be written.
    """
    scenarios = default_fleet(seed, learn_s=learn_s, exam_s=exam_s, devices=devices)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaptureInputError(f"{out_dir}: cannot make the folder ({error.strerror})") from error
    written = []
    for scenario in scenarios:
        info = write_capture(scenario, out_dir / f"{scenario.device_id}.pcap")
        written.append(info)
        if on_written is not None:
            on_written(info)
    return written
