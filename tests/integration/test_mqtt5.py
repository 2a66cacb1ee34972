"""MQTT 5 properties where both sides and the broker have them; the same conversations on 3.1.1 without."""

from queue import Queue

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from contract.canonical import sha256_hex
from contract.codec import decode, encode
from contract.extras import Extras
from contract.messages import BlobChunk, BlobOffer, BlobRequest, Receipt
from contract.topics import CHUNK, FETCH, OFFER, PART, PULL, RECEIPT, RELEASE_OFFER, TASK, UPDATE
from contract.transfer import make_chunk, make_offer, span
from device_agent.transport import Arrived, Link, LinkUp, Transport
from tests.integration.agent_rig import MOSQUITTO, Broker, free_port, wait_for
from tests.integration.fleet import Fleet, Gateway, updates_for

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed (apt-get install mosquitto)"),
]
ME = "cam-0"
DEADLINE_S = 40


@pytest.fixture
def port(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Broker(folder, free_port()).start()
    yield broker.port
    broker.stop()


class Peer:
    """A client that keeps whole messages by topic."""

    def __init__(self, port, protocol, topics):
        self.v5 = protocol == "5"
        self.heard = {}
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="peer", protocol=mqtt.MQTTv5 if self.v5 else mqtt.MQTTv311
        )
        up = Queue()
        self._client.on_subscribe = lambda *_: up.put(True)
        self._client.on_message = lambda _c, _d, m: self.heard.setdefault(m.topic, []).append(m)
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([(topic, 1) for topic in topics])
        self._client.loop_start()
        up.get(timeout=10)

    def say(self, topic, message, *, correlation=None):
        properties = None
        if self.v5 and correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)
            properties.CorrelationData = correlation
            properties.ResponseTopic = "somewhere/else"
        self._client.publish(topic, encode(message), qos=1, properties=properties).wait_for_publish(5)

    def first(self, topic):
        return wait_for(lambda: self.heard.get(topic, [None])[0])

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


def said(message, name):
    return getattr(message.properties, name, None)


@pytest.mark.parametrize(("gateway", "device"), [("5", "5"), ("5", "3.1.1"), ("3.1.1", "5"), ("3.1.1", "3.1.1")])
def test_a_transfer_each_way_with_any_pair_of_protocols(tmp_path, port, gateway, device):
    rounds = f"max_rounds = 1\nmin_devices = 1\ninterval_s = 0\ndeadline_s = {DEADLINE_S}\nmin_rows = 100"
    program = Gateway(tmp_path, port, rounds=rounds)
    text = program.config.read_text()
    program.config.write_text(text.replace("[broker]\n", f'[broker]\ninline_bytes = 4096\nprotocol = "{gateway}"\n'))
    topics = [row.of(device=ME) for row in (PULL, PART, RECEIPT, TASK)] + [RELEASE_OFFER.wildcard]
    peer, fleet = Peer(port, device, topics), Fleet(port, [ME])
    fleet.answers = False
    both = gateway == device == "5"
    try:
        program.start()
        fleet.join(ME, profile=1)
        fleet.wait(lambda: fleet.tasks)
        # A release down: the gateway repeats what the device said.
        (offers,) = [m for t, m in peer.heard.items() if t.endswith("/offer")]
        release = decode(BlobOffer, offers[0].payload)
        peer.say(FETCH.of(device=ME), BlobRequest(digest=release.digest, wanted=(0,)), correlation=b"mine")
        part = peer.first(PART.of(device=ME))
        assert decode(BlobChunk, part.payload).digest == release.digest
        assert said(part, "CorrelationData") == (b"mine" if both else None)
        # An update up: the request says where the chunks go.
        (update,) = updates_for(fleet.tasks[0])
        payload = encode(update)
        offer = make_offer("update", update.update_id, payload, chunk_bytes=49_152)
        peer.say(OFFER.of(device=ME), offer)
        pull = peer.first(PULL.of(device=ME))
        wanted = decode(BlobRequest, pull.payload)
        assert said(pull, "ResponseTopic") == (CHUNK.of(device=ME) if both else None)
        assert said(pull, "CorrelationData") == (f"{offer.digest[:16]}/0".encode() if both else None)
        for index in wanted.wanted:
            start, length = span(offer, index)
            peer.say(CHUNK.of(device=ME), make_chunk(offer.digest, index, payload[start : start + length]))
        receipt = peer.first(RECEIPT.of(device=ME))
        assert decode(Receipt, receipt.payload).accepted
        assert said(receipt, "CorrelationData") == (update.update_id.encode() if both else None)
        # The task ends with its round; what the broker still has to wait is less than the deadline.
        left_s = said(peer.first(TASK.of(device=ME)), "MessageExpiryInterval")
        assert (left_s is not None and left_s <= DEADLINE_S) if both else left_s is None
        assert sha256_hex(payload) == offer.digest
    finally:
        fleet.close()
        peer.close()
        program.kill()


def take(transport, kind):
    found = []

    def met():
        found.extend(event for event in transport.take() if isinstance(event, kind))
        return found

    return wait_for(met)[0]


def test_the_device_says_and_hears_the_properties(port):
    status = f"kinwatch/1/device/{ME}/status"
    peer = Peer(port, "5", [UPDATE.of(device=ME)])
    transport = Transport(Link("127.0.0.1", port, ME, will_topic=status, will_payload=b"{}"), (PULL.of(device=ME),))
    transport.start()
    try:
        assert take(transport, LinkUp).protocol == "5"
        topic = UPDATE.of(device=ME)
        transport.publish(topic, b"x", extras=Extras(60, RECEIPT.of(device=ME), b"key"))
        heard = peer.first(topic)
        assert said(heard, "ResponseTopic") == RECEIPT.of(device=ME)
        assert said(heard, "CorrelationData") == b"key"
        assert said(heard, "MessageExpiryInterval") <= 60
        for correlation in (b"asked", b"x" * 1_000):
            peer.say(PULL.of(device=ME), BlobRequest(digest="a" * 64, wanted=(0,)), correlation=correlation)
            # A correlation without bounds would be a device's memory in a peer's hand.
            assert take(transport, Arrived).correlation == (correlation if len(correlation) < 100 else None)
    finally:
        transport.stop()
        peer.close()
