"""Attacks that come to the device: scans, password guessing, floods, slow connections, misuse of its services.

Several look different for a media device (HTTP, RTSP) and a sensor (MQTT), and resemble what is normal in the
other family: that is the difference an expert learns and one model for all blurs.
"""

from typing import Final

from testbed.traffic import protocols as say
from testbed.traffic.conversation import TcpConversation, UdpConversation
from testbed.traffic.media import RTSP_PORT
from testbed.traffic.odd import MODBUS_PORT
from testbed.traffic.rules import FlowRule
from testbed.traffic.scene import US_PER_S, Scene, lan_host, outside_host
from testbed.traffic.sensor import MQTT_PORT, reading
from testbed.traffic.wire import PROTO_TCP, PROTO_UDP, Host

# An intruder of its own for every attack, so that the marks of attacks that overlap in time never mix.
SCANNER: Final = lan_host("10.20.0.66")
GUESSER: Final = lan_host("10.20.0.67")
STALLER: Final = lan_host("10.20.0.68")
ABUSER: Final = lan_host("10.20.0.69")
INJECTOR: Final = lan_host("10.20.0.70")
BOTS: Final = tuple(outside_host(f"203.0.113.{100 + n}", ttl=44 + 2 * n) for n in range(6))
_PASSWORDS: Final = ("admin", "12345", "password", "888888", "root", "default", "xc3511", "juantech")
_OPEN_PORTS: Final = (80, 502, 554, 631, 1883)
_SCANNED_BELOW: Final = 1200
_LUCKY_SHARE: Final = 0.1


def _all_tcp_of(intruder: Host, label: str) -> FlowRule:
    return FlowRule(label, hosts=(intruder.address,), proto=PROTO_TCP)


def port_scan(scene: Scene) -> FlowRule:
    """Try about eight ports a second; closed ones answer by a reset, open ones are reset by the scanner."""
    ports = scene.rng.permutation(_SCANNED_BELOW) + 1
    for port, at_us in zip(ports.tolist(), scene.times_us(0.12, 0.4), strict=False):
        talk = TcpConversation(scene, SCANNER, scene.device, port, at_us)
        if port in _OPEN_PORTS:
            talk.open().reset()
        else:
            talk.refused()
    return _all_tcp_of(SCANNER, "scan")


def http_guessing(scene: Scene) -> FlowRule:
    """Guess passwords of a camera: HTTP pages and RTSP streams answered by 401; a lucky guess gets its still."""
    address = scene.device.address
    for at_us in scene.times_us(0.4, 0.35):
        guess = _PASSWORDS[scene.integer(0, len(_PASSWORDS) - 1)]
        if scene.chance(0.7):
            talk = TcpConversation(scene, GUESSER, scene.device, 80, at_us).open()
            page = say.http_request("GET", "/snapshot.jpg", address, user="admin", password=guess)
            if scene.chance(_LUCKY_SHARE):
                still = scene.noise(int(scene.lognormal(700, 0.6, low=60, high=4000)))
                talk.exchange(page, say.http_response("200 OK", still, "image/jpeg"))
            else:
                talk.exchange(page, say.http_response("401 Unauthorized", b"{}"))
        else:
            talk = TcpConversation(scene, GUESSER, scene.device, RTSP_PORT, at_us).open()
            ask = say.rtsp_request("DESCRIBE", address, 2, f"Authorization: Basic {guess}")
            talk.exchange(ask, say.rtsp_response("401 Unauthorized", 2))
        talk.close(by_client=scene.chance(0.5))
    return _all_tcp_of(GUESSER, "bruteforce")


def mqtt_guessing(scene: Scene) -> FlowRule:
    """Guess passwords of a sensor's local MQTT service: CONNECT, refusal, next; a lucky guess subscribes."""
    for at_us in scene.times_us(0.4, 0.35):
        talk = TcpConversation(scene, GUESSER, scene.device, MQTT_PORT, at_us).open()
        guess = _PASSWORDS[scene.integer(0, len(_PASSWORDS) - 1)]
        connect = say.mqtt_connect(f"c{scene.integer(0, 9999)}", user="admin", password=guess)
        if scene.chance(_LUCKY_SHARE):
            talk.exchange(connect, say.mqtt_connack())
            talk.exchange(say.mqtt_subscribe("home/temp/state", 1), say.mqtt_suback(1))
            talk.close()
        else:
            talk.exchange(connect, say.mqtt_connack(say.MQTT_REFUSED_CREDENTIALS))
            talk.close(by_client=False)
    return _all_tcp_of(GUESSER, "bruteforce")


def telnet_guessing(scene: Scene) -> FlowRule:
    """Guess telnet passwords, three tries a connection."""
    for at_us in scene.times_us(0.8, 0.35):
        talk = TcpConversation(scene, GUESSER, scene.device, 23, at_us).open()
        talk.server_sends(b"\xff\xfd\x18\xff\xfd\x20login: ")
        for _ in range(scene.integer(1, 3)):
            talk.exchange(b"root\r\n", b"Password: ")
            guess = _PASSWORDS[scene.integer(0, len(_PASSWORDS) - 1)]
            talk.exchange(guess.encode() + b"\r\n", b"Login incorrect\r\nlogin: ", think_s=0.3)
        talk.close(by_client=False)
    return _all_tcp_of(GUESSER, "bruteforce")


def syn_flood(scene: Scene) -> FlowRule:
    """Send about 25 SYNs a second from several bots; half-open connections end by a late reset or never."""
    for at_us in scene.times_us(0.04, 0.5):
        bot = BOTS[scene.integer(0, len(BOTS) - 1)]
        talk = TcpConversation(scene, bot, scene.device, 80, at_us)
        if scene.chance(0.7):
            talk.half_open()
        else:
            talk.unanswered(tries=1)
    return FlowRule("dos_flood", hosts=tuple(bot.address for bot in BOTS), proto=PROTO_TCP)


def udp_flood(scene: Scene) -> FlowRule:
    """Send bursts of datagrams of the size of video from several bots, a new port about every second."""
    for at_us in scene.times_us(0.25, 0.4):
        bot = BOTS[scene.integer(0, len(BOTS) - 1)]
        talk = UdpConversation(scene, bot, scene.device, scene.integer(1024, 65000), at_us)
        for _ in range(int(scene.lognormal(14, 0.6, low=2, high=60))):
            talk.client_sends(scene.noise(int(scene.lognormal(900, 0.5, low=60, high=1400))))
            talk.wait(scene.lognormal(0.025, 0.8, low=0.0005, high=0.3))
    return FlowRule("dos_flood", hosts=tuple(bot.address for bot in BOTS), proto=PROTO_UDP)


def slow_http(scene: Scene) -> FlowRule:
    """Hold HTTP connections open with a header line now and then (slowloris)."""
    for at_us in scene.times_us(0.7, 0.3):
        talk = TcpConversation(scene, STALLER, scene.device, 80, at_us).open()
        talk.client_sends(b"GET / HTTP/1.1\r\nHost: device\r\n")
        until_us = at_us + int(scene.uniform(6.0, 20.0) * US_PER_S)
        while talk.t_us < until_us:
            talk.wait(scene.uniform(2.0, 5.0))
            talk.client_sends(f"X-a: {scene.integer(1, 5000)}\r\n".encode())
        if scene.chance(0.5):
            talk.reset(by_client=False)
        else:
            talk.close(by_client=scene.chance(0.5))
    return _all_tcp_of(STALLER, "slow_dos")


def slow_mqtt(scene: Scene) -> FlowRule:
    """Hold MQTT connections open with the longest keep-alive and a ping now and then (slowite)."""
    for at_us in scene.times_us(0.7, 0.3):
        talk = TcpConversation(scene, STALLER, scene.device, MQTT_PORT, at_us).open()
        talk.exchange(say.mqtt_connect(f"s{scene.integer(0, 9999)}", keepalive_s=65535), say.mqtt_connack())
        until_us = at_us + int(scene.uniform(6.0, 20.0) * US_PER_S)
        while talk.t_us < until_us:
            talk.wait(scene.uniform(2.0, 5.0))
            talk.exchange(say.MQTT_PINGREQ, say.MQTT_PINGRESP)
        talk.close(by_client=scene.chance(0.5))
    return _all_tcp_of(STALLER, "slow_dos")


def mqtt_abuse(scene: Scene) -> FlowRule:
    """Subscribe to everything, publish in storms with QoS 0 and 2, send broken packets."""
    for at_us in scene.times_us(0.8, 0.3):
        talk = TcpConversation(scene, ABUSER, scene.device, MQTT_PORT, at_us).open()
        talk.exchange(say.mqtt_connect(f"x{scene.integer(0, 9999)}"), say.mqtt_connack())
        if scene.chance(0.4):
            talk.exchange(say.mqtt_subscribe("#", 1), say.mqtt_suback(1))
        for packet_id in range(1, scene.integer(2, 12)):
            body = reading(scene, "any") + scene.noise(int(scene.lognormal(120, 1.0, low=0, high=1200)))
            if scene.chance(0.5):
                talk.client_sends(say.mqtt_publish("home/any/set", body, qos=0), pace_s=0.02)
            else:
                talk.exchange(say.mqtt_publish("home/any/set", body, packet_id, qos=2), say.mqtt_ack(0x50, packet_id))
                talk.exchange(say.mqtt_ack(0x62, packet_id), say.mqtt_ack(0x70, packet_id))
            talk.wait(scene.lognormal(0.08, 0.8, low=0.005, high=1.5))
        if scene.chance(0.4):
            talk.client_sends(b"\xf7" + scene.noise(scene.integer(2, 60)))
            talk.reset(by_client=False)
        else:
            talk.close()
    return _all_tcp_of(ABUSER, "mqtt_abuse")


def modbus_injection(scene: Scene) -> FlowRule:
    """Write coils and registers of a controller in quick sessions."""
    for at_us in scene.times_us(1.1, 0.3):
        talk = TcpConversation(scene, INJECTOR, scene.device, MODBUS_PORT, at_us).open()
        for number in range(scene.integer(3, 10)):
            function = 5 if scene.chance(0.6) else 6
            request = say.modbus_request(number, function, scene.integer(0, 200), 0xFF00)
            talk.exchange(request, say.modbus_response(number, function, request[-4:]))
            talk.wait(scene.uniform(0.01, 0.25))
        talk.close()
    return _all_tcp_of(INJECTOR, "other_attack")
