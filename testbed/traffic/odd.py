"""Benign activities of devices that are like nobody: a programmable controller and a printer."""

from typing import Final

from testbed.traffic import protocols as say
from testbed.traffic.common import Play
from testbed.traffic.conversation import TcpConversation, UdpConversation
from testbed.traffic.scene import HISTORIAN, MONITOR, OPERATOR, US_PER_S, Scene, multicast_host

MODBUS_PORT: Final = 502
WSD_GROUP: Final = multicast_host("239.255.255.250")
_READ: Final = 3


def modbus_polls(period_s: float, seconds: float, *, poll_hz: float, registers: int, historian: bool = False) -> Play:
    """Return an activity: an operator panel or the historian reads registers at a steady rate."""

    def play(scene: Scene) -> None:
        master = HISTORIAN if historian else OPERATOR
        for at_us in scene.times_us(period_s, 0.02):
            talk = TcpConversation(scene, master, scene.device, MODBUS_PORT, at_us).open()
            until_us = scene.until_us(at_us, seconds)
            transaction, tick_us = scene.integer(0, 0xFFFF), talk.t_us
            while tick_us < until_us:
                talk.t_us = max(talk.t_us, tick_us + int(scene.rng.normal(0, 400)))
                talk.exchange(
                    say.modbus_request(transaction, _READ, 100, registers),
                    say.modbus_response(transaction, _READ, scene.noise(2 * registers)),
                    think_s=0.002,
                )
                transaction += 1
                tick_us += int(US_PER_S / poll_hz)
            talk.close()

    return play


def snmp_polls(period_s: float) -> Play:
    """Return an activity: the monitoring station asks for counters by SNMP."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.05):
            talk = UdpConversation(scene, MONITOR, scene.device, 161, at_us)
            for _ in range(scene.integer(1, 4)):
                ident = scene.integer(1, 0x7FFF)
                talk.exchange(say.snmp_get(ident), say.snmp_get(ident, scene.noise(scene.integer(4, 40))))
                talk.wait(scene.uniform(0.005, 0.02))

    return play


def syslog(period_s: float, name: str) -> Play:
    """Return an activity: log lines to the monitoring station."""

    def play(scene: Scene) -> None:
        for at_us in scene.random_times_us(period_s):
            talk = UdpConversation(scene, scene.device, MONITOR, 514, at_us)
            for _ in range(scene.integer(1, 5)):
                line = f"<134>1 - {name} runtime - - - cycle time {scene.integer(9000, 11000)} us"
                talk.client_sends(line.encode())
                talk.wait(scene.lognormal(0.3, 0.7, low=0.02, high=3.0))

    return play


def print_jobs(period_s: float, median_bytes: float) -> Play:
    """Return an activity: jobs come in on the raw printing port, with status back."""

    def play(scene: Scene) -> None:
        for at_us in scene.random_times_us(period_s):
            talk = TcpConversation(scene, OPERATOR, scene.device, 9100, at_us).open()
            size = int(scene.lognormal(median_bytes, 0.6, low=20_000, high=4 * median_bytes))
            talk.client_sends(b"\x1b%-12345X@PJL\r\n" + scene.noise(size), pace_s=0.003)
            talk.server_sends(b"@PJL USTATUS JOB\r\nEND\r\n")
            talk.close()

    return play


def ipp_status(period_s: float) -> Play:
    """Return an activity: the print server asks for attributes by IPP over HTTP."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.25):
            talk = TcpConversation(scene, HISTORIAN, scene.device, 631, at_us).open()
            for _ in range(scene.integer(1, 3)):
                ask = say.http_request(
                    "POST", "/ipp/print", scene.device.address, body=scene.noise(scene.integer(150, 400))
                )
                attributes = scene.noise(int(scene.lognormal(3800, 0.2, low=1500, high=8000)))
                talk.exchange(ask, say.http_response("200 OK", attributes, "application/ipp"), think_s=0.04)
            talk.close()

    return play


def discovery_hellos(period_s: float) -> Play:
    """Return an activity: WS-Discovery hellos to the multicast group."""

    def play(scene: Scene) -> None:
        for at_us in scene.times_us(period_s, 0.3):
            talk = UdpConversation(scene, scene.device, WSD_GROUP, 3702, at_us)
            for _ in range(4):
                talk.client_sends(b'<?xml version="1.0"?><Envelope><Body><Hello>' + scene.noise(300).hex().encode())
                talk.wait(scene.uniform(0.05, 0.5))

    return play
