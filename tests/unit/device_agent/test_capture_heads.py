"""The heads say of any bytes what Scapy's own layers say, field by field."""

import random

import pytest
from scapy.contrib.coap import CoAP
from scapy.contrib.mqtt import MQTT
from scapy.layers.dhcp import BOOTP
from scapy.layers.dns import DNS
from scapy.packet import Packet

from device_agent.capture import heads

LAYERS = [
    (heads.MqttHead, MQTT, "type", "len", 5),
    (heads.CoapHead, CoAP, "ver", "code", 2),
    (heads.DnsHead, DNS, "qr", "arcount", 10),
    (heads.BootpHead, BOOTP, "op", "hops", 4),
]


def read(layer, names, data):
    try:
        return heads.Head(layer, names).read(data)
    except Exception:  # noqa: BLE001 - which one is Scapy's affair
        return None


@pytest.mark.parametrize(("head", "layer", "first", "last", "size"), LAYERS)
def test_a_head_has_the_fields_of_scapys_layer(head, layer, first, last, size):
    names = [field.name for field in layer.fields_desc]
    begin, end = names.index(first), names.index(last) + 1
    whole = type("Cut", (Packet,), {"name": "Cut", "fields_desc": layer.fields_desc[begin:end]})
    names = tuple(names[begin:end])
    assert [field.name for field in head.fields_desc] == list(names)
    rng = random.Random(5)  # noqa: S311 - samples
    samples = [rng.randbytes(rng.randrange(size + 4)) for _ in range(1_000)]
    samples += [bytes([rng.randrange(256)]) + b"\xff" * length + b"\x7f" for length in range(6) for _ in range(8)]
    answers = [read(head, names, data) for data in samples]
    assert answers == [read(whole, names, data) for data in samples]
    assert None in answers
    assert sum(answer is not None for answer in answers) > 100
