"""The benign device profiles: which activities a device has and which family its traffic belongs to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from testbed.traffic import common, media, odd, sensor
from testbed.traffic.common import Play

MEDIA: Final = "media"
SENSOR: Final = "sensor"
ODD: Final = "odd"


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of device.

    Parameters
    ----------
    family
        ``media``, ``sensor`` or ``odd``: the traffic family the profile was written for.
    summary
        One line for people.
    activities
        Name of the activity to what plays it; each has its own randomness.
    """

    family: str
    summary: str
    activities: Mapping[str, Play]


def _media(name: str, activities: dict[str, Play]) -> dict[str, Play]:
    """Add what all media devices do."""
    return {
        **common.basics(name, "_rtsp._tcp.local", media.RTSP_PORT, open_ports=(80, 554)),
        "ssdp": common.ssdp(120.0, "MediaServer"),
        "name_lookups": common.name_lookups(14.0, "api.cloud.example", "time.cloud.example", "fw.cloud.example"),
        "heartbeat": common.heartbeat(17.0),
        "snapshots": media.snapshots(11.0),
        "grid_view": media.grid_view(120.0),
        **activities,
    }


def _sensor(name: str, activities: dict[str, Play]) -> dict[str, Play]:
    """Add what all sensors do."""
    return {
        **common.basics(name, "_http._tcp.local", 80, open_ports=(80, 1883)),
        "name_lookups": common.name_lookups(24.0, "broker.lan", "hub.lan", "time.cloud.example"),
        "dashboard_visits": sensor.dashboard_visits(110.0),
        "idle_dashboard": sensor.idle_dashboard(38.0, 14.0),
        **activities,
    }


PROFILES: Final[Mapping[str, Profile]] = {
    "camera": Profile(
        MEDIA,
        "camera: RTSP video to a recorder, clips to a cloud, stills by HTTP",
        _media(
            "camera",
            {
                "live_view": media.live_view(38.0, 8.0),
                "clip_upload": media.clip_upload(34.0, 90_000),
                "event_subscription": media.event_subscription(30.0, 12.0),
            },
        ),
    ),
    "doorbell": Profile(
        MEDIA,
        "doorbell: two-way audio and video calls, clips, a relay kept open",
        _media(
            "doorbell",
            {
                "calls": media.phone_stream(52.0, 8.0, fps=8.0, scale=0.9),
                "relay_keepalive": media.relay_keepalive(12.0),
                "clip_upload": media.clip_upload(38.0, 70_000),
                "event_subscription": media.event_subscription(42.0, 12.0),
            },
        ),
    ),
    "baby_monitor": Profile(
        MEDIA,
        "baby monitor: audio and video to a phone, a cloud connection with small messages",
        _media(
            "monitor",
            {
                "watching": media.phone_stream(46.0, 9.0, fps=6.0, scale=0.8),
                "live_view": media.live_view(110.0, 7.0, fps=8.0, scale=0.8, tcp_share=0.5),
                "cloud_socket": media.cloud_socket(28.0, 9.0),
                "clip_upload": media.clip_upload(80.0, 60_000),
                "event_subscription": media.event_subscription(45.0, 10.0),
            },
        ),
    ),
    "speaker": Profile(
        MEDIA,
        "speaker: voice to a cloud, announcements, a relay kept open",
        _media(
            "speaker",
            {
                "voice": media.clip_upload(24.0, 60_000),
                "talks": media.phone_stream(90.0, 6.0, fps=4.0, scale=0.5),
                "cloud_socket": media.cloud_socket(22.0, 8.0),
                "relay_keepalive": media.relay_keepalive(20.0),
            },
        ),
    ),
    "temp_sensor": Profile(
        SENSOR,
        "temperature sensor: wakes, publishes by MQTT with QoS 1, sleeps",
        _sensor(
            "temp",
            {
                "mqtt_duty_cycle": sensor.mqtt_duty_cycle(7.5, "temp"),
                "status_polls": sensor.status_polls(9.0),
            },
        ),
    ),
    "smart_plug": Profile(
        SENSOR,
        "smart plug: long MQTT sessions with commands, polled by a hub",
        _sensor(
            "plug",
            {
                "mqtt_session": sensor.mqtt_session(62.0, 55.0, "plug", publish_s=1.6),
                "mqtt_duty_cycle": sensor.mqtt_duty_cycle(14.0, "plug-meter"),
                "status_polls": sensor.status_polls(5.0),
                "update_check": common.heartbeat(85.0),
            },
        ),
    ),
    "air_quality": Profile(
        SENSOR,
        "air-quality sensor: MQTT and CoAP reports",
        _sensor(
            "air",
            {
                "mqtt_duty_cycle": sensor.mqtt_duty_cycle(9.0, "air", messages=(3, 9)),
                "coap_reports": sensor.coap_reports(6.0, "air"),
                "status_polls": sensor.status_polls(12.0),
            },
        ),
    ),
    "plc": Profile(
        ODD,
        "programmable controller: Modbus polled at a steady rate, SNMP, log lines",
        {
            **common.basics("plc", "_modbus._tcp.local", odd.MODBUS_PORT, open_ports=(502, 161)),
            "panel": odd.modbus_polls(30.0, 28.0, poll_hz=3.0, registers=24),
            "historian": odd.modbus_polls(20.0, 16.0, poll_hz=1.0, registers=120, historian=True),
            "snmp_polls": odd.snmp_polls(8.0),
            "syslog": odd.syslog(11.0, "plc"),
        },
    ),
    "printer": Profile(
        ODD,
        "printer: jobs and status polls come in, loud discovery",
        {
            **common.basics("printer", "_ipp._tcp.local", 631, open_ports=(631, 9100)),
            "print_jobs": odd.print_jobs(40.0, 110_000),
            "ipp_status": odd.ipp_status(9.0),
            "snmp_polls": odd.snmp_polls(6.0),
            "discovery_hellos": odd.discovery_hellos(35.0),
            "name_lookups": common.name_lookups(30.0, "printserver.lan", "fw.printer.example"),
        },
    ),
}
