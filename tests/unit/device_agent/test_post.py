"""What is said and kept: order, windows, acknowledgements."""

import pytest

from contract.canonical import sha256_hex
from contract.codec import decode
from contract.messages import BlobChunk, BlobOffer, BlobRequest, Receipt, Status
from contract.topics import ALERT, OFFER, STATUS, UPDATE
from device_agent.post import Post
from device_agent.store.outbox import Outbox, Waiting

STATUS_MESSAGE = Status(device_id="cam-1", session="s-1", state="ready")


class FakeTransport:
    """Records what is published."""

    def __init__(self):
        self.connected = True
        self.sent = []
        self.refuse = False

    def publish(self, topic, payload, *, qos=1, retain=False, extras=None):
        if self.refuse:
            return None
        self.sent.append((topic, payload, qos, retain))
        return len(self.sent)


@pytest.fixture
def transport():
    return FakeTransport()


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "o.db")


@pytest.fixture
def post(transport, outbox):
    return Post("cam-1", outbox, transport)


def keep(post, kind, *keys):
    topic = UPDATE if kind == "update" else ALERT
    post.keep(kind, topic, dict.fromkeys(keys, STATUS_MESSAGE))


def test_saying_uses_topic_qos_and_retention_of_the_table(post, transport):
    post.say(STATUS, STATUS_MESSAGE)
    topic, payload, qos, retain = transport.sent[0]
    assert topic == "kinwatch/1/device/cam-1/status"
    assert (qos, retain) == (1, True)
    assert Status.model_validate_json(payload) == STATUS_MESSAGE


def test_offline_nothing_is_said_and_what_must_arrive_waits(post, transport, outbox):
    transport.connected = False
    post.say(STATUS, STATUS_MESSAGE)
    keep(post, "alert", "a-1")
    post.flush()
    assert transport.sent == []
    assert len(outbox) == 1
    transport.connected = True
    post.flush()
    assert len(transport.sent) == 1


def test_an_alert_ends_with_the_brokers_acknowledgement(post, transport, outbox):
    keep(post, "alert", "a-1")
    post.flush()
    post.flush()
    assert len(transport.sent) == 1, "what is on its way is not sent twice"
    post.delivered(1)
    assert len(outbox) == 0


def test_an_update_waits_for_the_gateways_word(post, transport, outbox):
    keep(post, "update", "u-1")
    post.flush()
    post.delivered(1)
    post.flush()
    assert len(transport.sent) == 1
    assert len(outbox) == 1
    post.resend("u-1")
    post.flush()
    assert transport.sent[0] == transport.sent[1]
    post.settle("u-1")
    assert len(outbox) == 0


def test_only_a_window_is_on_its_way(post, transport):
    keep(post, "alert", *[f"a-{n}" for n in range(40)])
    post.flush()
    assert len(transport.sent) == 16
    post.delivered(3)
    post.flush()
    assert len(transport.sent) == 17


def test_a_message_that_no_broker_can_take_is_given_up(post, transport, outbox):
    transport.refuse = True
    keep(post, "alert", "a-1")
    post.flush()
    assert len(outbox) == 0


def test_a_message_over_its_bound_is_counted(post, outbox):
    huge = Receipt.model_construct(device_id="cam-1", key="x" * 70_000, accepted=True, reason="stored")
    post.keep("alert", ALERT, {"a-1": huge})
    assert post.counters == {"encode-oversize": 1}
    assert len(outbox) == 0


def test_without_a_broker_nothing_is_kept(outbox):
    alone = Post("cam-1", outbox, None)
    keep(alone, "alert", "a-1")
    alone.say(STATUS, STATUS_MESSAGE)
    alone.flush()
    assert len(outbox) == 0


def test_replacing_sends_the_newer_bytes(post, transport, outbox):
    post.replace("report", ALERT, "r-1", STATUS_MESSAGE)
    newer = STATUS_MESSAGE.model_copy(update={"state": "degraded"})
    post.replace("report", ALERT, "r-1", newer)
    post.flush()
    assert len(outbox) == 1
    assert Status.model_validate_json(transport.sent[0][1]) == newer


def test_a_large_update_is_offered_and_supplied_in_chunks(transport, outbox):
    """The offer takes the place of the payload; what comes of the chunks is the payload."""
    now = [0.0]
    post = Post("cam-1", outbox, transport, inline_bytes=4_096, clock=lambda: now[0])
    payload = bytes(range(256)) * 40
    outbox.put(Waiting("round-000001-cam-1-fallback", "update", "t", payload))
    post.flush()
    topic, sent, qos, retain = transport.sent[0]
    offer = decode(BlobOffer, sent)
    assert (topic, qos, retain) == (OFFER.of(device="cam-1"), 1, False)
    assert (offer.key, offer.size_bytes, offer.digest) == ("round-000001-cam-1-fallback", 10_240, sha256_hex(payload))
    post.supply(BlobRequest(digest=offer.digest, wanted=(0, 1, 2)))
    chunks = [decode(BlobChunk, data) for _, data, _, _ in transport.sent[1:]]
    assert b"".join(chunk.data for chunk in chunks) == payload
    post.supply(BlobRequest(digest="0" * 64, wanted=(0,)))
    assert post.counters == {"pull-unknown": 1}


def test_an_update_without_an_answer_is_sent_again_after_a_while(transport, outbox):
    now = [0.0]
    post = Post("cam-1", outbox, transport, clock=lambda: now[0])
    keep(post, "update", "round-000001-cam-1-fallback")
    post.flush()
    post.delivered(1)
    now[0] = 59.0
    post.flush()
    assert len(transport.sent) == 1
    now[0] = 60.0
    post.flush()
    assert len(transport.sent) == 2
