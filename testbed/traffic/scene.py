"""What an activity needs to make traffic: a tape for frames, randomness, the device, its network, a span of time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from testbed.traffic.wire import Host

US_PER_S: Final = 1_000_000
EPHEMERAL_FIRST: Final = 32768
EPHEMERAL_LAST: Final = 60999
_NOISE_BYTES: Final = 1 << 16


def lan_mac(last: int) -> bytes:
    """Return a locally administered MAC address for the LAN host with this last number."""
    return bytes((0x02, 0x4B, 0x57, 0, last >> 8, last & 0xFF))


def lan_host(address: str, ttl: int = 64) -> Host:
    """Return a host of the device's own link."""
    _, _, third, fourth = (int(part) for part in address.split("."))
    return Host(address, lan_mac(third << 8 | fourth), ttl)


ROUTER: Final = lan_host("10.20.0.1")
BROKER: Final = lan_host("10.20.0.2")
RECORDER: Final = lan_host("10.20.0.3")
HUB: Final = lan_host("10.20.0.4")
PHONE: Final = lan_host("10.20.0.5")
MONITOR: Final = lan_host("10.20.0.6")
OPERATOR: Final = lan_host("10.20.0.7", ttl=128)
HISTORIAN: Final = lan_host("10.20.0.8", ttl=128)


def outside_host(address: str, ttl: int = 52) -> Host:
    """Return a host beyond the router: its frames carry the router's MAC."""
    return Host(address, ROUTER.mac, ttl, outside=True)


def multicast_host(address: str) -> Host:
    """Return an IPv4 multicast group with the MAC address RFC 1112 derives from it."""
    _, second, third, fourth = (int(part) for part in address.split("."))
    return Host(address, bytes((0x01, 0x00, 0x5E, second & 0x7F, third, fourth)), 1)


class Tape:
    """The frames of one device, in the order made; time in microseconds since the capture's start.

    Parameters
    ----------
    device
        The observed device; it numbers its IP packets one by one as small stacks do.
    """

    def __init__(self, device: Host) -> None:
        self.device = device
        self.frames: list[tuple[int, bytes]] = []
        self._idents: dict[str, int] = {}
        self._ports: dict[str, int] = {}

    def add(self, at_us: int, frame: bytes) -> None:
        """Record one frame."""
        self.frames.append((at_us, frame))

    def next_ident(self, host: Host) -> int:
        """Return the next IP identification of a host, 0 to 65535."""
        ident = (self._idents.get(host.address, len(host.address) * 977) + 1) & 0xFFFF
        self._idents[host.address] = ident
        return ident

    def next_port(self, host: Host) -> int:
        """Return the next ephemeral port of a host; none comes twice before all were used."""
        port = self._ports.get(host.address, EPHEMERAL_FIRST - 1) + 1
        self._ports[host.address] = EPHEMERAL_FIRST if port > EPHEMERAL_LAST else port
        return self._ports[host.address]


@dataclass(slots=True)
class Scene:
    """The stage of one activity.

    Parameters
    ----------
    tape
        Where the frames go; shared by all activities of the device.
    rng
        This activity's own randomness, so that one activity's change leaves the others as they are.
    start_us, end_us
        The span in which conversations may start, microseconds since the capture's start.
    """

    tape: Tape
    rng: np.random.Generator
    start_us: int
    end_us: int
    _noise: bytes = field(default=b"", init=False)

    @property
    def device(self) -> Host:
        """Return the observed device."""
        return self.tape.device

    def times_us(self, period_s: float, jitter: float = 0.15) -> Iterator[int]:
        """Yield start times about ``period_s`` apart, the first at a random phase.

        Parameters
        ----------
        period_s
            Mean distance, seconds.
        jitter
            Standard deviation of one distance as a share of the period; a distance is at least a fifth of it.
        """
        at_us = self.start_us + int(self.uniform(0.02, 1.0) * period_s * US_PER_S)
        while at_us < self.end_us:
            yield at_us
            step = max(0.2, 1.0 + jitter * float(self.rng.standard_normal()))
            at_us += int(step * period_s * US_PER_S)

    def random_times_us(self, period_s: float) -> Iterator[int]:
        """Yield start times of a Poisson process with mean distance ``period_s`` seconds."""
        at_us = self.start_us + int(self.rng.exponential(period_s) * US_PER_S)
        while at_us < self.end_us:
            yield at_us
            at_us += int((0.05 * period_s + self.rng.exponential(0.95 * period_s)) * US_PER_S)

    def until_us(self, at_us: int, seconds: float) -> int:
        """Return the end of a stay that began at ``at_us``, cut at the scene's end."""
        return min(self.end_us, at_us + int(seconds * US_PER_S))

    def uniform(self, low: float, high: float) -> float:
        """Return a random number in [low, high)."""
        return low + (high - low) * float(self.rng.random())

    def integer(self, low: int, high: int) -> int:
        """Return a random integer in [low, high], both ends possible."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return float(self.rng.random()) < probability

    def lognormal(self, median: float, sigma: float = 0.5, *, low: float, high: float) -> float:
        """Return a log-normal number clipped to [low, high]: sizes and lengths with a long tail."""
        return float(min(high, max(low, median * np.exp(sigma * self.rng.standard_normal()))))

    def noise(self, length_bytes: int) -> bytes:
        """Return bytes that look encrypted; cut from a pool because fresh randomness costs more than a frame."""
        if not self._noise:
            self._noise = self.rng.bytes(_NOISE_BYTES)
        pieces = b""
        while len(pieces) < length_bytes:
            offset = self.integer(0, _NOISE_BYTES // 2)
            pieces += self._noise[offset : offset + length_bytes - len(pieces)]
        return pieces
