"""Frames of 64 to 1,500 bytes at a steady rate, into a veth pair that a benchmark made and into nothing else.

    python -m benchmarks.flow_meter.sender eth0 MARK RATE SECONDS [--core N]

The interface must be a testbed's by the rules of ``testbed.interlock``, carry exactly the mark that the benchmark gave
its pair, and be alone in its namespace beside the loopback. Frames go to the kernel in batches of one system call
(``sendmmsg``), and where allowed the program runs before all others of its processor, so that it has room to spare;
what the kernel took is counted, and what the interface says it sent stands beside it. The last line is JSON.
"""

import argparse
import ctypes
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.flow_meter import traffic
from contract.exit_codes import ExitCode
from testbed.errors import HarnessError
from testbed.interlock import LOOPBACK, MARKER, Interface, Namespace, Permit, decide
from testbed.replay import interface_facts

SOL_PACKET, PACKET_QDISC_BYPASS, SO_SNDBUFFORCE = 263, 20, 32
MOST_PPS, MOST_SECONDS = 500_000.0, 60.0
BATCH = 128
TICK_S = 0.0005
GIVE_UP = 1.5
"""A run ends after so many times its planned seconds, with what was sent until then."""
TRAILING = 10
"""Packets after the last one, a quarter of a second apart: NFStream counts once a second, when a packet comes."""
UDP_BYTES = 42
HOSTS = 60


@dataclass(frozen=True, slots=True)
class Sent:
    """What a run handed to the kernel: packets offered, taken and refused, how long, and how far behind at most."""

    offered: int
    sent: int
    refused: int
    seconds: float
    most_behind: int


def refusal(interface: Interface, neighbours: list[str], mark: str) -> str:
    """Return why this interface is not the one of the benchmark with that mark; empty when it is."""
    verdict = decide(interface, ["10.0.0.1"], Permit())
    if not verdict.allowed:
        return verdict.text
    if interface.namespace is Namespace.INITIAL or interface.name == LOOPBACK:
        return f"{interface.name} is not in a network namespace of a benchmark"
    if interface.alias != f"{MARKER} {mark}":
        return f"{interface.name} carries the mark of no pair that was made for this run"
    strangers = sorted(set(neighbours) - {LOOPBACK, interface.name})
    return (
        f"{', '.join(strangers)} beside {interface.name}: the namespace is not only the benchmark's"
        if strangers
        else ""
    )


def guard(name: str, mark: str) -> None:
    """Return if packets may be sent from this interface.

    Raises
    ------
    HarnessError
        It is not that of the benchmark, or there is none of that name.
    """
    reason = refusal(interface_facts(name).interface, [known for _, known in socket.if_nameindex()], mark)
    if reason:
        raise HarnessError(reason, code=ExitCode.INTERLOCK)


def frames(count: int = 4_096, seed: int = 3) -> list[bytes]:
    """Return UDP frames of 64 to 1,500 bytes: half of the smallest, a tenth of the largest, the others any size."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(64, 1_501, size=count)
    kind = rng.random(count)
    sizes[kind < 0.5], sizes[kind >= 0.9] = 64, 1_500
    return [
        traffic.udp(0x0A000010 + i % HOSTS, 0x0A000001, 1_024 + i % 2_000, 53, b"x" * (size - UDP_BYTES))
        for i, size in enumerate(sizes.tolist())
    ]


class _Part(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Head(ctypes.Structure):
    """``struct msghdr``; a structure of its own, because its padding counts."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.POINTER(_Part)),
        ("n_parts", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """``struct mmsghdr``."""

    _fields_ = (("head", _Head), ("taken", ctypes.c_uint32))


class Sender:
    """Hands frames to a link-layer socket, many in one system call; the frames come again and again in their order.

    Parameters
    ----------
    sock
        An open packet socket that is bound to an interface.
    taken_frames
        The frames, each at most what the interface takes.
    """

    def __init__(self, sock: socket.socket, taken_frames: list[bytes]) -> None:
        self._fd = sock.fileno()
        self._frames = taken_frames
        self._parts = (_Part * len(taken_frames))(*((frame, len(frame)) for frame in taken_frames))
        at = ctypes.addressof(self._parts)
        self._messages = (_Message * len(taken_frames))()
        for i, message in enumerate(self._messages):
            message.head.parts = ctypes.cast(at + i * ctypes.sizeof(_Part), ctypes.POINTER(_Part))
            message.head.n_parts = 1
        self._call = ctypes.CDLL(None, use_errno=True).sendmmsg

    def send(self, first: int, count: int) -> tuple[int, int]:
        """Send up to ``count`` frames from number ``first`` on; return how many were taken and how many refused.

        Raises
        ------
        OSError
            If the socket cannot send at all.
        """
        at = first % len(self._frames)
        count = min(count, len(self._frames) - at)
        taken = self._call(self._fd, ctypes.byref(self._messages, at * ctypes.sizeof(_Message)), count, 0)
        if taken >= 0:
            return taken, 0
        code = ctypes.get_errno()
        if code in {errno.EINTR, errno.EAGAIN}:
            return 0, 0
        if code == errno.ENOBUFS:
            return 0, 1
        raise OSError(code, os.strerror(code))


def pace(
    offered: int,
    rate_pps: float,
    send: Callable[[int, int], tuple[int, int]],
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Sent:
    """Send packets when they are due, never earlier; what was held up follows at once, in batches.

    The time ends with the last packet, so a sender that cannot keep up shows a lower rate.
    """
    began_s, sent, refused, most_behind = clock(), 0, 0, 0
    passed_s = 0.0
    while sent + refused < offered and passed_s < GIVE_UP * offered / rate_pps:
        passed_s = clock() - began_s
        done = sent + refused
        due = min(offered, int(passed_s * rate_pps)) - done
        most_behind = max(most_behind, due)
        if due <= 0:
            sleep(TICK_S)
            continue
        taken, lost = send(done, min(due, BATCH))
        sent, refused = sent + taken, refused + lost
    return Sent(offered, sent, refused, clock() - began_s, most_behind)


def _counter(interface: str, name: str) -> int:
    return int(Path(f"/sys/class/net/{interface}/statistics/{name}").read_text(encoding="ascii"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interface")
    parser.add_argument("mark", help="what the benchmark wrote into the interface's alias")
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--core", type=int, help="processor to stay on")
    options = parser.parse_args()
    if not (0 < options.rate <= MOST_PPS and 0 < options.seconds <= MOST_SECONDS):
        parser.error(f"at most {MOST_PPS:,.0f} packets a second and {MOST_SECONDS:.0f} s")
    try:
        guard(options.interface, options.mark)
    except HarnessError as error:
        print(f"sender: refused: {error}", file=sys.stderr)
        return error.code
    # The sender is the measuring instrument: it goes before what else runs, while it is short.
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((options.interface, 0))
        sock.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20)
        ready = frames()
        sender, before = Sender(sock, ready), _counter(options.interface, "tx_packets")
        began_s = time.process_time()
        result = pace(round(options.rate * options.seconds), options.rate, sender.send)
        cpu_s = time.process_time() - began_s
        for _ in range(TRAILING):
            time.sleep(0.25)
            sock.send(ready[0])
        by_interface = _counter(options.interface, "tx_packets") - before
    print(json.dumps({**asdict(result), "trailing": TRAILING, "by_interface": by_interface, "cpu_s": round(cpu_s, 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
