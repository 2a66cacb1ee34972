"""A sensor holds an MQTT connection for 150 s: CONNECT, a publish every 5 s, pings; the active timeout cuts it."""

from scapy.contrib.mqtt import MQTT, MQTTConnack, MQTTConnect, MQTTPublish
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

SENSOR, BROKER, PORT = "10.20.0.5", "10.20.0.1", 51883
UP = Ether(src="02:00:00:00:00:05", dst="02:00:00:00:00:01") / IP(src=SENSOR, dst=BROKER, id=1)
DOWN = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:05") / IP(src=BROKER, dst=SENSOR, id=2)

sent = {"up": 100, "down": 700}


def up(flags, payload=b"", window=502):
    frame = (
        UP / TCP(sport=PORT, dport=1883, flags=flags, seq=sent["up"], ack=sent["down"], window=window) / Raw(payload)
    )
    sent["up"] += len(payload) + ("S" in flags or "F" in flags)
    return frame


def down(flags, payload=b"", window=510):
    frame = (
        DOWN / TCP(sport=1883, dport=PORT, flags=flags, seq=sent["down"], ack=sent["up"], window=window) / Raw(payload)
    )
    sent["down"] += len(payload) + ("S" in flags or "F" in flags)
    return frame


connect = bytes(MQTT(type=1) / MQTTConnect(protoname=b"MQTT", protolevel=4, clientId=b"sensor-5", klive=60))
connack = bytes(MQTT(type=2) / MQTTConnack(sessPresentFlag=0, retcode=0))
publish = bytes(MQTT(type=3, QOS=0) / MQTTPublish(topic=b"lab/5/temperature", value=b'{"t":21.5}'))

FRAMES = [
    (0.0, up("S", window=64240)),
    (0.001, down("SA", window=65160)),
    (0.0015, up("A")),
    (0.002, up("PA", connect)),
    (0.003, down("PA", connack)),
    (0.0035, up("A")),
]
for i in range(1, 30):
    FRAMES.append((5.0 * i, up("PA", publish)))
    FRAMES.append((5.0 * i + 0.0008, down("A")))
    if i % 10 == 0:
        FRAMES.append((5.0 * i + 0.1, up("PA", bytes(MQTT(type=12)))))
        FRAMES.append((5.0 * i + 0.101, down("PA", bytes(MQTT(type=13)))))
FRAMES += [(150.0, up("FPA", bytes(MQTT(type=14)))), (150.001, down("FA")), (150.0012, up("A"))]
