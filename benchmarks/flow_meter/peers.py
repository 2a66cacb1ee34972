"""Other programs on the same captures: how each one is started, and where it comes from.

Python peers live in a virtual environment of their own below the cache directory, made at the first run; they are no
dependencies of the project. Programs of the system are used if they are installed. Who is missing is named.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinwatch-bench"
PYTHON_PEERS = ("nfstream", "dpkt", "scapy==2.5.0", "cicflowmeter==0.2.0")
"""cicflowmeter 0.2.0 is the newest for Python 3.11; with Scapy 2.6 and later it writes an empty table."""

_NFSTREAM = """
import sys
from nfstream import NFStreamer
if __name__ == "__main__":
    print(sum(1 for _ in NFStreamer(source=sys.argv[1], statistical_analysis=True, n_dissections=0, n_meters=1,
                                    idle_timeout=15, active_timeout=60)))
"""
_DPKT = """
import sys, dpkt
flows = {}
for _, frame in dpkt.pcap.Reader(open(sys.argv[1], "rb")):
    try:
        ip = dpkt.ethernet.Ethernet(frame).data
        key = (ip.src, ip.dst, ip.p, getattr(ip.data, "sport", 0), getattr(ip.data, "dport", 0))
    except (AttributeError, dpkt.UnpackError):
        continue
    counters = flows.setdefault(key, [0, 0])
    counters[0] += 1
    counters[1] += len(frame)
print(len(flows))
"""
_SCAPY = """
import sys
from scapy.layers.l2 import Ether
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
import scapy.layers.all
from scapy.utils import RawPcapReader
flows = {}
for frame, _ in RawPcapReader(sys.argv[1]):
    packet = Ether(frame)
    ip = packet.getlayer(IP) or packet.getlayer(IPv6)
    if ip is None:
        continue
    key = (ip.src, ip.dst, getattr(ip.payload, "sport", 0), getattr(ip.payload, "dport", 0))
    counters = flows.setdefault(key, [0, 0])
    counters[0] += 1
    counters[1] += len(frame)
print(len(flows))
"""


@dataclass(frozen=True)
class Peer:
    """A program to compare with.

    Attributes
    ----------
    name
        As in the table.
    command
        From capture and scratch directory to the command line.
    slow
        Whether it is run on the first packets only.
    does
        What it does with a packet, so that times are not misread.
    """

    name: str
    command: Callable[[Path, Path], list[str]]
    slow: bool
    does: str


def python_peers() -> tuple[list[Peer], list[str]]:
    """Return the Python peers, and what is missing with the reason; makes their environment at the first call."""
    python = CACHE / "peers" / "bin" / "python"
    if not python.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(CACHE / "peers")], check=True, timeout=300)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PYTHON_PEERS], check=False, timeout=900)

    def script(name: str, module: str, code: str, does: str, *, slow: bool = False) -> Peer | str:
        found = subprocess.run([str(python), "-c", f"import {module}"], check=False, capture_output=True, timeout=120)
        if found.returncode:
            return f"{name} (not installable here)"
        path = Path(tempfile.gettempdir()) / f"kinwatch-bench-{name}.py"
        path.write_text(code, encoding="utf-8")
        return Peer(name, lambda capture, _: [str(python), str(path), str(capture)], slow, does)

    candidates = [
        script("NFStream", "nfstream", _NFSTREAM, "flows, statistical features, nDPI off"),
        script("dpkt", "dpkt", _DPKT, "dissection, two counters a flow"),
        script("Scapy", "scapy", _SCAPY, "full dissection, two counters a flow", slow=True),
    ]
    cic = CACHE / "peers" / "bin" / "cicflowmeter"
    if cic.exists():
        command = [str(cic), "-f"]
        candidates.append(
            Peer(
                "cicflowmeter", lambda c, s: [*command, str(c), "-c", str(s / "cic.csv")], slow=True, does="flows, CSV"
            )
        )
    else:
        candidates.append("cicflowmeter (not installable here)")
    return [c for c in candidates if isinstance(c, Peer)], [c for c in candidates if isinstance(c, str)]


DEBIAN = {"tcpdump": "tcpdump", "softflowd": "softflowd", "nfpcapd": "nfdump", "argus": "argus-server"}


def _install_missing() -> None:
    """Install the Debian packages of absent programs, where apt and root are there."""
    packages = [package for program, package in DEBIAN.items() if not shutil.which(program)]
    if packages and shutil.which("apt-get") and os.geteuid() == 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", *command], env=environment, check=False, capture_output=True, timeout=600)


def system_peers() -> tuple[list[Peer], list[str]]:
    """Return the programs of the system, installed if need be, and the names of those that are not there."""
    _install_missing()
    candidates = {
        "tcpdump": Peer(
            "tcpdump", lambda c, _: ["tcpdump", "-r", str(c), "-w", "/dev/null"], slow=False, does="copies packets"
        ),
        "softflowd": Peer(
            "softflowd",
            lambda c, _: ["softflowd", "-r", str(c), "-d", "-n", "127.0.0.1:9"],
            slow=False,
            does="NetFlow counters",
        ),
        "nfpcapd": Peer(
            "nfpcapd", lambda c, s: ["nfpcapd", "-r", str(c), "-l", str(s)], slow=False, does="NetFlow counters"
        ),
        "argus": Peer(
            "argus", lambda c, _: ["argus", "-r", str(c), "-w", "/dev/null"], slow=False, does="flow records"
        ),
    }
    found = [peer for name, peer in candidates.items() if shutil.which(name)]
    return found, [f"{name} (not installed)" for name in candidates if not shutil.which(name)]
