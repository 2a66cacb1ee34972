"""Replay a capture on an interface, paced by its timestamps or at a fixed rate, behind safety interlocks."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import scapy.arch
import scapy.layers.l2  # noqa: F401  tells Scapy what frames a loopback interface has
from scapy.config import conf

from contract.exit_codes import ExitCode
from testbed.addressing import AddressMap
from testbed.captures.errors import CaptureInputError
from testbed.captures.link import ETHERNET, endpoints, ethernet_frame, ip_packet
from testbed.captures.reader import read_packets
from testbed.errors import HarnessError
from testbed.interlock import LOOPBACK, Interface, Namespace, Permit, decide
from testbed.pacing import Frame, Pace, ReplayReport, run

_ETHER_HEADER_BYTES: Final = 14
_NO_MAC: Final = b"\0" * 6
_ROUTES_V4: Final = Path("/proc/self/net/route")
_ROUTES_V6: Final = Path("/proc/self/net/ipv6_route")


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to replay and how.

    Parameters
    ----------
    capture
        The capture file.
    interface
        Name of the interface to send from.
    pace
        Speed, rate, loops, limit.
    target_mac
        Destination MAC for every frame, six bytes; None keeps the captured one. Needed for captures without Ethernet
        headers, and for receivers whose network card filters frames for others.
    cut_to_mtu
        Cut frames that are longer than the interface takes; otherwise they are left out and counted.
    map_public
        Map public addresses to the benchmark range, so that nothing can reach them.
    permit
        What the user allowed beyond the safe rules.
    """

    capture: Path
    interface: str
    pace: Pace
    target_mac: bytes | None = None
    cut_to_mtu: bool = False
    map_public: bool = False
    permit: Permit = field(default_factory=Permit)


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of an interface: for the interlock, its MTU and its MAC."""

    interface: Interface
    mtu_bytes: int
    mac: bytes


def replay(
    options: ReplayOptions,
    *,
    on_warning: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ReplayReport:
    """Replay a capture, the work of ``kinwatch-testbed replay CAPTURE INTERFACE``.

    Parameters
    ----------
    options
        What to replay and how.
    on_warning
        Receives one line for the user before the first packet.
    on_progress
        Receives the number of frames sent, about once a second.

    Returns
    -------
    ReplayReport
        What was sent, how well the pace was kept and whether the run counts.

    Raises
    ------
    HarnessError
        Exit code 2: no such interface; 12: no permission; 22: an interlock refused.
    CaptureInputError
        The capture is missing, none, damaged, empty or of an unknown link type.
    """
    facts = interface_facts(options.interface)
    frames, destinations = load_frames(options, facts)
    verdict = decide(facts.interface, destinations, options.permit)
    if not verdict.allowed:
        raise HarnessError(f"replay refused ({verdict.reason}): {verdict.text}", code=ExitCode.INTERLOCK)
    if verdict.warning:
        on_warning(verdict.warning)
    with _sender(options.interface) as send:
        return run(frames, options.pace, send=send, clock=time.monotonic, sleep=time.sleep, on_progress=on_progress)


def load_frames(options: ReplayOptions, facts: Facts) -> tuple[list[Frame], list[str]]:
    """Return the frames to send, too long ones marked, and the distinct destination addresses.

    Raises
    ------
    CaptureInputError
        The capture cannot be used, or it has no Ethernet headers and no destination MAC was given.
    """
    longest_bytes = facts.mtu_bytes + _ETHER_HEADER_BYTES
    frames: list[Frame] = []
    destinations: dict[str, None] = {}
    addresses = AddressMap()
    for packet in read_packets(options.capture):
        if len(frames) == options.pace.limit:
            break
        captured = addresses.apply(packet.data, packet.linktype) if options.map_public else packet.data
        inner = ip_packet(captured, packet.linktype)
        if inner is not None:
            destinations.setdefault(endpoints(inner)[1])
        data = _frame_bytes(captured, packet.linktype, inner, options, facts)
        too_long = data is not None and len(data) > longest_bytes
        if data is not None and too_long and options.cut_to_mtu:
            data, too_long = data[:longest_bytes], False
        frames.append(Frame(packet.ts_us, None if too_long else data, "too-long" if too_long else "no-ip"))
    if not frames:
        raise CaptureInputError(f"{options.capture}: the capture holds no packet")
    return frames, list(destinations)


def _frame_bytes(data: bytes, linktype: int, inner: bytes | None, options: ReplayOptions, facts: Facts) -> bytes | None:
    """Return the frame as it is sent; None for what cannot be put on Ethernet."""
    if linktype == ETHERNET:
        return data if options.target_mac is None else options.target_mac + data[6:]
    if options.target_mac is None and options.interface != LOOPBACK:
        raise CaptureInputError(
            f"{options.capture}: the packets have no Ethernet header; give a destination with --dst-mac"
        )
    return None if inner is None else ethernet_frame(inner, facts.mac, options.target_mac or _NO_MAC)


@contextlib.contextmanager
def _sender(interface: str) -> Iterator[Callable[[bytes], None]]:
    """Open a link-layer socket through Scapy; yield what sends one frame as it is."""
    try:
        link = conf.L2socket(iface=interface, promisc=False)
    except PermissionError as error:
        raise HarnessError(
            f"{interface}: no permission to send raw packets; run as root or give the program CAP_NET_RAW",
            code=ExitCode.PERMISSION,
        ) from error
    except OSError as error:
        raise HarnessError(f"{interface}: cannot open ({error.strerror or error})", code=ExitCode.USAGE) from error
    outgoing: socket.socket = link.outs

    def send(frame: bytes) -> None:
        try:
            outgoing.send(frame)
        except OSError as error:
            raise HarnessError(
                f"{interface}: sending failed ({error.strerror or error}); is the interface up?", code=ExitCode.INTERNAL
            ) from error

    try:
        yield send
    finally:
        link.close()


def interface_facts(name: str) -> Facts:
    """Collect the facts about an interface of the current network namespace.

    Raises
    ------
    HarnessError
        There is no such interface (exit code 2).
    """
    names = [known for _, known in socket.if_nameindex()]
    if name not in names:
        raise HarnessError(f"no interface {name}; there are {', '.join(names)}", code=ExitCode.USAGE)
    link = _link_description(name)
    return Facts(
        interface=Interface(
            name=name,
            alias=str(link.get("ifalias", "")),
            default_routes=default_route_interfaces(_lines(_ROUTES_V4), _lines(_ROUTES_V6)),
            namespace=_namespace(),
        ),
        mtu_bytes=int(link.get("mtu", 1500)),
        mac=bytes.fromhex(str(link.get("address", "00:00:00:00:00:00")).replace(":", "")),
    )


def _link_description(name: str) -> dict[str, Any]:
    """Return what iproute2 says about an interface; without iproute2 nothing, so that no marker is seen."""
    try:
        done = subprocess.run(["ip", "-json", "link", "show", "dev", name], capture_output=True, check=True, timeout=10)
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return found[0] if found else {}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def default_route_interfaces(routes_v4: Iterable[str], routes_v6: Iterable[str]) -> frozenset[str]:
    """Return the interfaces of all default routes in the kernel's tables (``/proc/net/route``, ``ipv6_route``)."""
    found = set()
    for line in routes_v4:
        columns = line.split()
        if len(columns) > 7 and columns[1] == "00000000" and columns[7] == "00000000":
            found.add(columns[0])
    for line in routes_v6:
        columns = line.split()
        if len(columns) > 9 and columns[0] == "0" * 32 and columns[1] == "00":
            found.add(columns[9])
    # The kernel lists its unreachable default on the loopback interface.
    return frozenset(found - {LOOPBACK})


def _namespace() -> Namespace:
    """Compare this process' network namespace with that of process 1."""
    try:
        own = Path("/proc/self/ns/net").readlink()
        first = Path("/proc/1/ns/net").readlink()
    except OSError:
        return Namespace.UNKNOWN
    return Namespace.INITIAL if own == first else Namespace.OTHER
