"""Large payloads over a real broker: both directions, interrupted, up to 50 MB."""

import random
import threading
import time

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from contract.canonical import sha256_hex
from contract.codec import decode, encode
from contract.messages import BlobChunk, BlobOffer, BlobRequest, ModelUpdate
from contract.model import DEFAULT_SPEC
from contract.topics import ASSIGNMENT, CHUNK, FETCH, OFFER, PART, PULL, RELEASE_OFFER, TASK, parse
from contract.transfer import make_chunk, make_offer, n_chunks, span
from device_agent.inbound import Reader
from device_agent.post import Post
from device_agent.pulls import Pulls as DevicePulls
from device_agent.store.blobs import BlobStore
from device_agent.store.outbox import Outbox, Waiting
from device_agent.transport import Arrived, Delivered, Link, LinkUp, Transport
from device_agent.trust import Keyring
from gateway.pulls import Handout, Pulls
from gateway.store import Store
from tests.integration.agent_rig import (
    DEVICE,
    LEARN_S,
    MOSQUITTO,
    Agent,
    Broker,
    HandMadeGateway,
    free_port,
    make_assignment,
    make_capture,
    make_task,
    wait_for,
)
from tests.integration.fleet import Fleet, Gateway, updates_for

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="Mosquitto is not installed (apt-get install mosquitto)"),
]
FIFTY_MB = 50_000_000


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def broker(tmp_path, port):
    folder = tmp_path / "broker"
    folder.mkdir()
    made = Broker(folder, port).start()
    yield made
    made.stop()


class Device(threading.Thread):
    """The sending half of an agent: transport, post and outbox in a thread."""

    def __init__(self, port, path):
        super().__init__()
        self.outbox = Outbox(path, max_bytes=2 * FIFTY_MB)
        link = Link("127.0.0.1", port, DEVICE, will_topic=f"kinwatch/1/device/{DEVICE}/status", will_payload=b"{}")
        self.transport = Transport(link, (PULL.of(device=DEVICE),))
        self.post = Post(DEVICE, self.outbox, self.transport)
        self._reader = Reader(DEFAULT_SPEC, Keyring())
        self._stop_it = threading.Event()
        self.chunks_sent = 0

    def run(self):
        self.transport.start()
        while not self._stop_it.is_set():
            for event in self.transport.take():
                match event:
                    case Arrived(topic, payload):
                        request = self._reader.read(topic, payload)
                        self.chunks_sent += len(request.wanted)
                        self.post.supply(request)
                    case Delivered(handle):
                        self.post.delivered(handle)
                    case LinkUp():
                        pass
            self.post.flush()
            time.sleep(0.002)
        self.transport.stop()
        self.outbox.close()

    def end(self):
        self._stop_it.set()
        self.join()


class Puller:
    """The receiving half of a gateway: its pulls and its store."""

    def __init__(self, port, folder, *, stop_after=None):
        self.store = Store(folder)
        self.whole = None
        self.refused = []
        self.chunks = 0
        self._stop_after = stop_after
        self.done = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="puller")
        self._pulls = Pulls(self.store.blobs, self._ask, max_bytes=FIFTY_MB + 1)
        self._client.on_message = self._take
        self._client.on_connect = lambda c, *_: c.subscribe([(OFFER.wildcard, 1), (CHUNK.wildcard, 1)])
        self._client.connect("127.0.0.1", port)

    def run(self, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not self.done.is_set():
            assert time.monotonic() < deadline, f"{self.chunks} chunks"
            self._client.loop(0.2)
        self._client.disconnect()
        self.store.close()

    def _ask(self, device_id, request):
        self._client.publish(PULL.of(device=device_id), encode(request), qos=1)

    def _take(self, _client, _data, message):
        if self.done.is_set():
            return
        parsed = parse(message.topic)
        if parsed.topic is OFFER:
            refusal = self._pulls.offered(parsed.device_id, decode(BlobOffer, message.payload), time.monotonic())
            assert refusal is None
            return
        whole, refusal = self._pulls.took(parsed.device_id, decode(BlobChunk, message.payload), time.monotonic())
        self.refused += [refusal] * (refusal is not None)
        self.chunks += 1
        if whole is not None:
            self.whole = whole
            self.done.set()
        if self.chunks == self._stop_after:
            self.done.set()


def test_fifty_megabytes_arrive_although_the_receiver_starts_over(broker, port, tmp_path):
    """The second receiver knows only the store of the first: it asks for what is missing and not for more."""
    data = random.Random(7).randbytes(FIFTY_MB)  # noqa: S311
    device = Device(port, tmp_path / "outbox.db")
    device.outbox.put(Waiting("round-000001-cam-1-fallback", "update", "unused", data))
    device.start()
    try:
        total = -(-FIFTY_MB // 49_152)
        first = Puller(port, tmp_path / "gateway", stop_after=total // 2)
        first.run()
        sent_before = device.chunks_sent
        second = Puller(port, tmp_path / "gateway")
        device.post.resend("round-000001-cam-1-fallback")
        second.run()
        assert sha256_hex(second.whole) == sha256_hex(data)
        # What was on its way when the first one stopped goes twice: one window, or two if the next was asked for.
        assert device.chunks_sent - sent_before <= total - total // 2 + 16
    finally:
        device.end()


class Fetcher:
    """The receiving half of an agent: its transport and its pulls."""

    def __init__(self, port, path, *, stop_after=None):
        self.whole, self.chunks, self._stop_after = None, 0, stop_after
        link = Link("127.0.0.1", port, DEVICE, will_topic=f"kinwatch/1/device/{DEVICE}/status", will_payload=b"{}")
        offers = RELEASE_OFFER.of(digest=RELEASE_DIGEST)
        self._transport = Transport(link, (PART.of(device=DEVICE), offers))
        self._reader = Reader(DEFAULT_SPEC, Keyring())
        self._pulls = DevicePulls(BlobStore(path), self._ask, max_bytes=FIFTY_MB)

    def run(self, seconds=90.0):
        self._transport.start()
        deadline = time.monotonic() + seconds
        while self.whole is None and self.chunks != self._stop_after:
            assert time.monotonic() < deadline, f"{self.chunks} chunks"
            for event in self._transport.take():
                if isinstance(event, Arrived):
                    self._take(self._reader.read(event.topic, event.payload))
            self._pulls.tick(time.monotonic())
            time.sleep(0.002)
        self._transport.stop()
        self._pulls.close()

    def _ask(self, request):
        self._transport.publish(FETCH.of(device=DEVICE), encode(request))

    def _take(self, message):
        if isinstance(message, BlobOffer):
            self._pulls.offered(message, time.monotonic())
        elif isinstance(message, BlobChunk) and self.whole is None and self.chunks != self._stop_after:
            self.chunks += 1
            self.whole = self._pulls.took(message, time.monotonic())


RELEASE_DIGEST = "d" * 64


@pytest.mark.timeout(200)
def test_fifty_megabytes_go_down_although_the_device_starts_over(broker, port, tmp_path):
    """What the gateway hands out, chunk by chunk; the second process of the device asks for what is missing."""
    data = random.Random(11).randbytes(FIFTY_MB)  # noqa: S311
    handout = Handout()
    offer = handout.offer(RELEASE_DIGEST, data, chunk_bytes=49_152)
    client = Client(CallbackAPIVersion.VERSION2, client_id="hand-out")
    handed = []

    def serve(_client, _data, message):
        for chunk in handout.chunks(decode(BlobRequest, message.payload)):
            handed.append(chunk.index)
            client.publish(PART.of(device=DEVICE), encode(chunk), qos=1)

    client.on_message = serve
    client.connect("127.0.0.1", port)
    client.subscribe(FETCH.of(device=DEVICE), 1)
    client.loop_start()
    try:
        client.publish(RELEASE_OFFER.of(digest=RELEASE_DIGEST), encode(offer), qos=1, retain=True)
        total = -(-FIFTY_MB // 49_152)
        first = Fetcher(port, tmp_path / "blobs.db", stop_after=total // 2)
        first.run()
        before = len(handed)
        second = Fetcher(port, tmp_path / "blobs.db")
        second.run()
        key, whole = second.whole
        assert key == RELEASE_DIGEST
        assert sha256_hex(whole) == offer.digest
        assert second.chunks <= total - total // 2 + 16
        assert len(handed) - before <= total - total // 2 + 32
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.fixture
def gateway_program(tmp_path, port, broker):
    program = Gateway(
        tmp_path, port, rounds="max_rounds = 1\nmin_devices = 2\ninterval_s = 0\ndeadline_s = 20\nmin_rows = 100"
    )
    text = program.config.read_text()
    program.config.write_text(text.replace("[broker]\n", "[broker]\ninline_bytes = 4096\n"))
    program.start()
    yield program
    if program.process.poll() is None:
        program.kill()


def test_the_gateway_pulls_an_update_and_hands_out_a_release(gateway_program, port):
    """Killed in the middle of the pull, it goes on with the chunks that it has; the round closes with both updates."""
    fleet = Fleet(port, ["cam-0", "cam-1"])
    fleet.answers = False
    asked, parts, offers = [], [], {}

    def more(message):
        parsed = parse(message.topic)
        if parsed.topic is PULL:
            asked.append(decode(BlobRequest, message.payload))
        elif parsed.topic is PART:
            parts.append(decode(BlobChunk, message.payload))
        elif parsed.topic is RELEASE_OFFER and message.payload:
            offer = decode(BlobOffer, message.payload)
            offers[offer.key] = offer

    extra = Client(CallbackAPIVersion.VERSION2, client_id="extra")
    extra.on_message = lambda _c, _d, m: more(m)
    extra.connect("127.0.0.1", port)
    extra.subscribe([(PULL.wildcard, 1), (PART.wildcard, 1), (RELEASE_OFFER.wildcard, 1)])
    extra.loop_start()
    try:
        for device in fleet.device_ids:
            fleet.join(device, profile=1)
        fleet.wait(lambda: len(fleet.tasks) == 2)
        # The release to start from is over the limit, so it is offered; a device pulls it.
        base = fleet.tasks[0].targets[0].base
        offer = wait_for(lambda: offers.get(base))
        total = n_chunks(offer)
        assert total > 8
        for start in range(0, total, 4):
            wanted = tuple(range(start, min(start + 4, total)))
            extra.publish(FETCH.of(device="cam-0"), encode(BlobRequest(digest=offer.digest, wanted=wanted)), qos=1)
        wait_for(lambda: len({part.index for part in parts}) == total)
        data = b"".join(part.data for part in sorted({p.index: p for p in parts}.values(), key=lambda p: p.index))
        assert sha256_hex(data) == offer.digest
        # One update in one piece, the other in chunks, with a kill after half of them.
        tasks = {task.device_id: task for task in fleet.tasks}
        (whole,) = updates_for(tasks["cam-1"])
        payload = encode(whole)
        up = make_offer("update", whole.update_id, payload, chunk_bytes=4_096)
        fleet._client.publish(OFFER.of(device="cam-1"), encode(up), qos=1)
        wait_for(lambda: asked)
        send = lambda index: fleet._client.publish(  # noqa: E731
            CHUNK.of(device="cam-1"), encode(make_chunk(up.digest, index, payload[slice(*ends(up, index))])), qos=1
        ).wait_for_publish(5)
        for index in asked[0].wanted[:4]:
            send(index)
        time.sleep(0.5)
        gateway_program.kill()
        asked.clear()
        gateway_program.start()
        fleet.answer(tasks["cam-0"])
        deadline = time.monotonic() + 30
        sent = set()
        while not any(r.key == whole.update_id for r in fleet.receipts):
            assert time.monotonic() < deadline, gateway_program.log.read_text()[-2_000:]
            for request in asked:
                for index in set(request.wanted) - sent:
                    send(index)
                    sent.add(index)
            time.sleep(0.05)
        assert not sent & {0, 1, 2, 3}
        (receipt,) = [r for r in fleet.receipts if r.key == whole.update_id]
        assert receipt.accepted
    finally:
        extra.disconnect()
        extra.loop_stop()
        fleet.close()


def ends(offer, index):
    offset, length = span(offer, index)
    return offset, offset + length


def test_an_agent_pulls_its_release_and_is_pulled_from(broker, port, tmp_path):
    """A real agent with a limit of 4 KiB: release down and update up, ten chunks each."""
    learn, _ = make_capture(tmp_path)
    folder = tmp_path / "agent"
    folder.mkdir()
    agent = Agent(folder, port=port, extra=f"[labels]\nbaseline_s = {LEARN_S}\n")
    toml = folder / "agent.toml"
    toml.write_text(toml.read_text().replace("[capture]", "inline_bytes = 4096\n[capture]", 1))
    hand = HandMadeGateway(port)
    store = Store(tmp_path / "gateway")
    whole = {}

    def ask(device_id, request):
        hand.say(PULL, request, device=device_id)

    pulls = Pulls(store.blobs, ask)
    try:
        hand.online()
        agent.start()
        agent.feed(learn)
        release = {}
        plain_say = hand.say

        def say(topic, message, **parts):
            # The release goes into the drawer; only its offer is published.
            release[parts["digest"]] = encode(message)
            made = make_offer("release", parts["digest"], release[parts["digest"]], chunk_bytes=4_096)
            release[made.digest] = release[parts["digest"]]
            plain_say(RELEASE_OFFER, made, digest=parts["digest"])
            release["offer"] = made

        hand.say = say
        fallback = hand.publish_release(5)
        hand.say = plain_say
        hand.say(ASSIGNMENT, make_assignment(1, fallback), device=DEVICE)
        served = set()

        def serve():
            for request in hand.of(BlobRequest):
                for index in set(request.wanted) - served:
                    offset, end = ends(release["offer"], index)
                    hand.say(
                        PART, make_chunk(request.digest, index, release[request.digest][offset:end]), device=DEVICE
                    )
                    served.add(index)
            return f"digest={fallback.digest[:12]}" in agent.log()

        wait_for(serve, 40)
        assert len(served) == n_chunks(release["offer"]) > 8
        hand.say(TASK, make_task(fallback), device=DEVICE)
        up = hand.first(BlobOffer)
        pulls.offered(DEVICE, up, time.monotonic())
        taken = set()

        def collect():
            for chunk in hand.of(BlobChunk):
                if chunk.index not in taken:
                    taken.add(chunk.index)
                    data, refusal = pulls.took(DEVICE, chunk, time.monotonic())
                    assert refusal is None
                    if data is not None:
                        whole["update"] = decode(ModelUpdate, data)
            return whole.get("update")

        update = wait_for(collect, 30)
        assert update.update_id == "round-000001-cam-1-fallback"
        assert sha256_hex(update.delta) == update.delta_digest
    finally:
        agent.kill()
        hand.close()
        store.close()
