"""Benign activities of small sensors and plugs: MQTT, CoAP, status polls."""

from typing import Final

from testbed.traffic import protocols as say
from testbed.traffic.common import Play, dns_lookup
from testbed.traffic.conversation import TcpConversation, UdpConversation
from testbed.traffic.scene import BROKER, HUB, OPERATOR, Scene
from testbed.traffic.wire import Host

MQTT_PORT: Final = 1883
COAP_PORT: Final = 5683
# Made up; only ever inside synthetic packets.
_HUB_LOGIN: Final = ("hub", "hub-token-18")
_REFUSED_SHARE: Final = 0.05


def reading(scene: Scene, name: str) -> bytes:
    """Return a telemetry message as small devices write it."""
    value = scene.uniform(5.0, 60.0)
    return f'{{"id":"{name}","v":{value:.2f},"n":{scene.integer(0, 99999)},"rssi":-{scene.integer(40, 88)}}}'.encode()


def _login(scene: Scene, at_us: int, name: str) -> TcpConversation:
    """Open an MQTT session with the broker; an expired token is refused once, then renewed."""
    connect = say.mqtt_connect(name, user=name, password="k" * 20)
    while scene.chance(_REFUSED_SHARE):
        talk = TcpConversation(scene, scene.device, BROKER, MQTT_PORT, at_us).open()
        talk.exchange(connect, say.mqtt_connack(say.MQTT_REFUSED_CREDENTIALS))
        talk.close(by_client=False)
        at_us = talk.t_us + scene.integer(150_000, 900_000)
    talk = TcpConversation(scene, scene.device, BROKER, MQTT_PORT, at_us).open()
    talk.exchange(connect, say.mqtt_connack())
    return talk


def mqtt_duty_cycle(period_s: float, name: str, *, messages: tuple[int, int] = (2, 6)) -> Play:
    """Return an activity: wake, connect, publish a few readings with QoS 1, disconnect, sleep."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.25):
            start_us = dns_lookup(scene, at_us, "broker.lan") if scene.chance(0.5) else at_us
            talk = _login(scene, start_us, name)
            for packet_id in range(1, scene.integer(*messages) + 1):
                topic = f"home/{name}/state"
                talk.exchange(say.mqtt_publish(topic, reading(scene, name), packet_id), say.mqtt_ack(0x40, packet_id))
                talk.wait(scene.lognormal(0.8, 0.5, low=0.1, high=4.0))
            talk.client_sends(say.MQTT_DISCONNECT)
            talk.close()

    return play


def mqtt_session(period_s: float, seconds: float, name: str, *, publish_s: float) -> Play:
    """Return an activity: a long MQTT session with telemetry, commands from the broker and pings."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.05):
            talk = _login(scene, at_us, name)
            talk.exchange(say.mqtt_subscribe(f"home/{name}/set", 1), say.mqtt_suback(1))
            until_us = scene.until_us(at_us, seconds)
            packet_id = 2
            while talk.t_us < until_us:
                talk.wait(scene.lognormal(publish_s, 0.3, low=0.2, high=4 * publish_s))
                if scene.chance(0.12):
                    talk.exchange(say.MQTT_PINGREQ, say.MQTT_PINGRESP)
                elif scene.chance(0.1):
                    talk.server_sends(say.mqtt_publish(f"home/{name}/set", b'{"on":true}', packet_id))
                    talk.client_sends(say.mqtt_ack(0x40, packet_id))
                else:
                    topic = f"home/{name}/power"
                    talk.exchange(
                        say.mqtt_publish(topic, reading(scene, name), packet_id), say.mqtt_ack(0x40, packet_id)
                    )
                packet_id += 1
            talk.client_sends(say.MQTT_DISCONNECT)
            talk.close()

    return play


def coap_reports(period_s: float, name: str) -> Play:
    """Return an activity: confirmable CoAP posts to the hub, a few per source port."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.2):
            talk = UdpConversation(scene, scene.device, HUB, COAP_PORT, at_us)
            for _ in range(scene.integer(1, 4)):
                ident = scene.integer(0, 0xFFFF)
                talk.exchange(
                    say.coap_message(0, 0x02, ident, "report", reading(scene, name)),
                    say.coap_message(2, 0x44, ident, ""),
                )
                talk.wait(scene.lognormal(0.6, 0.4, low=0.1, high=3.0))

    return play


def _poll(scene: Scene, asker: Host, at_us: int) -> None:
    """Ask the device's HTTP page for its state on a connection of its own."""
    talk = TcpConversation(scene, asker, scene.device, 80, at_us).open()
    request = say.http_request("GET", "/status", scene.device.address, user=_HUB_LOGIN[0], password=_HUB_LOGIN[1])
    talk.exchange(request, say.http_response("200 OK", reading(scene, "state")))
    talk.close(by_client=scene.chance(0.5))


def status_polls(period_s: float) -> Play:
    """Return an activity: the hub asks the device for its state by short HTTP connections."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.2):
            _poll(scene, HUB, at_us)

    return play


def dashboard_visits(period_s: float) -> Play:
    """Return an activity: while somebody looks at a dashboard it polls about three times a second."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.3):
            until_us, next_us = scene.until_us(at_us, scene.uniform(4.0, 10.0)), at_us
            while next_us < until_us:
                _poll(scene, OPERATOR, next_us)
                next_us += scene.integer(180_000, 520_000)

    return play


def idle_dashboard(period_s: float, seconds: float) -> Play:
    """Return an activity: a dashboard holds a connection to the device open and rarely says something."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.3):
            talk = TcpConversation(scene, OPERATOR, scene.device, 80, at_us).open()
            talk.exchange(say.http_request("GET", "/live", scene.device.address), say.http_response("200 OK", b"{}"))
            until_us = scene.until_us(at_us, scene.lognormal(seconds, 0.4, low=4.0, high=2 * seconds))
            while talk.t_us < until_us:
                talk.wait(scene.uniform(2.5, 7.0))
                talk.client_sends(b"\x89\x04" + scene.noise(4))
            talk.close()

    return play
