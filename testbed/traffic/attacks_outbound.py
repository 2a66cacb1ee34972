"""Attacks that leave the device: it is compromised and calls a controller, carries data out or scans others."""

from base64 import b32encode
from typing import Final

from testbed.traffic import protocols as say
from testbed.traffic.common import tls_session
from testbed.traffic.conversation import TcpConversation, UdpConversation
from testbed.traffic.rules import FlowRule
from testbed.traffic.scene import Scene, lan_host, outside_host
from testbed.traffic.wire import PROTO_TCP

CONTROLLER: Final = outside_host("203.0.113.66", ttl=51)
DROP: Final = outside_host("203.0.113.80", ttl=50)
DROP_RESOLVER: Final = outside_host("203.0.113.53", ttl=50)
_TELNET_PORTS: Final = (23, 2323)
_NEIGHBOURS: Final = 60
# This share of the calls looks like what the device's own family does all day: nobody can tell them by their flows,
# so that a perfect score would be a sign of a leak.
_DISGUISED_SHARE: Final = 0.12


def small_message_beacon(scene: Scene) -> FlowRule:
    """Call the controller with a few small messages each time: among cameras, traffic shaped like a sensor's."""
    for at_us in scene.times_us(5.0, 0.2):
        if scene.chance(_DISGUISED_SHARE):
            _tls_call(scene, at_us)
        elif scene.chance(0.06):
            TcpConversation(scene, scene.device, CONTROLLER, 8443, at_us).unanswered(tries=2)
        else:
            _small_messages(scene, at_us)
    return FlowRule("c2_beacon", hosts=(CONTROLLER.address,))


def _small_messages(scene: Scene, at_us: int) -> None:
    """Make one call of a few small messages."""
    talk = TcpConversation(scene, scene.device, CONTROLLER, 8443, at_us).open()
    talk.exchange(b"\x10" + scene.noise(scene.integer(40, 56)), b"\x20\x02\0\0")
    for _ in range(scene.integer(2, 6)):
        talk.exchange(scene.noise(scene.integer(50, 84)), scene.noise(4))
        talk.wait(scene.lognormal(0.8, 0.5, low=0.1, high=4.0))
    talk.close()


def _tls_call(scene: Scene, at_us: int) -> None:
    """Make one call by a short TLS session."""
    upload = int(scene.lognormal(260, 0.5, low=80, high=1400))
    tls_session(scene, at_us, CONTROLLER, upload_bytes=upload, download_bytes=scene.integer(80, 420))


def tls_beacon(scene: Scene) -> FlowRule:
    """Call the controller by short TLS sessions: among sensors, traffic shaped like a camera's heartbeat."""
    for at_us in scene.times_us(5.0, 0.2):
        if scene.chance(_DISGUISED_SHARE):
            _small_messages(scene, at_us)
        else:
            _tls_call(scene, at_us)
    return FlowRule("c2_beacon", hosts=(CONTROLLER.address,))


def udp_beacon(scene: Scene) -> FlowRule:
    """Call the controller by single datagrams, mostly answered."""
    for at_us in scene.times_us(3.0, 0.1):
        talk = UdpConversation(scene, scene.device, CONTROLLER, 4444, at_us)
        if scene.chance(0.8):
            talk.exchange(scene.noise(scene.integer(24, 48)), scene.noise(scene.integer(16, 32)))
        else:
            talk.client_sends(scene.noise(scene.integer(24, 48)))
    return FlowRule("c2_beacon", hosts=(CONTROLLER.address,))


def bulk_exfiltration(scene: Scene) -> FlowRule:
    """Carry data out by TLS uploads: among sensors, traffic shaped like a camera's clips."""
    for at_us in scene.times_us(1.8, 0.4):
        median = 2_000 if scene.chance(_DISGUISED_SHARE) else 45_000
        size = int(scene.lognormal(median, 0.7, low=300, high=180_000))
        tls_session(scene, at_us, DROP, upload_bytes=size, download_bytes=240, pace_s=0.004)
    return FlowRule("exfiltration", hosts=(DROP.address,))


def trickle_exfiltration(scene: Scene) -> FlowRule:
    """Carry data out in DNS questions and small posts: among cameras, traffic shaped like a sensor's reports."""
    for at_us in scene.times_us(0.45, 0.4):
        if scene.chance(0.7):
            talk = UdpConversation(scene, scene.device, DROP_RESOLVER, 53, at_us)
            for _ in range(scene.integer(1, 3)):
                bulk = scene.integer(3, 9) if scene.chance(2 * _DISGUISED_SHARE) else scene.integer(15, 35)
                label = b32encode(scene.noise(bulk)).decode().rstrip("=").lower()
                ident, name = scene.integer(0, 0xFFFF), f"{label}.t.example"
                answer = say.dns_answer(ident, name, b"\x04" + scene.noise(4), say.DNS_TYPE_TXT)
                talk.exchange(say.dns_query(ident, name, say.DNS_TYPE_TXT), answer)
                talk.wait(scene.lognormal(0.3, 0.4, low=0.05, high=1.5))
        else:
            post = TcpConversation(scene, scene.device, DROP, 80, at_us).open()
            body = scene.noise(int(scene.lognormal(300, 0.5, low=60, high=1200)))
            post.exchange(say.http_request("POST", "/p", "drop.example", body=body), say.http_response("200 OK", b""))
            post.close()
    return FlowRule("exfiltration", hosts=(DROP.address, DROP_RESOLVER.address))


def telnet_sweep(scene: Scene) -> FlowRule:
    """Try telnet on neighbours in random order as Mirai does: most are silent, some refuse, a few answer."""
    third = scene.integer(1, 250)
    neighbours = [lan_host(f"10.20.{third}.{fourth}") for fourth in scene.rng.permutation(250)[:_NEIGHBOURS].tolist()]
    for at_us in scene.times_us(0.18, 0.4):
        target = neighbours[scene.integer(0, _NEIGHBOURS - 1)]
        talk = TcpConversation(scene, scene.device, target, _TELNET_PORTS[scene.integer(0, 9) == 0], at_us)
        luck = scene.uniform(0.0, 1.0)
        if luck < 0.7:
            talk.unanswered(tries=1 if scene.chance(0.6) else 2)
        elif luck < 0.95:
            talk.refused()
        else:
            talk.open().server_sends(b"\xff\xfd\x18login: ")
            talk.reset()
    peers = tuple(neighbour.address for neighbour in neighbours)
    return FlowRule("scan", hosts=(scene.device.address,), peers=peers, proto=PROTO_TCP, ports=_TELNET_PORTS)
