"""Activities every device has: name lookups, time, discovery, ARP, TLS sessions, a monitoring station's probes."""

from collections.abc import Callable
from typing import Final

from testbed.traffic import protocols as say
from testbed.traffic.conversation import TcpConversation, UdpConversation, ping
from testbed.traffic.scene import HUB, MONITOR, ROUTER, US_PER_S, Scene, multicast_host, outside_host
from testbed.traffic.wire import Host, arp_frame

Play = Callable[[Scene], None]
"""An activity: plays its part on the scene's tape between the scene's start and end."""

CLOUD: Final = outside_host("198.51.100.10")
CLOUD_EAST: Final = outside_host("198.51.100.24", ttl=47)
TIME_SERVER: Final = outside_host("198.51.100.123", ttl=54)
MDNS_GROUP: Final = multicast_host("224.0.0.251")
SSDP_GROUP: Final = multicast_host("239.255.255.250")
_EPOCH_S: Final = 1_767_225_600
_PROBED_PORTS: Final = (22, 80, 161, 443, 502, 554, 631, 1883, 8080, 9100)


def dns_lookup(scene: Scene, at_us: int, name: str, *, missing: bool = False) -> int:
    """Ask the router for a name; return when the answer is there, microseconds."""
    talk = UdpConversation(scene, scene.device, ROUTER, 53, at_us)
    ident = scene.integer(0, 0xFFFF)
    record = b"" if missing else bytes((198, 51, 100, scene.integer(1, 254)))
    talk.exchange(say.dns_query(ident, name), say.dns_answer(ident, name, record))
    return talk.t_us + scene.integer(200, 2000)


def tls_session(
    scene: Scene, at_us: int, server: Host, *, upload_bytes: int, download_bytes: int, pace_s: float = 0.0004
) -> TcpConversation:
    """Run one TLS session from the device: hello, certificate, finished, upload, download, close."""
    talk = TcpConversation(scene, scene.device, server, 443, at_us).open()
    talk.exchange(
        say.tls_record(22, scene.noise(scene.integer(230, 517))),
        say.tls_record(22, scene.noise(int(scene.lognormal(2400, 0.25, low=900, high=4200)))),
    )
    talk.exchange(
        say.tls_record(22, scene.noise(scene.integer(70, 130))),
        say.tls_record(22, scene.noise(scene.integer(51, 260))),
    )
    talk.client_sends(say.tls_record(23, scene.noise(upload_bytes)), pace_s=pace_s)
    talk.wait(scene.lognormal(0.02, 0.5, low=0.003, high=0.3))
    talk.server_sends(say.tls_record(23, scene.noise(download_bytes)), pace_s=pace_s)
    talk.close(by_client=scene.chance(0.8))
    return talk


def heartbeat(period_s: float, server: Host = CLOUD, name: str = "api.cloud.example") -> Play:
    """Return an activity: short TLS calls to a cloud service, now and then after a name lookup."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.2):
            start_us = dns_lookup(scene, at_us, name) if scene.chance(0.4) else at_us
            size = int(scene.lognormal(260, 0.5, low=80, high=1400))
            tls_session(scene, start_us, server, upload_bytes=size, download_bytes=scene.integer(80, 420))

    return play


def time_sync(period_s: float = 64.0) -> Play:
    """Return an activity: NTP polls."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.05):
            stamp_s = _EPOCH_S + at_us / US_PER_S
            talk = UdpConversation(scene, scene.device, TIME_SERVER, 123, at_us)
            talk.exchange(say.ntp_packet(client=True, stamp_s=stamp_s), say.ntp_packet(client=False, stamp_s=stamp_s))

    return play


def name_lookups(period_s: float, *names: str) -> Play:
    """Return an activity: name lookups at random times; some names do not exist."""

    def play(scene: Scene) -> None:
        for at_us in scene.random_times_us(period_s):
            missing = scene.chance(0.06)
            name = f"host{scene.integer(1, 99)}.lan" if missing else names[scene.integer(0, len(names) - 1)]
            dns_lookup(scene, at_us, name, missing=missing)

    return play


def mdns(period_s: float, name: str, service: str, port: int) -> Play:
    """Return an activity: multicast DNS announcements in groups of one to three."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.3):
            talk = UdpConversation(scene, scene.device, MDNS_GROUP, 5353, at_us, sport=5353)
            for _ in range(scene.integer(1, 3)):
                talk.client_sends(say.mdns_announcement(name, service, port))
                talk.wait(scene.uniform(0.9, 1.2))

    return play


def ssdp(period_s: float, kind: str) -> Play:
    """Return an activity: SSDP alive notifications in groups of three."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.2):
            talk = UdpConversation(scene, scene.device, SSDP_GROUP, 1900, at_us)
            for _ in range(3):
                talk.client_sends(say.ssdp_notify(scene.device.address, kind))
                talk.wait(scene.uniform(0.1, 0.3))

    return play


def arp(period_s: float = 30.0) -> Play:
    """Return an activity: address resolution between the device, the router and the hub."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.3):
            other = ROUTER if scene.chance(0.7) else HUB
            asker, asked = (scene.device, other) if scene.chance(0.5) else (other, scene.device)
            scene.tape.add(at_us, arp_frame(asker, asked, reply=False))
            scene.tape.add(at_us + scene.integer(80, 900), arp_frame(asked, asker, reply=True))

    return play


def inventory_probes(period_s: float, *open_ports: int) -> Play:
    """Return an activity: a monitoring station pings the device and tries a few ports, as asset tools do.

    It is benign and looks like a small scan.
    """

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.1):
            ping(scene, MONITOR, scene.device, at_us)
            probe_us = at_us + 2 * US_PER_S
            for port in scene.rng.permutation(_PROBED_PORTS)[: scene.integer(3, 6)].tolist():
                talk = TcpConversation(scene, MONITOR, scene.device, port, probe_us)
                if port in open_ports:
                    talk.open().close()
                else:
                    talk.refused()
                probe_us += scene.integer(40_000, 400_000)

    return play


def basics(name: str, service: str, port: int, *, open_ports: tuple[int, ...]) -> dict[str, Play]:
    """Return the background activities of a device that offers ``service`` on ``port``."""
    return {
        "arp": arp(),
        "time_sync": time_sync(),
        "mdns": mdns(75.0, name, service, port),
        "inventory_probes": inventory_probes(110.0, *open_ports),
    }
