"""The attacks of the testbed by name, each with the form it takes in every traffic family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from testbed.traffic import attacks_inbound as inbound
from testbed.traffic import attacks_outbound as outbound
from testbed.traffic.profiles import MEDIA, ODD, SENSOR
from testbed.traffic.rules import FlowRule
from testbed.traffic.scene import Scene

Strike = Callable[[Scene], FlowRule]
"""Plays one episode of an attack and says how to tell its flows."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack.

    Parameters
    ----------
    label
        Class name of the taxonomy.
    summary
        One line for people.
    episode_s
        Length of one episode, seconds.
    forms
        Traffic family to what plays it; a family that is missing cannot be attacked in this way.
    """

    label: str
    summary: str
    episode_s: float
    forms: Mapping[str, Strike]


def _everywhere(strike: Strike) -> dict[str, Strike]:
    return dict.fromkeys((MEDIA, SENSOR, ODD), strike)


ATTACKS: Final[Mapping[str, Attack]] = {
    "port_scan": Attack("scan", "many ports of the device", 20.0, _everywhere(inbound.port_scan)),
    "telnet_sweep": Attack("scan", "the device tries its neighbours", 22.0, _everywhere(outbound.telnet_sweep)),
    "bruteforce": Attack(
        "bruteforce",
        "passwords by HTTP and RTSP (media), MQTT (sensor), telnet (odd)",
        30.0,
        {MEDIA: inbound.http_guessing, SENSOR: inbound.mqtt_guessing, ODD: inbound.telnet_guessing},
    ),
    "syn_flood": Attack("dos_flood", "half-open connections", 7.0, _everywhere(inbound.syn_flood)),
    "udp_flood": Attack("dos_flood", "datagrams of the size of video", 18.0, _everywhere(inbound.udp_flood)),
    "slow_dos": Attack(
        "slow_dos",
        "connections held open by HTTP (media, odd) or MQTT (sensor)",
        30.0,
        {MEDIA: inbound.slow_http, SENSOR: inbound.slow_mqtt, ODD: inbound.slow_http},
    ),
    "c2_beacon": Attack(
        "c2_beacon",
        "calls to a controller: small messages (media), TLS (sensor), UDP (odd)",
        100.0,
        {MEDIA: outbound.small_message_beacon, SENSOR: outbound.tls_beacon, ODD: outbound.udp_beacon},
    ),
    "exfiltration": Attack(
        "exfiltration",
        "data in DNS and small posts (media), in TLS uploads (sensor, odd)",
        32.0,
        {MEDIA: outbound.trickle_exfiltration, SENSOR: outbound.bulk_exfiltration, ODD: outbound.bulk_exfiltration},
    ),
    "mqtt_abuse": Attack("mqtt_abuse", "publish storms, wildcards, broken packets", 30.0, {SENSOR: inbound.mqtt_abuse}),
    "modbus_injection": Attack("other_attack", "writes to a controller", 30.0, {ODD: inbound.modbus_injection}),
}
